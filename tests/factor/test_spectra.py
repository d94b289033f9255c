"""Decompositions that hold little: large sides piece by piece, the largest entries in place, layers read and not copied."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lilliput.core.edits import Map, Swap
from lilliput.core.perform import perform
from lilliput.factor import forms, spectra
from lilliput.factor.shape import shape
from lilliput.factor.sparse import keep_largest


def of_spectrum(values: Tensor, columns: int, seed: int = 0) -> Tensor:
    """A matrix with these singular values."""
    draw = torch.Generator().manual_seed(seed)
    left, _ = torch.linalg.qr(torch.randn(len(values), len(values), generator=draw, dtype=torch.double))
    right, _ = torch.linalg.qr(torch.randn(columns, len(values), generator=draw, dtype=torch.double))
    return (left * values) @ right.T


def error(matrix: Tensor, factors: tuple[Tensor, Tensor]) -> float:
    return float((matrix.double() - factors[0].double() @ factors[1].double()).square().sum())


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sides of 40 are large, and singular vectors are sought eight at a time."""
    monkeypatch.setattr(spectra, "LARGE", 39)
    monkeypatch.setattr(spectra, "PIECE", 8)


SPECTRA = {
    "flat": torch.ones(60).double(),
    "slow": torch.arange(1, 61).double() ** -0.5,
    "fast": torch.exp(-torch.arange(60).double() / 3),
    "of rank 11": (torch.arange(60) < 11).double(),
    "nothing": torch.zeros(60).double(),
}


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("columns", [60, 90])
@pytest.mark.parametrize("rank", [1, 8, 20, 30])
@pytest.mark.parametrize("name", SPECTRA)
def test_large_sides_lose_hardly_more_than_they_must(name: str, rank: int, columns: int) -> None:
    values = SPECTRA[name]
    for matrix in (of_spectrum(values, columns), of_spectrum(values, columns).T):
        least = float(values[rank:].square().sum())
        single = spectra.factors(matrix.float(), rank)
        assert error(matrix, single) <= 1.01 * least + 1e-10 * float(values.square().sum())
        assert [s.dtype for s in single] == [torch.float32] * 2
        assert [s.shape for s in single] == [(len(matrix), rank), (rank, matrix.shape[1])]
        assert error(matrix, spectra.factors(matrix, rank)) <= 1.01 * least + 1e-18


@pytest.mark.usefixtures("small_pieces")
def test_factors_found_in_pieces_are_of_equal_scale_and_always_the_same() -> None:
    matrix = of_spectrum(SPECTRA["slow"], 70).float()
    left, right = spectra.factors(matrix, 20)
    assert torch.allclose(left.norm(dim=0), right.norm(dim=1), rtol=1e-3)
    assert all(torch.equal(a, b) for a, b in zip((left, right), spectra.factors(matrix, 20), strict=True))


@pytest.mark.usefixtures("small_pieces")
def test_a_rank_that_saves_nothing_is_exact_at_large_sides_too() -> None:
    matrix = of_spectrum(SPECTRA["flat"], 60).float()
    assert error(matrix, spectra.factors(matrix, 60)) < 1e-8


@given(values=st.lists(st.integers(-3, 3), min_size=1, max_size=40), data=st.data())
@settings(max_examples=60, deadline=None)
def test_the_largest_entries_stay_and_among_equals_the_first(values: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(values)))
    kind = data.draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
    kept = sorted(range(len(values)), key=lambda i: (-abs(values[i]), i))[:count]
    tensor = torch.tensor(values, dtype=kind)
    keep_largest(tensor, count)
    assert tensor.tolist() == [v if i in kept else 0 for i, v in enumerate(values)]


def test_entries_that_differ_in_their_last_bits_are_told_apart() -> None:
    values = 1 + torch.arange(50) * torch.finfo(torch.float32).eps
    shuffled = values[torch.randperm(50, generator=torch.Generator().manual_seed(0))]
    keep_largest(shuffled, 7)
    assert sorted(shuffled[shuffled != 0].tolist()) == values[-7:].tolist()


def storages(model: nn.Module) -> set[int]:
    return {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}


@pytest.mark.parametrize("name", sorted(forms))
def test_a_factorized_network_shares_nothing_with_the_one_it_was_made_of(name: str) -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3), nn.Conv2d(6, 6, 3))
    model[3].weight = model[2].weight  # what one layer has and another keeps is copied
    before, form = copy.deepcopy(model), forms[name]
    largest = form.largest(shape(model[0]), **form.options)
    spec: dict[str, Any] = {"rank": largest[0] if len(largest) == 1 else list(largest)}
    made = perform(model, [*form.edits("0", spec), Map("3", "weight", "support")])
    assert not storages(model) & storages(made)
    again = perform(model, form.edits("2", {"rank": 1 if len(largest) == 1 else [1] * len(largest)}))
    assert not storages(model) & storages(again)
    with torch.no_grad():
        for parameter in (*made.parameters(), *again.parameters()):
            parameter.zero_()
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.state_dict().values(), strict=True))


def test_a_layer_that_makes_way_is_not_copied_first() -> None:
    copies = []

    class Seen(nn.Parameter):
        def __deepcopy__(self, memo: dict[int, Any]) -> nn.Parameter:
            copies.append(self.shape)
            return nn.Parameter(self.detach().clone(), self.requires_grad)

    model = nn.Sequential(nn.Conv2d(4, 6, 3, bias=False), nn.Conv2d(6, 6, 3, bias=False))
    for layer in model:
        layer.weight = Seen(layer.weight.detach())
    perform(model, [Swap("0", "svd", {"rank": 2})])
    assert copies == [model[1].weight.shape]
