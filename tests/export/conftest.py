"""Made-up times of dense and packed layers, instead of measured ones."""

from __future__ import annotations

import pytest

from lilliput.kernels import break_even


@pytest.fixture
def faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed layers are faster than dense ones."""
    monkeypatch.setattr(break_even, "_known", {})
    monkeypatch.setattr(break_even, "_measure", lambda layer, size: (2.0, 1.0))


@pytest.fixture
def slower(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not."""
    monkeypatch.setattr(break_even, "_known", {})
    monkeypatch.setattr(break_even, "_measure", lambda layer, size: (1.0, 2.0))
