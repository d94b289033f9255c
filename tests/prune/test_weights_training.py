"""Masks in training: they narrow by their cubic, move as RigL says, hold, resume bit-equal; penalties shrink what they name."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import small
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lilliput import Fit, Recipe, fit
from lilliput.config import parse
from lilliput.core.callback import Callback
from lilliput.core.method import Look
from lilliput.errors import ConfigError
from lilliput.prune import Gradual, Regrow, Sparsify, Weights, gradual, iterative, one_shot, regrown
from lilliput.prune.masks import masks
from lilliput.prune.ramp import Ramp
from lilliput.prune.saliency import effective
from lilliput.prune.sparsify import penalty

LOOK = Look(torch.randn(2, 1, 8, 8))


def masked(rate: float = 0.0, criterion: str = "magnitude", pattern: str = "weight") -> nn.Module:
    """A narrow network with masks."""
    return Weights(criterion, rate, pattern=pattern)(small.network(0.25), LOOK)


def share(model: nn.Module) -> float:
    """The share of zeros behind masks."""
    found = [m.kept for _, m in masks(model).values()]
    return 1 - sum(int(k.sum()) for k in found) / sum(k.numel() for k in found)


def train(model: nn.Module, callback: Callback, steps: int, momentum: float = 0.9) -> list[float]:
    """A loop of one's own around a callback: the share of zeros after each step."""
    task = small.task()
    active = callback.begin(model.train(), steps, 0)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum, weight_decay=1e-3)
    batches, seen = list(task.batches("train", 16)), []
    for step in range(steps):
        x, y = batches[step % len(batches)]
        outputs = model(x)
        loss = task.loss(outputs, y)
        more = active.loss(x, outputs, y)
        optimizer.zero_grad()
        (loss if more is None else loss + more).backward()
        active.before_step(step)
        optimizer.step()
        active.after_step(step)
        seen.append(share(model))
        for layer, mask in masks(model).values():
            assert not effective(layer)[~mask.kept].any() and not layer.weight[~mask.kept].any()
    active.end()
    return seen


@given(st.floats(0, 0.5), st.floats(0.5, 0.99), st.integers(2, 500), st.integers(1, 60))
def test_the_cubic_rises_from_start_to_rate(low: float, high: float, steps: int, every: int) -> None:
    ramp = Ramp(10, 10 + steps, every, low, high)
    rates = [ramp.rate(t) for t in range(10, 11 + steps)]
    assert rates[0] == pytest.approx(low) and rates[-1] == pytest.approx(high)
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(rates))
    assert ramp.changes(10) and ramp.changes(10 + steps) and not ramp.changes(9) and not ramp.changes(11 + steps)


@pytest.mark.parametrize("allocate", ["global", "erk", "lamp", "uniform"])
def test_gradual_follows_the_cubic_and_ends_where_it_should(allocate: str) -> None:
    model = masked()
    seen = train(model, Gradual(0.9, since=0.1, until=0.8, every=2, allocate=allocate), 20)
    assert seen[0] == 0 and seen[-1] == pytest.approx(0.9, abs=0.01)
    assert all(a <= b for a, b in itertools.pairwise(seen))
    assert seen[8] == pytest.approx(Ramp(2, 16, 2, 0, 0.9).rate(8), abs=0.02)


def test_gradual_in_patterns() -> None:
    model = masked(pattern="kernel")
    assert train(model, Gradual(0.7, every=1, allocate="uniform"), 8)[-1] == pytest.approx(0.7, abs=0.05)
    for _, mask in masks(model).values():
        whole = mask.kept.flatten(2).double().mean(2) if mask.kept.dim() == 4 else mask.kept.double()
        assert bool(((whole == 0) | (whole == 1)).all())


def test_rigl_moves_masks_and_keeps_their_number() -> None:
    model = masked(0.8, "random")
    before = {site: mask.kept.clone() for site, (_, mask) in masks(model).items()}
    seen = train(model, Regrow(0.8, 0.8, share=0.5, every=3, until=1.0), 12)
    assert len(set(seen)) == 1
    moved = [site for site, (_, mask) in masks(model).items() if not torch.equal(mask.kept, before[site])]
    assert len(moved) > len(before) // 2
    assert not any(mask.open for _, mask in masks(model).values())


def test_granet_narrows_and_moves() -> None:
    model = masked(0.3, "random")
    seen = train(model, Regrow(0.8, 0.3, share=0.5, every=2), 16)
    assert seen[-1] == pytest.approx(0.8, abs=0.01) and seen[0] < 0.5


def test_an_open_mask_computes_the_same_and_lets_gradients_pass() -> None:
    model = masked(0.5)
    layer, mask = masks(model)["layer1.0.conv1"]
    closed = layer.mapped_weight()
    mask.open = True
    opened = layer.mapped_weight()
    assert torch.equal(closed, opened)
    opened.sum().backward()
    assert bool((layer.weight.grad == 1).all())


