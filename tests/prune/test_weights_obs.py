"""Exact second order: greedy removals against brute force, compensation against least squares, and the layer's error."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from lilliput import testing
from lilliput.core.method import Look
from lilliput.errors import DataError
from lilliput.prune import Weights
from lilliput.prune.masks import masks
from lilliput.prune.obs import BLOCK, columns, compensated, moments, removals
from lilliput.prune.patterns import pattern


def problem(rows: int, d: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and a Hessian with correlated inputs."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(d, 4 * d, generator=draw).double()
    x[1:] += 0.7 * x[:-1]
    return torch.randn(rows, d, generator=draw).double(), x @ x.T / (4 * d)


def error(w: torch.Tensor, new: torch.Tensor, h: torch.Tensor) -> float:
    """The layer's own error."""
    return float(((new - w) @ h * (new - w)).sum())


def test_each_removal_is_the_cheapest_and_costs_what_it_says() -> None:
    w, h = problem(1, 5)
    order, rise = removals(w, torch.linalg.inv(h), 3)
    gone: list[int] = []
    for step in range(3):

        def rest(p: int, gone: tuple[int, ...] = tuple(gone)) -> float:
            kept = torch.tensor([i not in (*gone, p) for i in range(5)])
            return error(w[0], _best(w[0], h, kept), h)

        costs = {p: rest(p) for p in range(5) if p not in gone}
        assert int(order[0, step]) == min(costs, key=lambda p: costs[p])
        gone.append(int(order[0, step]))
        assert float(rise[0, : step + 1].sum()) == pytest.approx(costs[gone[-1]])


def _best(w: torch.Tensor, h: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Least squares over the weights that stay."""
    new = torch.zeros_like(w)
    new[kept] = torch.linalg.solve(h[kept][:, kept], (h @ w)[kept])
    return new


def test_blocks_of_removals_are_single_removals() -> None:
    w, h = problem(3, BLOCK + 9)
    order, rise = removals(w, torch.linalg.inv(h), BLOCK + 6)
    for r in range(3):
        inverse, row = torch.linalg.inv(h), w[r].clone()
        barred = torch.zeros(len(row), dtype=torch.bool)
        for step in range(BLOCK + 6):
            scores = (row.square() / inverse.diagonal()).masked_fill(barred, float("inf"))
            p = int(scores.argmin())
            assert p == int(order[r, step]) and float(scores[p]) == pytest.approx(float(rise[r, step]), rel=1e-6)
            row = row - row[p] / inverse[p, p] * inverse[p]
            inverse = inverse - torch.outer(inverse[p], inverse[p]) / inverse[p, p]
            barred[p] = True


@pytest.mark.parametrize("grain", ["weight", "2:4", "1x2", "kernel", "filter", "position"])
def test_compensation_is_least_squares_and_beats_magnitude(grain: str) -> None:
    w, h = problem(4, 16)
    weight, each = w.view(4, 4, 2, 2), pattern(grain)
    kept, moved = compensated(weight, h.unsqueeze(0), 32, each)
    assert int((~kept).sum()) == 32 and not moved[~kept].any()
    for r in range(4):
        torch.testing.assert_close(moved[r].flatten(), _best(w[r], h, kept[r].flatten()))
    largest = each.mask(weight.abs(), 32)
    assert error(w, moved.flatten(1), h) < error(w, (weight * largest).flatten(1), h)


def test_greedy_comes_near_the_best_of_all_masks() -> None:
    w, h = problem(1, 8)
    _, moved = compensated(w, h.unsqueeze(0), 4, pattern("weight"))
    every = itertools.combinations(range(8), 4)
    best = min(error(w[0], _best(w[0], h, torch.tensor([i in ks for i in range(8)])), h) for ks in every)
    assert error(w[0], moved[0], h) <= 1.5 * best


@pytest.mark.parametrize("zeros", [0, 1, 7, 60, 63])
def test_any_number_of_weights_can_go(zeros: int) -> None:
    w, h = problem(4, 16)
    kept, _ = compensated(w, h.unsqueeze(0), zeros, pattern("weight"))
    assert int((~kept).sum()) == zeros


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(4, 6, 3, padding=1, stride=2, bias=False), nn.Conv2d(4, 6, 3, groups=2, dilation=2, bias=False),
     nn.Conv2d(4, 4, (1, 3), padding="same", groups=4, bias=False),
     nn.Conv2d(4, 2, 3, padding=1, padding_mode="circular", bias=False),
     nn.Linear(4, 3, bias=False)],
)  # fmt: skip
def test_columns_times_weights_is_the_layer(layer: nn.Module) -> None:
    x = torch.randn(2, 4) if isinstance(layer, nn.Linear) else torch.randn(2, 4, 9, 8)
    x = x.double()
    layer = layer.double()
    seen = columns(layer, x)
    weight = layer.weight.detach().flatten(1).chunk(len(seen))
    made = torch.cat([w @ c for w, c in zip(weight, seen, strict=True)])
    expected = layer(x).transpose(0, 1).flatten(1)
    torch.testing.assert_close(made, expected)


def test_the_method_lowers_the_layers_error() -> None:
    model, look = testing.subject_model(), testing.subject_look()
    sites = ["layer1.0.conv1", "layer1.0.conv2"]
    h = moments(model, sites, look, 32, "the test")
    rates = {site: 0.5 for site in sites}
    exact, plain = (Weights(c, rate=rates, images=32)(model, look) for c in ("obs", "magnitude"))
    for site in sites:
        w = model.get_submodule(site).weight.detach().double().flatten(1)
        errors = [error(w, m.get_submodule(site).weight.detach().double().flatten(1), h[site][0]) for m in (exact, plain)]
        assert errors[0] < 0.5 * errors[1]
        assert masks(exact)[site][1].rate == pytest.approx(0.5, abs=0.01)


def test_the_contract_with_moved_weights() -> None:
    method = Weights("obs", rate={"layer1.*": 0.5, "layer2.0.conv1": 0.3}, images=8)
    testing.check_method(method, only=["replay_is_bit_equal", "input_is_untouched", "every_parameter_learns"])


def test_no_images_at_all() -> None:
    with pytest.raises(DataError, match="no calibration image"):
        Weights("obs")(testing.subject_model(), Look(torch.randn(1, 1, 8, 8), []))
