"""What names cannot see: code that counts channels by numbers. It is tried out, pinned, and its line is told."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from nets import Between, randomized
from torch import Tensor, nn

from lilliput.core.channels import channels
from lilliput.core.edits import Resize
from lilliput.core.perform import perform
from lilliput.errors import EditError, ModelError

IMAGE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def first_four_tripled(m: nn.Module, x: Tensor) -> Tensor:
    x[:, :4].mul_(3)
    return x


def viewed_as_eight(m: nn.Module, x: Tensor) -> Tensor:
    return x.view(x.shape[0], 8, *x.shape[2:]) * 2


def narrowed(m: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([x.narrow(1, 0, 4), x], 1)


def split_into_fours(m: nn.Module, x: Tensor) -> Tensor:
    left, right = x.split(4, 1)
    return torch.cat([right, left], 1)


def heads_of_four(m: nn.Module, x: Tensor) -> Tensor:
    b, _, h, w = x.shape
    return x.view(b, -1, 4, h, w).softmax(1).reshape(b, -1, h, w)


def scaled_by_width(m: nn.Module, x: Tensor) -> Tensor:
    return x * x.shape[1] ** -0.5


def another_way_when_narrow(m: nn.Module, x: Tensor) -> Tensor:
    return x * 2 if x.shape[1] == 8 else x


COUNTS = [
    (first_four_tripled, 8),
    (viewed_as_eight, 8),
    (narrowed, 12),
    (split_into_fours, 8),
    (heads_of_four, 8),
    (scaled_by_width, 8),
    (another_way_when_narrow, 8),
]


@pytest.mark.parametrize(("function", "width"), COUNTS)
def test_code_that_counts_channels_is_pinned_with_its_line(function: Callable[..., Tensor], width: int) -> None:
    torch.manual_seed(3)  # a network this narrow may be cut by its activations, and then there is nothing to see
    model = Between(function, width)
    found = channels(model, IMAGE)
    assert {g.name for g in found.groups} == {"b"}
    start = function.__code__.co_firstlineno
    lines = [f"{Path(__file__).name}:{n}" for n in range(start, start + 4)]
    told = [reason for reason, sites in found.reasons().items() if "a" in sites]
    assert told and any(f"({line})" in told[0] for line in lines)
    assert {"a", "b"} <= {g.name for g in channels(model, IMAGE, verify=False).groups}


def test_code_that_reads_the_width_from_its_input_is_not_pinned() -> None:
    def halves(m: nn.Module, x: Tensor) -> Tensor:
        return torch.cat([x[:, : x.shape[1] // 2] * 3, x[:, x.shape[1] // 2 :]], 1)

    def viewed(m: nn.Module, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], -1).view(x.shape) * 2

    for function in (halves, viewed):
        assert {g.name for g in channels(Between(function, 8), IMAGE).groups} == {"a", "b"}


def test_only_the_group_that_differs_is_pinned_among_many() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Conv2d(8 if i else 3, 8, 1) for i in range(9))

        def forward(self, x: Tensor) -> Tensor:
            for number, layer in enumerate(self.layers):
                x = layer(x)
                if number == 4:
                    x[:, :4].neg_()
            return x

    found = channels(Deep(), IMAGE)
    assert {g.name for g in found.groups} == {f"layers.{i}" for i in range(8) if i != 4}


def test_numbers_that_hide_a_difference_are_made_to_differ() -> None:
    """A norm whose scale is zero lets nothing through, so what comes before it would look equal to anything."""
    model = Between(lambda m, x: m.bn(first_four_tripled(m, x)), 8, bn=nn.BatchNorm2d(8))
    nn.init.zeros_(model.bn.weight)
    before = copy.deepcopy(model.state_dict())
    assert {g.name for g in channels(model, IMAGE).groups} == {"b"}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Auxiliary(nn.Module):
    """A second classifier that only training runs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 1)
        self.head, self.aux = nn.Linear(6, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.norm(self.a(x)).relu()
        y = self.head(self.b(x).relu().mean((2, 3)))
        return (y, self.aux(x.mean((2, 3)))) if self.training else y


def test_branches_of_training_shrink_too() -> None:
    model = randomized(Auxiliary())
    found = channels(model, IMAGE)
    assert ("aux", "in") in {(s.site, s.axis) for s in found.slots}
    small = perform(model, found.remove([a for g in found.groups for a in g.atoms[::2]])).train()
    y, other = small(torch.randn(2, 3, 8, 8, dtype=torch.double))
    assert y.shape == other.shape == (2, 4)
    assert small.aux.in_features == 4
    assert model.norm.num_batches_tracked == 0


def test_what_is_all_one_atom_says_so() -> None:
    model = Between(lambda m, x: m.norm(x), 8, norm=nn.GroupNorm(1, 8))
    found = channels(model, IMAGE)
    assert found.reasons()["all channels of `norm.weight` are one, and nothing would be left"] == ["a"]


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.a(x + y)


@pytest.mark.parametrize(
    ("model", "example", "words"),
    [
        (Two(), IMAGE, "missing 1 required positional argument: 'y'"),
        (Two(), [IMAGE, IMAGE], "not a `list`"),
        (Between(viewed_as_eight, 8), torch.randn(1, 5, 8, 8), "got 5 channels instead"),
    ],
)
def test_a_network_that_does_not_run_on_the_example_is_told_apart(model: nn.Module, example: Tensor, words: str) -> None:
    with pytest.raises(ModelError) as caught:
        channels(model, example)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_norm_has_no_inputs_of_its_own() -> None:
    with pytest.raises(EditError, match=r"norm: a `BatchNorm2d` has one set of channels, which is called `out`"):
        perform(Auxiliary(), [Resize("norm", "in", (0, 1))])


def test_a_network_in_half_precision_is_tried_out_in_single() -> None:
    assert {g.name for g in channels(Between(first_four_tripled, 8).half(), IMAGE).groups} == {"b"}
    assert {g.name for g in channels(Between(lambda m, x: x, 8).half(), IMAGE).groups} == {"a", "b"}


class Scaled(nn.Module):
    """Channels counted by numbers, then scaled by a parameter of no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.gamma = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Parameter(torch.rand(8) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.a(x).split([4, 4], 1)
        return self.b(torch.cat([right, left], 1).mul(self.gamma.reshape(1, -1, 1, 1))).mean((2, 3))


def test_a_line_is_told_where_a_parameter_of_no_layer_loses_channels_too() -> None:
    torch.manual_seed(0)
    reasons = channels(Scaled(), IMAGE).reasons()
    start = Scaled.forward.__code__.co_firstlineno
    assert any("a" in sites and f"test_channels_trial.py:{start + 1}" in reason for reason, sites in reasons.items())
