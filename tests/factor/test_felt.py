"""What a network feels of its layers: the formula, image by image, and what ranks make of it."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lilliput as lp
from lilliput.errors import ConfigError, DataError
from lilliput.factor import Factorize
from lilliput.factor.felt import SURE, felt, lost
from lilliput.factor.sites import sites

IMAGES = torch.randn(7, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(7) % 4


def net(inplace: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(inplace), nn.Flatten(),
        nn.Linear(8 * 64, 4),
    ).eval()  # fmt: skip


def found(model: nn.Module, batch: int = 7, seed: int = 0) -> dict[str, float]:
    parts = list(zip(IMAGES.split(batch), LABELS.split(batch), strict=True))
    return felt(model, sites(model, IMAGES[:1])[0], parts, F.cross_entropy, seed)


def test_it_is_the_formula_on_the_labels_that_are_drawn() -> None:
    model = net()
    with torch.no_grad():
        drawn = torch.multinomial(model(IMAGES).softmax(1), 1, generator=torch.Generator().manual_seed(0))[:, 0]
    total = {name: 0.0 for name in ("0", "2", "5")}
    for x, label in zip(IMAGES, drawn, strict=True):
        outs, y = {}, x[None]
        for name, layer in model.named_children():
            y = layer(y)
            if name in total:
                outs[name] = y
        grads = torch.autograd.grad(F.cross_entropy(y, label[None]), list(outs.values()))
        for (name, out), grad in zip(outs.items(), grads, strict=True):
            total[name] += float(grad.square().sum() * out.detach().square().sum()) / out.numel() / len(IMAGES)
    assert found(model) == pytest.approx({name: math.sqrt(value) for name, value in total.items()}, rel=1e-4)


def test_writing_in_place_and_small_batches_change_nothing() -> None:
    assert found(net(inplace=True)) == pytest.approx(found(net()), rel=1e-5)
    assert found(net(), batch=2) == pytest.approx(found(net()), rel=1e-5)


def test_the_model_and_the_random_state_stay_as_they_are() -> None:
    model = net()
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    found(model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters()) and torch.equal(torch.get_rng_state(), state)
    assert found(model) == found(model) != found(model, seed=1)


def test_a_layer_that_nothing_depends_on_leaves_first() -> None:
    class Beside(nn.Module):
        """A second path of the same shape that hardly counts."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(3, 16, 3), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head((self.a(x) + 0.01 * self.b(x)).relu().mean((2, 3)))

    model, batches = Beside().eval(), [(IMAGES, LABELS)]
    look = lp.Look(IMAGES[:1], batches, F.cross_entropy)
    made = Factorize(macs=0.7, worth="loss", skip=("head",))(model, look)
    ranks = {e.site: e.spec["rank"] for e in lp.edits(made)}
    assert set(ranks) == {"b"}, ranks


def test_losing_all_of_a_layer_costs_most_and_little_costs_what_it_is() -> None:
    assert lost(0.0) == 0 and lost(0.01) == pytest.approx(0.01, rel=0.01)
    assert lost(1.0) == lost(1.5) == pytest.approx(-math.log(SURE))


def test_what_is_missing_is_named() -> None:
    with pytest.raises(DataError, match="no image"):
        felt(net(), [], [], F.cross_entropy, 0)
    with pytest.raises(ConfigError, match=r"`worth` .*batches"):
        Factorize(macs=0.5, worth="loss")(net(), lp.Look(IMAGES[:1]))
    with pytest.raises(ConfigError, match=r"`worth` .*error, loss"):
        Factorize(macs=0.5, worth="size")(net(), lp.Look(IMAGES[:1]))
    with pytest.raises(ConfigError, match=r"`worth` \(=loss\) .*`energy` decides"):
        Factorize(energy=0.5, worth="loss")(net(), lp.Look(IMAGES[:1]))
