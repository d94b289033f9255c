"""Carving is stratified, disjoint, complete, and repeats itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lilliput.data.splits import Options, carve
from lilliput.errors import ConfigError, DataError

FRACTIONS = st.floats(0.01, 0.99)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=200), FRACTIONS, st.integers(0, 9))
def test_laws_of_carving(labels: list[int], fraction: float, seed: int) -> None:
    y = torch.tensor(labels)
    if int(y.bincount().max()) < 2:
        with pytest.raises(DataError, match="no class has 2 images"):
            carve(y, fraction, seed)
        return
    keep, held = carve(y, fraction, seed)
    assert sorted(keep.tolist() + held.tolist()) == list(range(len(y)))
    assert keep.tolist() == sorted(keep.tolist()) and held.tolist() == sorted(held.tolist())
    for label in y.unique():
        whole, part = int((y == label).sum()), int((y[held] == label).sum())
        assert (part == 0) == (whole == 1) and part < whole
        assert whole == 1 or abs(part - fraction * whole) <= 1
    again = carve(y, fraction, seed)
    assert torch.equal(again[0], keep) and torch.equal(again[1], held)


def test_the_seed_decides_and_the_global_generator_does_not() -> None:
    y = torch.arange(100) % 2
    torch.manual_seed(0)
    first, state = carve(y, 0.2, 0)[1], torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(carve(y, 0.2, 0)[1], first) and not torch.equal(carve(y, 0.2, 1)[1], first)
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 2.0])
def test_a_fraction_is_between_0_and_1(fraction: float) -> None:
    with pytest.raises(ConfigError, match="val_fraction"):
        carve(torch.arange(9) % 2, fraction, 0)


@pytest.mark.parametrize("size", [(0, 4), (4, -1), (4, 5000)])
def test_a_size_is_some_pixels(size: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="size"):
        Options(size)
