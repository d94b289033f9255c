"""Ranks from spectra, noise and budgets."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lilliput.factor import forms
from lilliput.factor.budget import Choice, allocations, floor
from lilliput.factor.ranks import Offer
from lilliput.factor.shape import shape
from lilliput.factor.sites import Site
from lilliput.factor.vbmf import vbmf_rank


@given(
    rows=st.integers(8, 60), more=st.floats(1, 4), share=st.floats(0, 0.4), noise=st.floats(0.02, 0.2), seed=st.integers(0, 99)
)
@settings(max_examples=40, deadline=None)
def test_vbmf_finds_the_rank_under_the_noise(rows: int, more: float, share: float, noise: float, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    columns, rank = int(rows * more), max(1, int(share * rows))
    left, _ = torch.linalg.qr(torch.randn(rows, rank, generator=draw, dtype=torch.double))
    right, _ = torch.linalg.qr(torch.randn(columns, rank, generator=draw, dtype=torch.double))
    signal = left @ right.T * (rows * columns) ** 0.5
    seen = signal + noise * torch.randn(rows, columns, generator=draw, dtype=torch.double)
    assert vbmf_rank(torch.linalg.svdvals(seen) ** 2, rows, columns) == rank


@pytest.mark.parametrize("values", [[0.0, 0.0], [1.0], [1.0] * 8, [1e-30] * 4, [5.0, 0.0, 0.0, 0.0], [1e20, 1.0, 1e-20]])
def test_vbmf_is_never_empty(values: list[float]) -> None:
    assert 1 <= vbmf_rank(torch.tensor(values), len(values), 3 * len(values)) <= len(values)


@given(seed=st.integers(0, 50), scale=st.floats(1e-4, 1e4))
@settings(max_examples=20, deadline=None)
def test_vbmf_does_not_depend_on_the_scale(seed: int, scale: float) -> None:
    matrix = torch.randn(20, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.double) @ torch.ones(3, 50).double()
    matrix += torch.randn(20, 50, generator=torch.Generator().manual_seed(seed), dtype=torch.double) * 0.3
    values = torch.linalg.svdvals(matrix) ** 2
    assert vbmf_rank(values, 20, 50) == vbmf_rank(values * scale, 20, 50)


def offer(form: str = "svd", multiple: int = 1, size: tuple[int, int] = (8, 24)) -> Offer:
    torch.manual_seed(0)
    layer = nn.Conv2d(*size, 3, padding=1)
    site = Site("it", layer, shape(layer), ((10, 10),))
    return Offer(site, forms[form], dict(forms[form].options), layer.weight.detach(), multiple)


@pytest.mark.parametrize("form", ["svd", "spatial", "tucker2", "tt", "separable", "group", "cp"])
def test_energy_and_error_are_kept(form: str) -> None:
    it = offer(form)
    for share in (0.5, 0.9, 1.0):
        assert it.energy(share).error <= len(it.modes) * (1 - share) + 1e-9
    for error in (0.1, 0.5, 0.9):
        assert it.within(error).error <= error**2 + 1e-9
    assert it.energy(1.0).ranks == it.given("full").ranks == it.largest


def test_given_ranks_are_numbers_shares_and_words() -> None:
    it = offer("tucker2")
    assert it.largest == (24, 8)
    assert it.given(0.5).ranks == (12, 4) and it.given(6).ranks == (6, 6) and it.given((10, 2)).ranks == (10, 2)
    assert offer("tucker2", multiple=8).given(0.3).ranks == (8, 8)
    assert all(1 <= r <= most for r, most in zip(it.given("vbmf").ranks, it.largest, strict=True))
    assert it.vbmf(1.0).macs <= it.vbmf(0.5).macs <= it.given("full").macs


@pytest.mark.parametrize("form", sorted(forms))
def test_a_ladder_climbs_from_cheap_and_poor_to_dear_and_good(form: str) -> None:
    rungs = offer(form).ladder()
    assert len(rungs) == len({r.ranks for r in rungs}) > 3
    by_cost = sorted(rungs, key=lambda r: r.macs)
    assert by_cost[0].error > by_cost[-1].error
    assert len({r.ranks for r in offer(form, multiple=4).ladder()}) <= len(rungs)


choices = st.lists(
    st.lists(st.builds(Choice, st.floats(0.01, 1), st.floats(0, 1)), min_size=1, max_size=4), min_size=1, max_size=4
)


@pytest.mark.parametrize("how", sorted(allocations))
@given(layers=choices, share=st.floats(0, 1.2))
@settings(max_examples=60, deadline=None)
def test_a_budget_is_never_exceeded_and_met_where_it_can_be(how: str, layers: list[list[Choice]], share: float) -> None:
    layers = [[Choice(1.0, 0.0), *row] for row in layers]
    budget = share * len(layers)
    picked = allocations[how](layers, budget)
    if picked is None:
        assert floor(layers) > budget * (1 - 1e-9)
    else:
        assert sum(row[i].cost for row, i in zip(layers, picked, strict=True)) <= budget * (1 + 1e-9)


@given(layers=choices, share=st.floats(0.1, 1))
@settings(max_examples=60, deadline=None)
def test_the_sum_of_errors_is_the_least_there_is(layers: list[list[Choice]], share: float) -> None:
    budget = floor(layers) + share * (sum(max(c.cost for c in row) for row in layers) - floor(layers))
    picked = allocations["sum"](layers, budget)
    assert picked is not None
    ours = sum(row[i].error for row, i in zip(layers, picked, strict=True))
    tight = floor(layers) + (budget - floor(layers)) * 0.999  # the units that costs are rounded up to
    able = [sum(c.error for c in row) for row in itertools.product(*layers) if sum(c.cost for c in row) <= tight]
    assert ours <= min(able) + 1e-9


@given(layers=choices, share=st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_the_largest_error_is_the_least_there_is(layers: list[list[Choice]], share: float) -> None:
    budget = floor(layers) + share * (sum(max(c.cost for c in row) for row in layers) - floor(layers)) + 1e-9
    picked = allocations["max"](layers, budget)
    assert picked is not None
    able = [max(c.error for c in row) for row in itertools.product(*layers) if sum(c.cost for c in row) <= budget]
    assert max(row[i].error for row, i in zip(layers, picked, strict=True)) <= min(able)
