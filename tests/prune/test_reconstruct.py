"""Compensation: what can be recovered is, what is dead is not missed, and no layer is worse off."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lilliput import zoo
from lilliput.core.channels import channels
from lilliput.core.method import Look
from lilliput.core.perform import perform
from lilliput.errors import ConfigError, DataError
from lilliput.prune import Channels
from lilliput.prune.patches import outputs, patches, positions, positions_for, weight_rows
from lilliput.prune.reconstruct import compensate, consumers, least_squares, uncompensated

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "plain": (lambda: nn.Conv2d(4, 6, 3), (4, 9, 8)),
    "strided, padded": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), (4, 9, 8)),
    "dilated, uneven": (lambda: nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(2, 1), dilation=(2, 1)), (4, 9, 8)),
    "groups": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), (4, 9, 8)),
    "same, reflected": (lambda: nn.Conv2d(4, 6, 3, padding="same", padding_mode="reflect"), (4, 9, 8)),
    "circular": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (4, 9, 8)),
    "1d": (lambda: nn.Conv1d(4, 6, 3, padding=1), (4, 9)),
    "3d": (lambda: nn.Conv3d(4, 6, 2, stride=2), (4, 4, 6, 4)),
    "linear": (lambda: nn.Linear(7, 6), (7,)),
    "linear on a sequence": (lambda: nn.Linear(7, 6), (5, 7)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_patches_times_weight_is_the_layer(name: str) -> None:
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    layer, x = make().double(), torch.randn(3, *shape, dtype=torch.double)
    with torch.no_grad():
        y = layer(x)
    where = positions(layer, y, 5, torch.Generator().manual_seed(0))
    assert torch.equal(where, positions_for(layer, x, 5, torch.Generator().manual_seed(0)))
    parts = getattr(layer, "groups", 1)
    rows = patches(layer, x, where).chunk(parts, 1)
    made = torch.cat([r.flatten(1) @ weight_rows(layer, g).flatten(1).T for g, r in enumerate(rows)], 1)
    assert torch.allclose(made + layer.bias, outputs(layer, y, where), atol=1e-12)


@pytest.mark.parametrize("rows", [12, 200], ids=["fewer rows than inputs", "more rows"])
@pytest.mark.parametrize("centred", [True, False])
def test_least_squares_is_the_minimum(rows: int, centred: bool) -> None:
    torch.manual_seed(0)
    x, y, ridge = torch.randn(rows, 20).double() + 1, torch.randn(rows, 3).double(), 0.1
    found = least_squares(x, y, ridge, centred=centred)
    scale = ridge * (x - x.mean(0) * centred).square().mean()

    def cost(change: Tensor, offset: Tensor) -> float:
        return float((y - x @ change - offset).square().sum(1).mean() + scale * change.square().sum())

    least = cost(*found)
    for _ in range(20):
        near = found[0] + 1e-3 * torch.randn(20, 3), found[1] + centred * 1e-3 * torch.randn(3)
        assert cost(*near) > least
    assert centred or not found[1].any()


def net(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "norm":
        layers = [nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)]
    elif kind == "groups":
        layers = [nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 8, 3, padding=1, groups=2)]
    else:
        layers = [nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 8, 3, padding=1)]
    model = nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    for norm in (m for m in model if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean, norm.running_var = torch.randn(8), torch.rand(8) + 0.5
    return model.double().eval()


def batches(images: int = 24) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(8, 3, 10, 10).double(), torch.randint(0, 5, (8,))) for _ in range(images // 8)]


def without(model: nn.Module, gone: list[int]) -> nn.Module:
    """The model without these channels of its first layer."""
    found = channels(model, torch.randn(1, 3, 10, 10).double())
    slot = next(s for s in found.slots if s.site == "0" and s.axis == "out")
    return perform(model, found.remove({int(slot.atoms[i]) for i in gone}))


@pytest.mark.parametrize("kind", ["bias", "norm", "groups"])
def test_what_others_can_say_is_compensated_exactly(kind: str) -> None:
    model = net(kind)
    with torch.no_grad():  # after ReLU each of these is twice or half of another of its group, or constant
        for gone, stays, factor in ((2, 0, 2.0), (5, 1, 0.5), (8, 6, 2.0), (11, 7, 0.5)):
            model[0].weight[gone], model[0].bias[gone] = factor * model[0].weight[stays], factor * model[0].bias[stays]
    small = without(model, [2, 5, 8, 11])
    x = torch.randn(4, 3, 10, 10).double()
    assert (small(x) - model(x)).abs().max() > 1e-3
    done = compensate(model, small, batches())
    assert list(done) == ["2"] and done["2"].after < 1e-12 < done["2"].before
    assert torch.allclose(small(x), model(x), atol=1e-6)


@pytest.mark.parametrize("kind", ["bias", "norm"])
def test_a_constant_is_moved_into_the_shift(kind: str) -> None:
    model = net(kind)
    with torch.no_grad():
        model[0].weight[3], model[0].bias[3] = 0, 5
        model[2].weight[:, 3] += 1
    model[2].padding, model[2]._reversed_padding_repeated_twice = (0, 0), [0, 0, 0, 0]  # so that borders are no exception
    small = without(model, [3])
    x = torch.randn(4, 3, 10, 10).double()
    compensate(model, small, batches())
    assert torch.allclose(small(x), model(x), atol=1e-6)


def test_dead_channels_are_not_missed() -> None:
    model = net("bias").float()
    with torch.no_grad():
        model[0].weight[4:7], model[0].bias[4:7] = 0, -1
    small = without(model.double(), [4, 5, 6]).float()
    kept = copy.deepcopy(small.state_dict())
    done = compensate(model.float(), small, [(x.float(), y) for x, y in batches()])
    assert done and all(torch.equal(value, kept[name]) for name, value in small.state_dict().items())


@pytest.mark.parametrize("name", ["resnet8", "mobilenet_v2", "squeezenet1_1", "shufflenet_v2"])
def test_no_layer_is_worse_off(name: str) -> None:
    torch.manual_seed(0)
    model = zoo.create(name, classes=4)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.bias, std=0.2)
    model.train()
    x = torch.randn(4, 3, 32, 32)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    small = Channels(keep=0.5)(model, Look(x[:1]))
    done = compensate(model, small, [(x, x)])
    left = uncompensated(model, small, x)
    assert set(done) | set(left) == set(consumers(model, small))
    assert all(each.after <= each.before for each in done.values())
    assert sum(e.after for e in done.values()) < 0.9 * sum(e.before for e in done.values())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()) and model.training and small.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for each in (model, small) for m in each.modules())


def test_the_same_seed_gives_the_same_numbers() -> None:
    model = net("norm")
    made = [without(model, [1, 2]) for _ in range(3)]
    for small, seed in zip(made, (0, 0, 1), strict=True):
        compensate(model, small, [(x[:, :, :10], y) for x, y in batches(8)] * 30, seed=seed)
    one, same, other = (m.state_dict()["2.weight"] for m in made)
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_what_stays_is_said_with_the_reason() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.up = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1), nn.ConvTranspose2d(6, 2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.up(self.b(self.b(self.a(x))))

    model = Twice().eval()
    x = torch.randn(2, 3, 6, 6)
    found = channels(model, x)
    small = perform(model, found.remove([found.groups[0].atoms[0]]))
    why = uncompensated(model, small, x)
    assert why == {"b": "it runs 2 times in a forward", "up": "it is a `ConvTranspose2d`"}
    assert compensate(model, small, [(x, x)]) == {}


def test_no_images_is_an_error() -> None:
    model = net("bias")
    with pytest.raises(DataError, match="no calibration image"):
        compensate(model, without(model, [0]), [])


@pytest.mark.parametrize("criterion", ["l1", "random", "thinet"])
def test_every_criterion_may_be_followed_by_compensation(criterion: str) -> None:
    torch.manual_seed(0)
    model = zoo.create("resnet8", width=0.5).double().eval()
    x = torch.randn(8, 3, 16, 16).double()
    seen = Look(x[:1], [(x, torch.zeros(8, dtype=torch.long))])
    method = Channels(keep=0.5, scope="inner", criterion=criterion, compensate=True)
    left = [
        (small(x) - model(x)).square().sum() for small in (replace(method, compensate=False)(model, seen), method(model, seen))
    ]
    assert left[1] < 0.5 * left[0]
    assert method.plan(model, seen) == replace(method, compensate=False).plan(model, seen)
    one, other = (method(model, seen).state_dict() for _ in range(2))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_compensation_without_images_is_refused() -> None:
    model = net("bias")
    method = Channels(keep=0.5, compensate=True)
    with pytest.raises(ConfigError, match="`compensate` needs labelled images"):
        method(model, Look(torch.randn(1, 3, 10, 10).double()))
    assert replace(method, keep=1.0)(model, Look(torch.randn(1, 3, 10, 10).double())) is not model
