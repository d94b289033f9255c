"""torchvision as an oracle, where it is installed."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any

import pytest

from lilliput.zoo import libraries


@pytest.fixture(scope="session")
def torchvision() -> ModuleType | Any:
    """torchvision, perhaps without its compiled part, which does not load beside a build of PyTorch for the CPU."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed: pip install --no-deps torchvision==0.28.0")
    return libraries.require("torchvision")