def test_what_grows_is_where_gradients_are_largest() -> None:
    from lilliput.prune.regrow import moved

    layer, mask = masks(masked(0.5))["layer1.0.conv1"]
    gradient = torch.rand(mask.kept.shape)
    new = moved(layer, mask, gradient, 0.25)
    grown, gone = new & ~mask.kept, mask.kept & ~new
    assert int(grown.sum()) == int(gone.sum()) == round(0.25 * int(mask.kept.sum()))
    assert gradient[grown].min() >= gradient[~mask.kept & ~grown].max()
    assert layer.weight.abs()[gone].max() <= layer.weight.abs()[mask.kept & new].min()


@pytest.mark.parametrize("callback", [Gradual(0.8, every=2, until=0.9), Regrow(0.8, 0.4, every=2, until=0.9)])
def test_a_stopped_training_goes_on_bit_equal(callback: Callback, tmp_path: Path) -> None:
    start = masked(0.4, "random")
    plan = Fit(epochs=2, batch_size=32, callbacks=(callback,))

    def stop(event: dict[str, object]) -> None:
        if event["event"] == "epoch" and event["epoch"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(start, small.task(), plan, folder=tmp_path, watch=stop)
    whole, parts = fit(start, small.task(), plan).model, fit(start, small.task(), plan, folder=tmp_path).model
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True))
    assert share(whole) == pytest.approx(0.8, abs=0.01)
    assert share(start) == pytest.approx(0.4, abs=0.02)


def test_penalties_are_their_formulas() -> None:
    w = torch.randn(4, 2, 3, 3, dtype=torch.double)
    assert float(penalty(w, "weight")) == pytest.approx(float(w.abs().sum()))
    assert float(penalty(w, "filter")) == pytest.approx(math.sqrt(18) * float(w.flatten(1).norm(dim=1).sum()))
    assert float(penalty(w, "kernel")) == pytest.approx(3 * float(w.flatten(2).norm(dim=2).sum()))
    zero = torch.zeros(4, 2, 3, 3, requires_grad=True)
    penalty(zero, "filter").backward()
    assert torch.equal(zero.grad, torch.zeros_like(zero))


def test_a_penalty_shrinks_groups() -> None:
    norms = []
    for strength in (1e-9, 5e-2):
        model = masked()
        train(model, Sparsify(strength, "kernel", skip=("linear",)), 10)
        norms.append(float(penalty(model.layer2[0].conv1.weight.detach(), "kernel")))
    assert norms[1] < 0.9 * norms[0]


def test_schedules_write_recipes() -> None:
    weights, training = Weights(rate=0.8, allocate="lamp"), Fit(epochs=4, lr=0.02)
    assert one_shot(weights, training) == [weights, training]
    steps = iterative(weights, training, rounds=3)
    rates = [step.rate for step in steps[::2]]
    assert rates == pytest.approx([1 - 0.2 ** (1 / 3), 1 - 0.2 ** (2 / 3), 0.8], abs=1e-6) and steps[1::2] == [training] * 3
    for steps in (gradual(weights, training), regrown(weights, training), regrown(weights, training, start=0.2)):
        recipe = Recipe(steps)
        recipe.check()
        assert parse(recipe.text()) == recipe and Recipe.from_yaml(recipe.to_yaml()) == recipe
        assert recipe.steps[1].callbacks[0].allocate == "lamp"
    assert regrown(weights, training)[0] == Weights("random", 0.8, "erk")


@pytest.mark.parametrize(
    ("callback", "words"),
    [
        (Gradual(1.0), r"`rate` \(=1.0\)"),
        (Gradual(0.5, start=0.6), r"`start` \(=0.6\)"),
        (Gradual(since=0.8, until=0.5), "since < until"),
        (Gradual(every=0), r"`every` \(=0\)"),
        (Gradual(criterion="obd"), r"`criterion` \(=obd\) needs more than the weights"),
        (Gradual(allocate="sensitivity"), "takes? lamp|take lamp"),
        (Gradual(every=30), r"has `20` steps, 15 of them between `since` and `until`: too short"),
        (Regrow(share=0.0), r"`share` \(=0.0\)"),
        (Sparsify(0.0), r"`strength` \(=0.0\)"),
        (Sparsify(pattern="2:4"), "no groups"),
    ],
)
def test_what_cannot_be_asked_of_a_training(callback: Callback, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        callback.begin(masked(), 20, 0)


def test_a_network_without_masks_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no layer has a mask to change. Put `prune.weights\(rate=0\)`"):
        Gradual().begin(small.network(), 1000, 0)
    with pytest.raises(ConfigError, match="cannot move freely"):
        made = Weights(pattern="2:4", skip=("conv1",))(small.network(0.25), LOOK)
        Regrow().begin(made, 1000, 0)
    with pytest.raises(ConfigError, match="`rounds`"):
        iterative(Weights(), Fit(), rounds=0)
    with pytest.raises(ConfigError, match="rates by layer"):
        gradual(Weights(rate={"conv1": 0.5}), Fit())
