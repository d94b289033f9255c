"""One small network for each family of operations: its channels can go, and removed equals silenced."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from nets import Between, randomized
from torch import Tensor, nn

from lilliput.core.balance import balance
from lilliput.core.channels import channels
from lilliput.core.names import Names
from lilliput.core.perform import perform
from lilliput.core.silence import silence

Function = Callable[[nn.Module, Tensor], Tensor]
Layers = Callable[[], dict[str, nn.Module | nn.Parameter]]


def conv(inputs: int = 8, outputs: int = 8, **options: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, **options)


def branches(m: nn.Module, x: Tensor) -> Tensor:
    """Two branches weighed by a softmax over them, as in selective kernels."""
    both = torch.stack([m.c(x), m.d(x)], 1)
    weights = m.e(both.sum(1).mean((2, 3), keepdim=True)).view(x.shape[0], 2, -1, 1, 1).softmax(1)
    return (both * weights).sum(1)


def last(function: Function) -> Function:
    """The same on images whose channels stand last."""
    return lambda m, x: function(m, x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def halves_swapped(m: nn.Module, x: Tensor) -> Tensor:
    left, right = x.chunk(2, 1)
    return torch.cat([right, m.c(left)], 1)


def shuffled(m: nn.Module, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)


def sequences(m: nn.Module, x: Tensor) -> Tensor:
    return m.c(x.flatten(2)).view(x.shape[0], -1, *x.shape[2:])


def volumes(m: nn.Module, x: Tensor) -> Tensor:
    return m.c(x.unsqueeze(2)).squeeze(2)


def attention(m: nn.Module, x: Tensor) -> Tensor:
    """Places attend to places; the channels that are summed go together in both."""
    left, right = m.c(x).flatten(2), m.d(x).flatten(2)
    weights = torch.einsum("bci,bcj->bij", left, right).softmax(-1)
    return torch.einsum("bij,bcj->bci", weights, x.flatten(2)).view(x.shape)


def unbound(m: nn.Module, x: Tensor) -> Tensor:
    one, two = torch.stack([x, m.c(x)], 0).unbind(0)
    return one - two * 2


def squeezed(m: nn.Module, x: Tensor) -> Tensor:
    return x * m.e(m.c(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


# The function between the convolutions, the width it gives, its layers, and which groups must be free.
FAMILIES: dict[str, tuple[Function, int, Layers, set[str]]] = {
    "interpolate": (lambda m, x: F.interpolate(x, scale_factor=2, mode="bilinear"), 8, dict, {"a"}),
    "pad and pool": (lambda m, x: F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 2), 8, dict, {"a"}),
    "pixel shuffle": (lambda m, x: F.pixel_shuffle(m.c(x), 2), 8, lambda: {"c": conv(8, 32)}, {"a", "c"}),
    "roll and flip over places": (lambda m, x: x.roll(1, 2) - x.flip(3), 8, dict, {"a"}),
    "stack and unbind": (unbound, 8, lambda: {"c": conv()}, {"a"}),
    "halves swapped": (halves_swapped, 8, lambda: {"c": conv(4, 4)}, {"a", "c"}),
    "channel shuffle": (shuffled, 8, dict, {"a"}),
    "softmax over branches": (branches, 8, lambda: {"c": conv(), "d": conv(), "e": conv(8, 16)}, {"a", "c"}),
    "gate": (squeezed, 8, lambda: {"c": conv(8, 4), "e": conv(4, 8)}, {"a", "c"}),
    "layer scale": (lambda m, x: x + m.s * m.c(x), 8, lambda: {"c": conv(), "s": nn.Parameter(torch.randn(8, 1, 1))}, {"a"}),
    "linear on last": (last(lambda m, x: m.f(m.e(x).relu())), 8, lambda: {"e": nn.Linear(8, 6), "f": nn.Linear(6, 8)},
                       {"a", "e", "f"}),
    "layer norm holds": (last(lambda m, x: m.e(m.n(x))), 8, lambda: {"n": nn.LayerNorm(8), "e": nn.Linear(8, 8)}, {"e"}),
    "instance norm": (lambda m, x: m.n(x), 8, lambda: {"n": nn.InstanceNorm2d(8, affine=True)}, {"a"}),
    "group norm": (lambda m, x: m.n(x), 8, lambda: {"n": nn.GroupNorm(4, 8)}, {"a"}),
    "prelu": (lambda m, x: m.n(x), 8, lambda: {"n": nn.PReLU(8)}, {"a"}),
    "sequences": (sequences, 8, lambda: {"c": nn.Conv1d(8, 8, 3, padding=1)}, {"a", "c"}),
    "volumes": (volumes, 8, lambda: {"c": nn.Conv3d(8, 8, 1)}, {"a", "c"}),
    "transposed": (lambda m, x: m.c(x), 8, lambda: {"c": nn.ConvTranspose2d(8, 8, 2, 2)}, {"a", "c"}),
    "transposed in groups": (lambda m, x: m.c(x), 12, lambda: {"c": nn.ConvTranspose2d(8, 12, 2, 2, groups=2)}, {"a", "c"}),
    "transposed depthwise": (lambda m, x: m.c(x), 8, lambda: {"c": nn.ConvTranspose2d(8, 8, 2, 2, groups=8)}, {"a"}),
    "few groups": (lambda m, x: m.c(x), 12, lambda: {"c": conv(8, 12, groups=2)}, {"a", "c"}),
    "many groups": (lambda m, x: m.c(x), 8, lambda: {"c": conv(8, 8, groups=4)}, {"a"}),
    "places attend": (attention, 8, lambda: {"c": conv(), "d": conv()}, {"a"}),
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_removed_equals_silenced(name: str) -> None:
    torch.manual_seed(0)
    function, width, layers, free = FAMILIES[name]
    model, x = randomized(Between(function, width, **layers())), torch.randn(2, 3, 8, 8, dtype=torch.double)
    found, draw = channels(model, x), random.Random(0)
    assert {g.name for g in found.groups} >= free | {"b"}
    for _ in range(3):
        atoms = [a for g in found.groups for a in draw.sample(g.atoms, draw.randint(0, len(g.atoms) - 1))]
        quiet, edits = copy.deepcopy(model), found.remove(atoms)
        silence(quiet, edits)
        with torch.no_grad():
            assert torch.allclose(perform(model, edits)(x), quiet(x), atol=1e-9)


def test_many_groups_leave_whole_and_few_shrink_evenly() -> None:
    counts = {}
    for groups in (2, 4):
        found = channels(Between(lambda m, x: m.c(x), 8, c=conv(8, 8, groups=groups)), torch.randn(1, 3, 8, 8))
        counts[groups] = {g.name: len(g.atoms) for g in found.groups}
        small = perform(Between(lambda m, x: m.c(x), 8, c=conv(8, 8, groups=groups)), found.remove([found.groups[0].atoms[0]]))
        assert small.c.groups == (2 if groups == 2 else 3)
    assert counts == {2: {"a": 4, "c": 4, "b": 6}, 4: {"a": 4, "b": 6}}


def test_balanced_names_stand_equally_often_in_every_group() -> None:
    names = Names()
    made = names.fresh(12)
    blocks = made.view(2, 6).t().reshape(3, 4)  # rows of a shuffle straddle the blocks
    names.join(made[:6], made[6:])  # what a shuffle keeps in order
    balance(names, blocks, "")
    for root in names.roots(made).unique():
        assert len({int((names.roots(row) == root).sum()) for row in blocks}) == 1
    assert len(names.roots(made).unique()) > 1
