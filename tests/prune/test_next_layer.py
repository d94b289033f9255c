"""ThiNet and LASSO: what the next layer would miss, against silencing channels and against the conditions of the optimum."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lilliput import zoo
from lilliput.core.channels import channels
from lilliput.core.method import Look
from lilliput.errors import ConfigError
from lilliput.prune import Channels, next_layer
from lilliput.prune.criteria import criteria
from lilliput.prune.evidence import Evidence
from lilliput.prune.next_layer import Contributions, lasso, thinet


@pytest.fixture(autouse=True)
def everything_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(next_layer, "POSITIONS", 1000)
    monkeypatch.setattr(next_layer, "OUTPUTS", 1000)


def look(images: int = 6) -> Look:
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(images, 3, 8, 8, generator=draw).double()
    return Look(x[:1], [(x, torch.zeros(images, dtype=torch.long))])


def net(parts: int = 1) -> nn.Module:
    torch.manual_seed(0)
    middle = nn.Conv2d(8, 6, 3, stride=2, padding=1, groups=parts)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), middle, nn.AdaptiveAvgPool2d(1), nn.Flatten()).double().eval()


def scores(model: nn.Module, name: str, seen: Look) -> list[Tensor]:
    return Evidence(model, channels(model, seen.example).groups, seen).scores(criteria[name])


def error_without(model: nn.Module, gone: list[int], x: Tensor) -> float:
    """Mean square of what is missing at the next layer's output, by that of the output, its bias apart."""
    first, layer = model[:2], copy.deepcopy(model[2])
    layer.bias = None
    seen = first(x).detach()
    less = seen.clone()
    less[:, gone] = 0
    with torch.no_grad():
        return float((layer(seen) - layer(less)).square().sum() / layer(seen).square().sum())


@pytest.mark.parametrize("parts", [1, 2])
def test_thinet_scores_are_the_errors_of_silencing(parts: int) -> None:
    model, seen = net(parts), look()
    x = next(iter(seen.need_batches("a test")))[0]
    (found,) = scores(model, "thinet", seen)
    if parts == 2:  # the same places of both groups leave together
        assert len(found) == 4
        errors = [error_without(model, [i, i + 4], x) for i in range(4)]
    else:
        errors = [error_without(model, [i], x) for i in range(8)]
    order = found.argsort().tolist()
    assert order[0] == int(np.argmin(errors)) and float(found.min()) == pytest.approx(min(errors))
    if parts == 1:
        gone = list(order[:1])
        for chosen in order[1:4]:  # greedy: no other choice would have been better
            rest = [i for i in range(8) if i not in gone]
            assert min(rest, key=lambda i: error_without(model, [*gone, i], x)) == chosen
            gone.append(chosen)
            assert float(found[chosen]) == pytest.approx(
                max(error_without(model, gone[:k], x) for k in range(1, len(gone) + 1))
            )


def test_channels_that_cancel_leave_first_whatever_their_size() -> None:
    model, seen = net(), look()
    with torch.no_grad():
        model[0].weight[5], model[0].bias[5] = model[0].weight[2], model[0].bias[2]
        model[2].weight[:, 5] = -model[2].weight[:, 2]
        model[2].weight[:, [2, 5]] *= 0.3
    (found,) = scores(model, "thinet", seen)
    x = next(iter(seen.need_batches("a test")))[0]
    assert error_without(model, [2, 5], x) < 1e-20
    assert abs(found.argsort().tolist().index(2) - found.argsort().tolist().index(5)) == 1


@pytest.mark.parametrize("name", ["thinet", "lasso"])
def test_dead_channels_are_worth_least(name: str) -> None:
    model, seen = net(), look()
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = 0, -1
        model[2].weight[:, 6] = 0
    (found,) = scores(model, name, seen)
    assert set(found.argsort().tolist()[:2]) == {1, 6} and float(found[[1, 6]].max()) < 1e-12


def random_products(count: int = 7) -> Contributions:
    torch.manual_seed(0)
    z = torch.randn(30, count).double() + 0.5
    return Contributions(z.T @ z / 30, torch.rand(count).double() + 0.5)


def test_lasso_is_at_the_optimum_along_its_path() -> None:
    seen = random_products()
    products, size = seen.products.numpy(), seen.size.numpy()
    beta, pull = np.zeros(7), products.sum(1)
    for penalty in (2.0, 0.5, 0.1):
        next_layer._descend(products, beta, pull, penalty * size, np.ones(7, dtype=bool), sweeps=1000)
        assert np.allclose(pull, products @ (1 - beta))
        on = beta != 0
        assert np.allclose(pull[on], penalty * size[on] * np.sign(beta[on]), atol=5e-3)
        assert (np.abs(pull[~on]) <= penalty * size[~on] + 5e-3).all()


def test_lasso_scores_are_the_penalties_at_which_channels_enter() -> None:
    seen = random_products()
    found = lasso(seen)
    pull = seen.products.sum(1).abs() / seen.size
    assert (
        int(found.argmax()) == int(pull.argmax()) and float(pull.max()) * 0.9 <= float(found.max()) <= float(pull.max()) + 1e-9
    )
    assert len(found.unique()) == 7 and (found > 0).all()


def test_of_two_alike_the_lasso_needs_one() -> None:
    z = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)).double()
    z = torch.cat([z, z[:, :1]], 1)
    found = lasso(Contributions(z.T @ z / 40, torch.tensor([1, 1, 1, 1, 1.1]).double()))
    assert float(found[4]) < 0.1 * float(found[0])


def test_nothing_is_contributed() -> None:
    for function in (thinet, lasso):
        found = function(Contributions(torch.zeros(3, 3).double(), torch.zeros(3).double()))
        assert found.shape == (3,) and float(found.max()) < 1e-300


@pytest.mark.parametrize("criterion", ["thinet", "lasso"])
@pytest.mark.parametrize("allocate", ["uniform", "global"])
def test_every_allocation_works(criterion: str, allocate: str) -> None:
    torch.manual_seed(0)
    model, draw = zoo.create("resnet8", width=0.5).eval(), torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, 16, 16, generator=draw)
    seen = Look(x[:1], [(x, torch.zeros(4, dtype=torch.long))])
    method = Channels(keep=0.5, criterion=criterion, allocate=allocate)
    small = method(model, seen)
    assert small(x).shape == (4, 10)
    assert method.plan(model, seen) == method.plan(model, seen)
    with pytest.raises(ConfigError, match="needs labelled images"):
        method.plan(model, Look(x[:1]))
