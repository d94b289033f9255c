"""Laws of the penalty on bits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lilliput.errors import ConfigError
from lilliput.quant.rate_penalty import RatePenalty

NOTHING = torch.zeros(1)


def penalty(model: nn.Module, **options: float) -> torch.Tensor:
    found = RatePenalty(**options).begin(model, 1, 0).loss(NOTHING, NOTHING, NOTHING)
    assert found is not None
    return found


def test_it_is_the_formula_and_its_gradient() -> None:
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -1], [1, -1]]))
    found = penalty(model, strength=0.5, relative=0.5)
    assert found.item() == pytest.approx(0.5 * math.log2(3))
    found.backward()
    assert model.weight.grad is not None and model.bias.grad is None
    assert torch.allclose(model.weight.grad, 0.5 * model.weight.detach().sign() / (math.log(2) * 1.5 * 4))


def test_scaling_a_layer_saves_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 4))
    before = penalty(model)
    with torch.no_grad():
        model[0].weight.mul_(1e-3)
    assert torch.allclose(penalty(model), before)


def test_few_large_weights_are_cheaper_than_many_small_ones() -> None:
    sparse, even = nn.Linear(16, 1), nn.Linear(16, 1)
    with torch.no_grad():
        sparse.weight.copy_(torch.tensor([[4.0] + [0.0] * 15]))
        even.weight.fill_(1)  # the same sum of squares
    assert penalty(sparse) < penalty(even)


def test_zeros_have_a_finite_gradient() -> None:
    model = nn.Linear(3, 3)
    with torch.no_grad():
        model.weight.zero_()
    penalty(model).backward()
    assert model.weight.grad is not None and not model.weight.grad.any()


def test_options_are_checked() -> None:
    for wrong in ({"strength": -1.0}, {"relative": 0.0}):
        with pytest.raises(ConfigError):
            penalty(nn.Linear(1, 1), **wrong)
    with pytest.raises(ConfigError, match="no convolution"):
        penalty(nn.ReLU())
