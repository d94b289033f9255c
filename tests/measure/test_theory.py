"""The formulas of the papers against layers that really run."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lilliput.measure import theory
from lilliput.measure.counts import profile
from lilliput.measure.theory import Cost

SMALL = st.integers(1, 4)
ODD = st.sampled_from([1, 3, 5])
SIZE = 6


def run(*layers: nn.Module) -> Cost:
    """What layers cost on a square of SIZE pixels, without biases."""
    first = next(m for m in layers[0].modules() if isinstance(m, nn.Conv2d))
    found = profile(nn.Sequential(*layers), torch.randn(1, first.in_channels, SIZE, SIZE))
    return Cost(found.params, found.macs)


def conv(c1: int, c2: int, k: int | tuple[int, int], groups: int = 1, stride: int = 1) -> nn.Conv2d:
    sides = (k, k) if isinstance(k, int) else k
    return nn.Conv2d(c1, c2, sides, stride, (sides[0] // 2, sides[1] // 2), groups=groups, bias=False)


@settings(max_examples=25)
@given(SMALL, SMALL, ODD, SMALL)
def test_convolutions(c1: int, c2: int, k: int, groups: int) -> None:
    a, b = c1 * groups, c2 * groups
    assert theory.convolution(a, b, k, SIZE, SIZE) == run(conv(a, b, k))
    assert theory.convolution(a, b, k, SIZE, SIZE, groups=groups) == run(conv(a, b, k, groups))
    assert theory.depthwise(c1, k, SIZE, SIZE, multiplier=c2) == run(conv(c1, c1 * c2, k, c1))
    dense, grouped = (theory.convolution(a, b, k, SIZE, SIZE, groups=g) for g in (1, groups))
    assert (dense.params, dense.macs) == (grouped.params * groups, grouped.macs * groups)


@settings(max_examples=25)
@given(SMALL, SMALL, ODD)
def test_separable_costs_1_over_c2_plus_1_over_k_squared(c1: int, c2: int, k: int) -> None:
    separable, standard = theory.separable(c1, c2, k, SIZE, SIZE), theory.convolution(c1, c2, k, SIZE, SIZE)
    assert separable == run(conv(c1, c1, k, c1), conv(c1, c2, 1))
    ratio = theory.separable_ratio(c2, k)
    assert separable.macs == ratio * standard.macs and separable.params == ratio * standard.params
    assert 1 / ratio < theory.separable_gain_limit(k)


@given(st.sampled_from([0.25, 0.5, 0.75, 1.0]), st.sampled_from([4, 6, 8]))
def test_multipliers(width: float, pixels: int) -> None:
    c1, c2, size = 8, 16, 8
    full = theory.with_multipliers(c1, c2, 3, size)
    narrow, small = (
        theory.with_multipliers(c1, c2, 3, size, **{k: v}) for k, v in (("width", width), ("resolution", pixels / size))
    )
    depthwise = theory.depthwise(c1, 3, size, size).macs
    assert narrow.macs == width * depthwise + theory.width_effect(width) * (full.macs - depthwise)
    assert small.macs == theory.resolution_effect(pixels / size) * full.macs and small.params == full.params
    a, b = int(width * c1), int(width * c2)
    found = profile(nn.Sequential(conv(a, a, 3, a), conv(a, b, 1)), torch.randn(1, a, pixels, pixels))
    assert Cost(found.params, found.macs) == theory.with_multipliers(c1, c2, 3, size, width=width, resolution=pixels / size)


@settings(max_examples=20)
@given(SMALL, SMALL, SMALL, SMALL, ODD)
def test_products_of_smaller_kernels(c1: int, c2: int, r1: int, r2: int, k: int) -> None:
    pair = run(conv(c1, r1, (k, 1)), conv(r1, c2, (1, k)))
    assert theory.spatial_pair(c1, c2, k, SIZE, SIZE, middle=r1) == pair
    tucker = run(conv(c1, r1, 1), conv(r1, r2, k), conv(r2, c2, 1))
    assert theory.tucker2(c1, c2, k, SIZE, SIZE, ranks=(r1, r2)) == tucker
    cp = run(conv(c1, r1, 1), conv(r1, r1, (k, 1), r1), conv(r1, r1, (1, k), r1), conv(r1, c2, 1))
    assert theory.cp(c1, c2, k, SIZE, SIZE, rank=r1) == cp
    assert theory.shift(c1, c2, SIZE, SIZE) == run(conv(c1, c2, 1))


@given(st.integers(1, 64), ODD)
def test_a_pair_costs_2_over_k(c: int, k: int) -> None:
    pair, full = theory.spatial_pair(c, c, k, SIZE, SIZE), theory.convolution(c, c, k, SIZE, SIZE)
    assert k * pair.macs == 2 * full.macs


@given(st.integers(1, 50), st.integers(1, 50))
def test_low_rank_pays_below_the_break_even_rank(n: int, m: int) -> None:
    limit = theory.break_even_rank(n, m)
    assert theory.low_rank(n, m, math.ceil(limit)).params >= n * m
    assert theory.low_rank(n, m, math.ceil(limit) - 1).params < n * m
    found = profile(nn.Sequential(nn.Linear(n, 3, bias=False), nn.Linear(3, m, bias=False)), torch.randn(1, n))
    assert theory.low_rank(n, m, 3) == Cost(found.params, found.macs)


@settings(max_examples=20)
@given(SMALL, SMALL, SMALL, ODD)
def test_blocks(c: int, wide: int, groups: int, k: int) -> None:
    outer, inner = c * groups, wide * groups
    unit = run(
        conv(outer, inner, 1, groups),
        nn.ChannelShuffle(groups),
        conv(inner, inner, 3, inner),
        conv(inner, outer, 1, groups),
    )
    assert theory.grouped_with_shuffle(outer, inner, SIZE, SIZE, groups=groups) == unit
    hidden = c * wide
    bottleneck = run(conv(c, hidden, 1), conv(hidden, hidden, k, hidden), conv(hidden, c, 1))
    assert theory.inverted_residual(c, c, k, SIZE, SIZE, expansion=wide) == bottleneck


class Ghost(nn.Module):
    def __init__(self, c1: int, c2: int, k: int, ratio: int) -> None:
        super().__init__()
        own = c2 // ratio
        self.own, self.cheap = conv(c1, own, k), conv(own, own * (ratio - 1), 3, own)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.own(x)
        return torch.cat([x, self.cheap(x)], 1)


@pytest.mark.parametrize("ratio", [2, 4])
def test_ghosts_and_gates(ratio: int) -> None:
    assert theory.ghost(6, 16, 3, SIZE, SIZE, ratio=ratio) == run(Ghost(6, 16, 3, ratio))
    gate = nn.Sequential(nn.Linear(16, 16 // ratio, bias=False), nn.Linear(16 // ratio, 16, bias=False))
    found = profile(gate, torch.randn(1, 16))
    assert theory.squeeze_excite(16, reduction=ratio) == Cost(found.params, found.macs)


@given(st.integers(1, 8), st.integers(1, 64))
def test_memory_access_is_least_for_equal_widths_and_grows_with_groups(exponent: int, pixels: int) -> None:
    """ShuffleNetV2's guidelines 1 and 2, at equal MACs: c₁·c₂ is kept, then c₁·c₂/g."""
    c = 2**exponent
    even = theory.memory_access(c, c, pixels, pixels)
    assert all(even <= theory.memory_access(c // d, c * d, pixels, pixels) for d in (2**i for i in range(exponent + 1)))
    for g in (1, 2, 4):
        assert theory.memory_access(c, c * g, pixels, pixels, groups=g) <= theory.memory_access(
            c, 2 * c * g, pixels, pixels, groups=2 * g
        )


def test_costs_add_and_mix_with_nothing_else() -> None:
    assert Cost(1, 2) + Cost(3, 4) == Cost(4, 6)
    with pytest.raises(TypeError):
        Cost(1, 2) + 3  # type: ignore[operator]
