"""torchvision as an oracle, where it is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="session")
def torchvision() -> Iterator[ModuleType]:
    """torchvision without its compiled part, which does not load beside a build of PyTorch for the CPU.

    Its import asks for two operators of that part; classification networks never call them.
    """
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed: pip install --no-deps torchvision==0.28.0")
    library = torch.library.Library("torchvision", "DEF")  # the operators last as long as this object
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

    yield torchvision
    del library
