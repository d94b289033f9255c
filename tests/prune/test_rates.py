"""Ways to share a rate: each removes what was asked, spares every layer something, and keeps its own rule."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lilliput.prune.rates import Part, groups_lost, shares

SHAPES = [(16, 3, 3, 3), (16, 16, 3, 3), (32, 16, 3, 3), (64, 32, 1, 1), (10, 64)]


def parts(seed: int = 0, size: int = 1) -> list[Part]:
    """Layers of a small network with random scores."""
    draw = torch.Generator().manual_seed(seed)
    return [
        Part(f"l{i}", torch.rand(torch.Size(s).numel() // size, generator=draw) * (i + 1), size, s)
        for i, s in enumerate(SHAPES)
    ]


def cost(part: Part, groups: int) -> float:
    """A made-up rise of the loss: convex, and different in every layer."""
    return (int(part.site[1:]) + 1) * (groups / len(part.scores)) ** 3


def removed(lost: list[int], layers: list[Part]) -> float:
    """The share of all weights that goes."""
    return sum(n * p.size for n, p in zip(lost, layers, strict=True)) / sum(p.weights for p in layers)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from([n for n in shares if n != "sensitivity"]), st.floats(0, 0.98), st.integers(0, 5))
def test_the_share_that_was_asked_for_goes(how: str, rate: float, seed: int) -> None:
    layers = parts(seed)
    lost = groups_lost(how, layers, rate, cost)
    assert all(0 <= n < len(p.scores) for n, p in zip(lost, layers, strict=True))
    assert removed(lost, layers) == pytest.approx(rate, abs=2e-3)


@pytest.mark.parametrize("rate", [0.5, 0.8, 0.9, 0.95])
def test_sensitivity_reaches_its_target_and_spares_the_sensitive(rate: float) -> None:
    layers = parts()
    lost = groups_lost("sensitivity", layers, rate, cost)
    assert removed(lost, layers) == pytest.approx(rate, abs=2e-3)
    even = groups_lost("uniform", layers, rate, cost)
    assert sum(map(cost, layers, lost)) <= sum(map(cost, layers, even)) + 1e-2


def test_the_knapsack_finds_the_cheapest_choice() -> None:
    from lilliput.prune.rates import _knapsack

    gains = [[0.0, 0.2, 0.3], [0.0, 0.25, 0.6], [0.0, 0.3, 0.45]]
    costs = [[0.0, 1.0, 4.0], [0.0, 0.5, 3.0], [0.0, 2.0, 2.5]]
    found = _knapsack(gains, costs)
    every = [
        (sum(c[k] for c, k in zip(costs, ks, strict=True)), ks)
        for ks in itertools.product(range(3), repeat=3)
        if sum(g[k] for g, k in zip(gains, ks, strict=True)) >= 1
    ]
    assert tuple(found) == min(every)[1]


def test_global_is_one_threshold() -> None:
    layers = parts()
    lost = groups_lost("global", layers, 0.3, cost)
    gone = torch.cat([p.scores.sort().values[:n] for p, n in zip(layers, lost, strict=True)])
    stay = torch.cat([p.scores.sort().values[n:] for p, n in zip(layers, lost, strict=True)])
    assert gone.max() <= stay.min()


def test_erk_is_the_formula() -> None:
    layers = parts()
    lost = groups_lost("erk", layers, 0.8, cost)
    density = [1 - n / len(p.scores) for n, p in zip(lost, layers, strict=True)]
    raw = [sum(p.shape) / p.weights for p in layers]
    free = [(d / r) for d, r in zip(density, raw, strict=True) if d < 1]
    assert max(free) / min(free) == pytest.approx(1, rel=0.02)
    assert all(d == 1 for d, r in zip(density, raw, strict=True) if r * min(free) > 1.02)


def test_lamp_is_the_formula() -> None:
    layers = [Part("a", torch.tensor([1.0, 2.0, 4.0]), 1, (3, 1)), Part("b", torch.tensor([10.0, 30.0]), 1, (2, 1))]
    # scores: 1/7, 2/6, 1 and 10/40, 1: the second layer loses one weight before the first loses two
    assert groups_lost("lamp", layers, 0.2, cost) == [1, 0]
    assert groups_lost("lamp", layers, 0.4, cost) == [1, 1]
    assert groups_lost("lamp", layers, 0.6, cost) == [2, 1]
    squares = [Part(p.site, p.scores.sqrt(), 1, p.shape, power=1) for p in layers]
    assert groups_lost("lamp", squares, 0.4, cost) == [1, 1]


def test_groups_count_with_their_weights() -> None:
    layers = [*parts()[:2], Part("l2", torch.rand(32), 144, (32, 16, 3, 3))]
    lost = groups_lost("global", layers, 0.5, cost)
    assert removed(lost, layers) == pytest.approx(0.5, abs=0.05)
