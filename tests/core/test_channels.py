"""The law of channel names: a network without channels equals the network in which nobody listens to them."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import Between, Everything, FixedPad, Residual, randomized, silenced
from torch import Tensor, nn

from lilliput import zoo
from lilliput.core.channels import Channels, channels
from lilliput.core.perform import perform
from lilliput.errors import EditError

SUBJECTS = {
    "everything": (Everything, 8),
    "residual": (Residual, 8),
    "fixed pad": (FixedPad, 8),
    "resnet8": (lambda: zoo.create("resnet8"), 16),
    "resnet8 grey": (lambda: zoo.create("resnet8", channels=1), 8),
}


@functools.cache
def named(name: str) -> tuple[nn.Module, Tensor, Channels]:
    model, x = subject(name)
    return model, x, channels(model, x)


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
    model, x, found = named(name)
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


def conv(inputs: int = 8) -> nn.Conv2d:
    return nn.Conv2d(inputs, 8, 1)


def number(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape))


def halves(x: Tensor) -> Tensor:
    return x.view(x.shape[0], 2, x.shape[1] // 2, *x.shape[2:])


def tied() -> dict[str, nn.Module]:
    one, other = conv(), conv()
    other.weight = one.weight
    return {"one": one, "other": other}


CONSTANT = torch.randn(1, 8, 1, 1, dtype=torch.double)
# What stands between two convolutions, the width it gives, and the layers it uses.
HARD: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], int, Callable[[], dict[str, nn.Module | nn.Parameter]]]] = {
    "sum of halves": (lambda m, x: halves(x).sum(1), 4, dict),
    "softmax over halves": (lambda m, x: (halves(x) * halves(x).mean((3, 4), keepdim=True).softmax(1)).sum(1), 4, dict),
    "sum of a stack": (lambda m, x: torch.stack([x, m.c(x)]).sum(0), 8, lambda: {"c": conv()}),
    "cat below each other": (lambda m, x: torch.cat([x, m.c(x)], 2), 8, lambda: {"c": conv()}),
    "sliding sum over channels": (lambda m, x: x.unfold(1, 3, 1).sum(-1), 6, dict),
    "every second channel": (lambda m, x: x[:, ::2], 4, dict),
    "channels by number": (lambda m, x: x[:, [0, 2, 5, 7]], 4, dict),
    "channels by index_select": (lambda m, x: x.index_select(1, torch.tensor([0, 2, 5, 7])), 4, dict),
    "roll over channels": (lambda m, x: x.roll(1, 1), 8, dict),
    "pairs of neighbours": (
        lambda m, x: x.view(x.shape[0], x.shape[1] // 2, 2, *x.shape[2:]).transpose(1, 2).reshape(x.shape), 8, dict,
    ),
    "a constant that is no buffer": (lambda m, x: x * CONSTANT, 8, dict),
    "a constant filled in place": (lambda m, x: torch.zeros(x.shape[0], 8, 8, 8, dtype=x.dtype).add_(x), 8, dict),
    "a mask picks": (lambda m, x: x + x[x > 0].mean(), 8, dict),
    "product of images": (lambda m, x: x @ x.transpose(2, 3), 8, dict),
    "bare convolution": (lambda m, x: F.conv2d(x, m.w, m.v), 8, lambda: {"w": number(8, 8, 1, 1), "v": number(8)}),
    "bare linear": (
        lambda m, x: F.linear(x.movedim(1, 3), m.w, m.v).movedim(3, 1), 8, lambda: {"w": number(8, 8), "v": number(8)},
    ),
    "a weight with a gain": (
        lambda m, x: F.conv2d(x, m.w * m.g), 8, lambda: {"w": number(8, 8, 1, 1), "g": number(8, 1, 1, 1)},
    ),
    "patches": (
        lambda m, x: m.c(F.unfold(x, 3, padding=1).view(x.shape[0], -1, *x.shape[2:])), 8, lambda: {"c": conv(72)},
    ),
    "a row of a table": (
        lambda m, x: x + m.e(torch.zeros(1, dtype=torch.long))[:, :, None, None], 8, lambda: {"e": nn.Embedding(3, 8)},
    ),
    "tied weights": (lambda m, x: m.other(m.one(x).relu()), 8, tied),
    "twice, once on a constant": (lambda m, x: m.c(x) + m.c(torch.ones_like(CONSTANT)), 8, lambda: {"c": conv()}),
}  # fmt: skip


@pytest.mark.parametrize("name", HARD)
def test_what_cannot_shrink_stays_and_what_shrinks_equals_silence(name: str) -> None:
    torch.manual_seed(0)
    function, width, layers = HARD[name]
    model, x = randomized(Between(function, width, **layers())), torch.randn(2, 3, 8, 8, dtype=torch.double)
    found, draw = channels(model, x), random.Random(0)
    assert any(g.name == "b" for g in found.groups)
    for _ in range(6):
        atoms = [a for g in found.groups for a in draw.sample(g.atoms, draw.randint(0, len(g.atoms) - 1))]
        quiet = silenced(model, found, atoms)
        for slot in found.slots:  # the inputs of a weight that no layer owns
            if (slot.site, slot.axis) == ("w", "1"):
                quiet.w.data[:, torch.isin(slot.atoms, torch.tensor(atoms))] = 0
        with torch.no_grad():
            assert torch.allclose(perform(model, found.remove(atoms))(x), quiet(x), atol=1e-9)


def test_outputs_inside_an_object_are_outputs() -> None:
    @dataclass
    class Output:
        logits: Tensor

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1)

        def forward(self, x: Tensor) -> Output:
            return Output(self.b(self.a(x)))

    assert {g.name for g in channels(Wrapped(), torch.randn(1, 3, 4, 4)).groups} == {"a"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_names_do_not_depend_on_the_type_of_numbers(dtype: torch.dtype) -> None:
    model = Between(lambda m, x: x, 8)
    expected = [(s.site, s.axis, s.atoms.tolist()) for s in channels(model, torch.randn(1, 3, 4, 4)).slots]
    found = channels(model.to(dtype), torch.randn(1, 3, 4, 4))
    assert [(s.site, s.axis, s.atoms.tolist()) for s in found.slots] == expected
