"""Laws of working on layers in the order they run in."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from lilliput.quant.curvature import Curvature, columns
from lilliput.quant.in_order import Seen, in_order, see


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2, stride=2), nn.ReLU(),
            nn.Conv2d(8, 6, 1, bias=False), nn.Flatten(), nn.Linear(6 * 9, 5),
        ).eval()  # fmt: skip


SITES = ["0", "2", "4", "6"]
IMAGES = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def seen(model: nn.Module) -> Seen:
    return see(model, SITES, [(IMAGES[:40], torch.zeros(40)), (IMAGES[40:], torch.zeros(24))], seed=0, temperature=4.0)


def off(a: nn.Module, b: nn.Module) -> float:
    x = torch.randn(256, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return float((a(x) - b(x)).square().mean())


def leave(site: str, layer: Any, bend: Curvature) -> float:
    return 1.0


def test_a_network_that_returns_what_it_should_is_left_alone() -> None:
    model = network()
    again = copy.deepcopy(model)
    assert in_order(again, seen(model), leave) == len(SITES)
    for before, after in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.allclose(before, after, atol=1e-4)


def test_later_layers_make_up_for_the_error_of_the_first() -> None:
    model = network()

    def spoil(site: str, layer: Any, bend: Curvature) -> float:
        if site == "0":
            layer.weight.add_(0.1 * torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(3)))
        return 0.0

    alone, corrected = copy.deepcopy(model), copy.deepcopy(model)
    with torch.no_grad():
        spoil("0", alone[0], None)  # type: ignore[arg-type]
    in_order(corrected, seen(model), spoil)
    assert torch.allclose(alone[0].weight, corrected[0].weight, atol=1e-4)
    assert off(model, corrected) < 0.7 * off(model, alone)


def test_zeros_stay_and_the_network_is_as_it_was_otherwise() -> None:
    model = network()
    facts = seen(model)
    pruned = copy.deepcopy(model).train()
    with torch.no_grad():
        for site in SITES:
            pruned.get_submodule(site).weight[:, ::2] = 0
    in_order(pruned, facts, leave)
    assert not pruned[2].weight[:, ::2].any() and pruned[2].weight[:, 1::2].any()
    assert pruned.training and not any(m._forward_pre_hooks for m in pruned.modules())


def test_work_sees_the_inputs_that_come_from_what_was_done_before() -> None:
    model = network()
    inputs: dict[str, torch.Tensor] = {}

    def silence(site: str, layer: Any, bend: Curvature) -> float:
        inputs[site] = bend.across
        if site == "0":
            layer.weight.zero_()
            layer.bias.fill_(1)
        return 0.0

    in_order(copy.deepcopy(model), seen(model), silence)
    assert torch.allclose(inputs["2"], torch.ones_like(inputs["2"]))  # nothing but ones comes


@pytest.mark.parametrize("groups", [1, 2])
def test_columns_times_weights_are_the_outputs_at_these_places(groups: int) -> None:
    conv = nn.Conv2d(4, 6, (3, 2), stride=(2, 1), dilation=(1, 2), padding=1, groups=groups, bias=False)
    x = torch.randn(5, 4, 9, 8, generator=torch.Generator().manual_seed(4))
    wanted = conv(x).flatten(2)  # (n, rows, l)
    spots = torch.tensor([3, 0, 11])
    for picked, target in ((None, wanted), (spots, wanted[:, :, spots])):
        found = conv.weight.flatten(1).view(groups, 6 // groups, -1) @ columns(conv, x, picked)
        assert torch.allclose(found.flatten(0, 1), target.transpose(0, 1).flatten(1), atol=1e-5)
