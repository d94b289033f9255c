"""Lottery tickets: weights go back, masks stay, controls differ in one thing alone, and recipes share what they share."""

from __future__ import annotations

from pathlib import Path

import pytest
import small
import torch
from torch import nn

import lilliput as lp
from lilliput import Fit, Recipe
from lilliput.core.method import Look
from lilliput.errors import ConfigError
from lilliput.prune import Rewind, Weights, lottery
from lilliput.prune.lottery import left
from lilliput.prune.masks import masks
from lilliput.recipe import Bench, run

LOOK = Look(torch.randn(2, 1, 8, 8))
FIT = Fit(epochs=1, batch_size=32)


def trained(model: nn.Module) -> nn.Module:
    """Another network's numbers in this structure."""
    other = lp.perform(model, [])
    with torch.no_grad():
        for p in other.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
        for m in other.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.running_mean.add_(1)
    return other


def test_numbers_go_back_and_masks_stay() -> None:
    start = small.network(0.25).eval()
    pruned = Weights(rate=0.7)(trained(start), LOOK)
    ticket = Rewind()(pruned, start)
    assert lp.edits(ticket) == lp.edits(pruned)
    for site, (layer, mask) in masks(ticket).items():
        assert torch.equal(mask.kept, masks(pruned)[site][1].kept)
        assert torch.equal(layer.weight, start.get_submodule(site).weight * mask.kept)
    assert torch.equal(ticket.bn1.running_mean, start.bn1.running_mean)


def test_channels_that_left_stay_away() -> None:
    start = small.network(0.5).eval()
    cut = lp.prune.Channels(keep=0.5)(trained(start), LOOK)
    ticket = Rewind()(Weights(rate=0.5)(cut, LOOK), start)
    assert ticket.conv1.weight.shape == cut.conv1.weight.shape
    keep = next(e.keep for e in lp.edits(cut) if e.site == "conv1" and e.axis == "out")
    _, mask = masks(ticket)["conv1"]
    assert torch.equal(ticket.conv1.weight, start.conv1.weight[list(keep)] * mask.kept)


def test_the_controls_differ_in_one_thing_alone() -> None:
    start = small.network(0.25).eval()
    pruned = Weights(rate=0.7)(trained(start), LOOK)
    winning, random, fresh = (r(pruned, start, 3) for r in (Rewind(), Rewind(shuffle=True), Rewind(redraw=True)))
    for site, (_, mask) in masks(winning).items():
        other, drawn = masks(random)[site][1], masks(fresh)[site][1]
        assert int(other.kept.sum()) == int(mask.kept.sum()) and torch.equal(drawn.kept, mask.kept)
    site = "layer3.0.conv1"
    assert not torch.equal(masks(random)[site][1].kept, masks(winning)[site][1].kept)
    both = masks(random)[site][1].kept & masks(winning)[site][1].kept
    assert torch.equal(random.layer3[0].conv1.weight[both], winning.layer3[0].conv1.weight[both])
    kept = masks(fresh)[site][1].kept
    assert not torch.equal(fresh.layer3[0].conv1.weight[kept], winning.layer3[0].conv1.weight[kept])
    again = Rewind(redraw=True)(pruned, start, 3)
    assert torch.equal(again.layer3[0].conv1.weight, fresh.layer3[0].conv1.weight)


def test_recipes_of_tickets() -> None:
    weights = Weights(rate=0.75, allocate="global")
    steps = lottery(weights, FIT, rounds=2)
    assert [s.name for s in steps] == ["fit", "prune.weights", "rewind", "fit", "prune.weights", "rewind", "fit"]
    assert left(steps) == pytest.approx([0.5, 0.25]) and steps[2].to == 0
    early = lottery(weights, FIT, early=Fit(epochs=1, lr=0.01), rounds=1, ticket="random")
    assert early[-2] == Rewind(1, shuffle=True)
    assert lottery(weights, FIT, rounds=2, ticket="reinitialised")[:-2] == steps[:-2]
    recipe = Recipe(steps)
    recipe.check()
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    with pytest.raises(ConfigError, match="`ticket`"):
        lottery(weights, FIT, ticket="losing")


def test_a_recipe_runs_and_rewinds_and_shares_its_beginning(tmp_path: Path) -> None:
    start, task = small.network(0.25), small.task()
    early = Fit(epochs=1, batch_size=32, lr=0.01)
    weights = Weights(rate=0.6, allocate="global")
    bench = Bench(task, tmp_path)
    first = run(start, Recipe(lottery(weights, FIT, early=early, rounds=1)), bench)
    again = run(start, Recipe(lottery(weights, FIT, early=early, rounds=1)), bench)
    assert [s.reused for s in again.stages] == [True] * 5
    assert all(
        torch.equal(a, b) for a, b in zip(first.model.state_dict().values(), again.model.state_dict().values(), strict=True)
    )
    control = run(start, Recipe(lottery(weights, FIT, early=early, rounds=1, ticket="random")), bench)
    assert [s.reused for s in control.stages] == [True, True, True, False, False]
    for _, mask in masks(first.model).values():
        assert mask.kept.any()


def test_a_step_that_is_not_yet_done_cannot_be_gone_back_to() -> None:
    with pytest.raises(ConfigError, match=r"step 2, rewind: `to` \(=2\) is a step before this one"):
        Recipe([Weights(), Rewind(2)]).check()
    with pytest.raises(ConfigError, match=r"`to` \(=-1\)"):
        Rewind(-1).check()


def test_what_cannot_be_rewound() -> None:
    start = small.network(0.25).eval()
    pruned = Weights(rate=0.5)(start, LOOK)
    with pytest.raises(ConfigError, match="were baked since"):
        Rewind()(lp.bake(pruned), pruned)
    plain = nn.Sequential(nn.Conv2d(1, 2, 3))
    with pytest.raises(ConfigError, match="network of the zoo"):
        Rewind(redraw=True)(Weights()(plain, LOOK), plain)
