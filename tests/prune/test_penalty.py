"""Penalties: their gradient is the formula, they shrink what they should, and a stopped training goes on."""

from __future__ import annotations

import pytest
import torch
from gated import look, small
from small import network, task
from torch import Tensor, nn

from lilliput.config import parse
from lilliput.core.callback import Active, Callback
from lilliput.core.channels import channels
from lilliput.errors import ConfigError
from lilliput.prune import GroupLasso, Slim
from lilliput.train import Fit, fit

LOOK = look()


def added(callback: Callback, model: nn.Module, steps: int = 10) -> tuple[Active, Tensor]:
    """What a callback adds in the first step."""
    active = callback.begin(model, steps, 0)
    x, y = next(iter(LOOK.need_batches("a test")))
    loss = active.loss(x, model(x), y)
    assert loss is not None
    return active, loss


def test_slimming_has_the_gradient_of_the_sum_of_sizes() -> None:
    model = small()
    with torch.no_grad():
        model.bn.weight[1] = 0
        model.norm.weight.neg_()
    _, loss = added(Slim(strength=0.3), model)
    torch.testing.assert_close(loss, 0.3 * (model.bn.weight.abs().sum() + model.norm.weight.abs().sum()))
    loss.backward()
    for norm in (model.bn, model.norm):
        torch.testing.assert_close(norm.weight.grad, 0.3 * norm.weight.detach().sign())
    assert model.stem.weight.grad is None


def test_coupled_scales_are_one_norm_an_atom() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 6)).double()
    with torch.no_grad():
        for norm in (model[1], model[3]):
            nn.init.normal_(norm.weight)
        model[1].weight[2], model[3].weight[2] = 0, 0
    _, loss = added(Slim(strength=0.5, coupled=True), nn.Sequential(model, nn.Flatten()))
    first, second = model[1].weight.detach(), model[3].weight.detach()
    norms = (first.square() + second.square()).sqrt()
    torch.testing.assert_close(loss, 0.5 * norms.sum())
    loss.backward()
    torch.testing.assert_close(model[1].weight.grad, 0.5 * first / norms.clamp(min=1e-9))
    assert torch.isfinite(model[3].weight.grad).all()


@pytest.mark.parametrize("adaptive", [0.0, 3.0])
def test_group_lasso_has_the_gradient_of_the_norm_over_all_coupled_layers(adaptive: float) -> None:
    model = small()
    _, loss = added(GroupLasso(strength=0.1, adaptive=adaptive), model)
    loss.backward()
    made, scaled, depth, read = (
        t.detach() for t in (model.inner.weight, model.norm.weight, model.depth.weight, model.back.weight)
    )
    squares = made.square().sum((1, 2, 3)) + scaled.square() + depth.square().sum((1, 2, 3)) + read.square().sum((0, 2, 3))
    norms = squares.sqrt()
    push = 0.1 * torch.exp2(adaptive * (norms.max() - norms) / (norms.max() - norms.min())) / norms
    stream = (model.stem.weight.detach().square().sum((1, 2, 3)) + model.bn.weight.detach().square()
              + model.back.weight.detach().square().sum((1, 2, 3)) + model.inner.weight.detach().square().sum((0, 2, 3))
              + model.wide.weight.detach().square().sum((0, 2, 3))).sqrt()  # fmt: skip
    flow = 0.1 * torch.exp2(adaptive * (stream.max() - stream) / (stream.max() - stream.min())) / stream
    torch.testing.assert_close(model.norm.weight.grad, push * scaled)
    torch.testing.assert_close(model.depth.weight.grad, push[:, None, None, None] * depth)
    torch.testing.assert_close(model.bn.weight.grad, flow * model.bn.weight.detach())
    both = push[:, None, None, None] + flow[None, :, None, None]  # `inner` reads the stream and makes channels of its own
    torch.testing.assert_close(model.inner.weight.grad, both * made)
    assert model.fc.bias.grad is None


def test_an_atom_without_weights_has_no_slope() -> None:
    model = small()
    with torch.no_grad():
        for tensor in (model.inner.weight, model.norm.weight, model.depth.weight):
            tensor[3] = 0
        model.back.weight[:, 3] = 0
    _, loss = added(GroupLasso(), model)
    loss.backward()
    assert not model.norm.weight.grad[3] and torch.isfinite(model.inner.weight.grad).all()  # type: ignore[index, arg-type]


def test_every_removable_atom_is_penalized_once() -> None:
    model = small()
    active, _ = added(GroupLasso(), model)
    found = channels(model, LOOK.example)
    assert [a for group, _ in active.groups for a in group.atoms] == [a for g in found.groups for a in g.atoms]  # type: ignore[attr-defined]


def test_strength_rises_over_the_warmup_and_goes_on_where_it_stopped() -> None:
    model = small()
    active, first = added(Slim(strength=1.0, warmup=0.5), model, steps=20)
    full = float((model.bn.weight.abs().sum() + model.norm.weight.abs().sum()).detach())
    x, y = LOOK.example, torch.zeros(1, dtype=torch.long)
    assert float(first.detach()) == pytest.approx(full / 10)
    active.after_step(0)
    again = Slim(strength=1.0, warmup=0.5).begin(model, 20, 0)
    again.load_state(active.state())
    for each in (active, again):
        assert float(each.loss(x, x, y).detach()) == pytest.approx(full / 5)  # type: ignore[union-attr]
    active.after_step(14)
    assert float(active.loss(x, x, y).detach()) == pytest.approx(full)  # type: ignore[union-attr]


@pytest.mark.parametrize("callback", [Slim(strength=0.1), Slim(strength=0.1, coupled=True), GroupLasso(strength=0.1)])
def test_training_with_a_penalty_shrinks_the_scales(callback: Callback) -> None:
    plan = Fit(epochs=2, batch_size=24, lr=0.05, schedule="constant")

    def total(model: nn.Module) -> float:
        return float(sum(m.weight.detach().abs().sum() for m in model.modules() if isinstance(m, nn.BatchNorm2d)))

    free = fit(network(), task(), plan).model
    pushed = fit(network(), task(), Fit(epochs=2, batch_size=24, lr=0.05, schedule="constant", callbacks=(callback,))).model
    assert total(pushed) < 0.97 * total(free)


def test_penalties_are_plain_data() -> None:
    for text in ("prune.slim(coupled=true, strength=0.001, warmup=0.1)", "prune.group_lasso(adaptive=4.0)"):
        assert parse(text).text() == text


@pytest.mark.parametrize(
    ("callback", "words"),
    [
        (Slim(strength=-1.0), "from 0"),
        (GroupLasso(warmup=2.0), "`warmup` \\(=2.0\\) from 0 to 1"),
        (GroupLasso(adaptive=float("nan")), "`adaptive` \\(=nan\\) is from 0"),
    ],
)
def test_options_that_cannot_work_are_refused(callback: Callback, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        callback.begin(small(), 10, 0)


def test_a_network_without_norms_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs norms with a scale"):
        Slim().begin(nn.Sequential(nn.Conv2d(3, 4, 3)), 10, 0)
