"""Networks laid out for binary convolutions: what they cost, and what signs change."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lilliput as lp
from lilliput.core.layers import Mapped
from lilliput.quant import LowBit
from lilliput.zoo.resnet_binary import RPReLU


def params(name: str) -> int:
    return sum(p.numel() for p in lp.zoo.create(name).parameters())


def test_they_cost_what_their_originals_do() -> None:
    assert params("bireal_resnet18") == params("resnet18") == 11_689_512
    moves = 3 * 4 * (64 + 128 + 256 + 512)  # two moves and a slope for each channel of 16 units
    assert params("react_resnet18") == params("bireal_resnet18") + moves
    shortcuts = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64  # ResNet-20 has none with parameters
    assert params("bireal_resnet20") == params("resnet20") + shortcuts
    assert params("react_resnet20") == params("bireal_resnet20") + 3 * 6 * (16 + 32 + 64)
    one, other = (lp.profile(lp.zoo.create(name), torch.zeros(1, 3, 224, 224)) for name in ("bireal_resnet18", "resnet18"))
    assert one.macs == other.macs


@pytest.mark.parametrize(("name", "scheme"), [("bireal_resnet20", "birealnet"), ("react_resnet20", "reactnet")])
def test_every_unit_becomes_binary_and_nothing_else(name: str, scheme: str) -> None:
    torch.manual_seed(0)
    model = lp.zoo.create(name, width=0.5, classes=3).eval()
    low = LowBit(scheme)(model, lp.Look(torch.randn(2, 3, 8, 8)))
    mapped = [site for site, m in low.named_modules() if isinstance(m, Mapped)]
    assert mapped == [f"stages.{stage}.{unit}.conv" for stage in range(3) for unit in range(6)]
    assert low(torch.randn(2, 3, 8, 8)).shape == (2, 3)


def test_a_clip_in_front_does_not_change_signs() -> None:
    torch.manual_seed(0)
    model = LowBit("birealnet")(lp.zoo.create("bireal_resnet20", width=0.5).eval(), lp.Look(torch.randn(2, 3, 8, 8)))
    x = torch.randn(2, 3, 9, 9)
    expected = model(x)
    for unit in model.modules():
        if hasattr(unit, "clip"):
            unit.clip = nn.Identity()
    assert torch.allclose(model(x), expected, atol=1e-5)


def test_activations_that_move() -> None:
    act = RPReLU(2)
    act.before.data, act.after.data = torch.tensor([1.0, 0.0]), torch.tensor([0.5, -0.5])
    x = torch.tensor([3.0, -1.0]).view(1, 1, 2, 1).repeat(1, 2, 1, 1)
    assert torch.allclose(act(x)[0, :, :, 0], torch.tensor([[2.5, 0.0], [2.5, -0.75]]))


def test_channels_leave() -> None:
    torch.manual_seed(0)
    look = lp.Look(torch.randn(2, 3, 16, 16))
    model = lp.zoo.create("react_resnet20", width=0.5).eval()
    small = lp.prune.Channels(keep=0.5)(model, look)
    assert lp.profile(small, look.example).macs < 0.6 * lp.profile(model, look.example).macs
