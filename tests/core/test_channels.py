"""The law of channel names: a network without channels equals the network in which nobody listens to them."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Everything, FixedPad, Residual, randomized, silenced
from torch import Tensor, nn

from lilliput import zoo
from lilliput.core.channels import channels
from lilliput.core.perform import perform
from lilliput.errors import EditError

SUBJECTS = {
    "everything": (Everything, 8),
    "residual": (Residual, 8),
    "fixed pad": (FixedPad, 8),
    "resnet8": (lambda: zoo.create("resnet8"), 16),
    "resnet8 grey": (lambda: zoo.create("resnet8", channels=1), 8),
}


def subject(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    build, size = SUBJECTS[name]
    model = randomized(build())
    inputs = 1 if "grey" in name else 3
    return model, torch.randn(2, inputs, size, size, dtype=torch.double)


@pytest.mark.parametrize("name", SUBJECTS)
@given(seed=st.integers(0, 10_000), share=st.floats(0.05, 0.9))
@settings(max_examples=8, deadline=None)
def test_removed_equals_silenced(name: str, seed: int, share: float) -> None:
    model, x = subject(name)
    found = channels(model, x)
    draw = random.Random(seed)
    atoms = [a for g in found.groups for a in draw.sample(g.atoms, int(share * len(g.atoms)))]
    small = perform(model, found.remove(atoms))
    with torch.no_grad():
        assert torch.allclose(small(x), silenced(model, found, atoms)(x), atol=1e-9)


@pytest.mark.parametrize("name", SUBJECTS)
def test_every_hidden_channel_has_a_name_and_outputs_stay(name: str) -> None:
    model, x = subject(name)
    found = channels(model, x)
    assert found.groups
    assert all((slot.atoms != 0).all() for slot in found.slots if slot.axis == "out")
    assert any("output" in reason for reason in found.reasons())


def test_a_fixed_number_of_padded_channels_pins_and_names_the_line() -> None:
    model, x = subject("fixed pad")
    found = channels(model, x)
    reasons = [r for r in found.reasons() if "padding adds a fixed number" in r]
    assert reasons and "nets.py:" in reasons[0]
    assert {g.name for g in found.groups} == {"a"} and len(found.atoms) == 8


def test_an_operation_without_a_rule_pins_what_reaches_it() -> None:
    class Sorted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).sort(1).values)

    found = channels(Sorted(), torch.randn(1, 3, 4, 4))
    assert not found.atoms
    assert any(r.startswith("no rule for aten.sort") and "test_channels.py" in r for r in found.reasons())


def test_dropping_all_of_a_layer_is_refused() -> None:
    model, x = subject("residual")
    found = channels(model, x)
    group = found.groups[0]
    with pytest.raises(EditError, match=f"all {len(group.atoms)} channels of `out` would go"):
        found.remove(group.atoms)


def test_pinned_atoms_are_refused_with_their_reason() -> None:
    model, x = subject("residual")
    found = channels(model, x)
    output = next(atom for atom, reason in found.pinned.items() if "output" in reason)
    with pytest.raises(EditError, match="output of the network"):
        found.remove([output])


def test_what_an_unknown_operation_returns_holds_back_what_meets_it() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.a(x).sort(1).values * self.b(x))

    assert not channels(Gated(), torch.randn(1, 3, 4, 4)).atoms


def test_naming_leaves_the_model_and_the_random_state_alone() -> None:
    model, x = subject("everything")
    model.train()
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    channels(model, x)
    assert model.training and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
