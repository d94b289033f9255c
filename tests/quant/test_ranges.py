"""Rules for ranges, and the statistics they read."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lilliput.errors import DataError
from lilliput.quant.integer import Affine
from lilliput.quant.quantize import grid
from lilliput.quant.ranges import BINS, Seen, ranges


def seen(*batches: Tensor) -> Seen:
    stats = Seen()
    for batch in batches:
        stats.see(batch)
    return stats


def noise(seed: int, size: float, shift: float = 0.0) -> Tensor:
    return torch.randn(1000, generator=torch.Generator().manual_seed(seed)) * size + shift


@given(seed=st.integers(0, 1000), sizes=st.lists(st.sampled_from([1e-3, 0.7, 1.0, 30.0]), min_size=1, max_size=4))
def test_histograms_do_not_depend_on_the_order_of_batches(seed: int, sizes: list[float]) -> None:
    batches = [noise(seed + i, size) for i, size in enumerate(sizes)]
    one, other = seen(*batches), seen(*reversed(batches))
    assert one.reach == other.reach and (one.low, one.high) == (other.low, other.high)
    assert one.counts.sum() == other.counts.sum() == 1000 * len(batches)
    moved = (one.counts - other.counts).abs().sum()
    assert moved <= 0.01 * one.counts.sum()  # values at the edge of two bins


@given(seed=st.integers(0, 1000), rule=st.sampled_from(sorted(ranges)), shift=st.sampled_from([-2.0, 0.0, 0.5]))
def test_every_rule_gives_an_interval_inside_what_was_seen(seed: int, rule: str, shift: float) -> None:
    stats = seen(noise(seed, 1.0, shift), noise(seed + 1, 2.0, shift))
    low, high = ranges[rule](stats, 256)
    assert min(stats.low, 0) - 1e-6 <= low < high <= max(stats.high, 0) + 1e-6


def test_minmax_and_average() -> None:
    stats = seen(torch.tensor([0.0, 1.0]), torch.tensor([-1.0, 3.0]))
    assert ranges["minmax"](stats, 256) == (-1, 3)
    assert ranges["average"](stats, 256) == pytest.approx((-0.1, 1.2))


def test_percentile_leaves_outliers_out() -> None:
    x = torch.rand(100_000)
    x[0], x[1] = 50.0, -50.0
    low, high = ranges["percentile"](seen(x), 256)
    assert -2 * 128 / BINS <= low <= 0 and 0.99 <= high <= 1 + 2 * 128 / BINS


@pytest.mark.parametrize("bits", [4, 8])
def test_least_error_beats_everything_seen_where_there_is_an_outlier(bits: int) -> None:
    x = torch.cat([noise(0, 1.0).abs().repeat(20), torch.tensor([40.0])])
    stats = seen(x)

    def error(span: tuple[float, float]) -> float:
        return float((Affine.like(x, **grid(*span, bits))(x) - x).square().mean())

    assert ranges["mse"](stats, 2**bits)[1] < 40
    assert error(ranges["mse"](stats, 2**bits)) < error(ranges["minmax"](stats, 2**bits))


@given(seed=st.integers(0, 1000), spike=st.sampled_from([-0.8, 0.5, 1.5]), bits=st.sampled_from([2, 4, 8]))
def test_divergence_cuts_few_values_however_tall_a_spike_is(seed: int, spike: float, bits: int) -> None:
    """The black of an image and the 6 of ReLU6 once drew the range to themselves, and half of the right answers were lost."""
    x = torch.cat([noise(seed, 1.0), torch.full((3000,), spike)])
    low, high = ranges["kl"](seen(x), 2**bits)
    cut = ((x < low - 2 / BINS) | (x > high + 2 / BINS)).double().mean()
    assert cut <= 2.0**-bits


def test_a_tensor_of_zeros_has_a_range() -> None:
    stats = seen(torch.zeros(10))
    for rule in ranges:
        assert ranges[rule](stats, 256) == (0, 0)
    assert grid(0, 0, 8)["scale"] > 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_an_error(bad: float) -> None:
    with pytest.raises(DataError, match="calibration images make activations"):
        seen(torch.tensor([1.0, bad]))
