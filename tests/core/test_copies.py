"""Fast copies are deep copies."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from lilliput import zoo
from lilliput.core.copies import copied, sharing, shell


class Odd(nn.Module):
    """Modules in plain lists, a shared layer, a hook, a table of its own and a parameter under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.again = self.one
        self.hidden = [self.two, {"deep": self.one}]
        self.two.weight = self.one.weight
        self.seen: dict[str, list[int]] = {"calls": []}
        self.one.register_forward_hook(lambda module, args, output: output + 1)
        self.register_buffer("count", torch.zeros(3), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen["calls"].append(1)
        return self.hidden[0](self.hidden[1]["deep"](self.again(x)))  # type: ignore[index, no-any-return, operator]


class Stubborn(nn.Linear):
    """A layer that copies itself in a way of its own."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Stubborn:
        return Stubborn(7, 7)


def test_a_copy_computes_the_same_and_shares_nothing() -> None:
    model, x = Odd().train(), torch.randn(2, 4)
    new = copied(model)
    assert torch.equal(new(x), copy.deepcopy(model)(x)) and model.seen == {"calls": []}
    assert new.training and new.again is new.one and new.two.weight is new.one.weight
    assert new.hidden[0] is new.two and new.hidden[1]["deep"] is new.one  # type: ignore[index]
    assert not {id(t) for t in (*new.parameters(), *new.buffers())} & {id(t) for t in (*model.parameters(), *model.buffers())}
    assert not {id(m) for m in new.modules()} & {id(m) for m in model.modules()}
    assert set(new.state_dict()) == set(model.state_dict())
    new.register_forward_hook(lambda module, args, output: output * 0)
    assert bool(model(x).any())


@pytest.mark.parametrize("name", ["resnet8", "mobilenet_v2_32:width=0.25", "shufflenet_v2_32"])
def test_copies_of_the_zoo_are_equal(name: str) -> None:
    model = zoo.create(name)
    new, deep = copied(model), copy.deepcopy(model)
    assert repr(new) == repr(deep) and vars(new).keys() == vars(deep).keys()
    for ours, theirs in zip(new.modules(), deep.modules(), strict=True):
        assert vars(ours).keys() == vars(theirs).keys()
        assert all(getattr(ours, k) == v for k, v in vars(theirs).items() if isinstance(v, int | str | tuple))
    assert all(torch.equal(a, b) for a, b in zip(new.state_dict().values(), deep.state_dict().values(), strict=True))


def test_what_copies_itself_does() -> None:
    assert copied(nn.Sequential(Stubborn(3, 3)))[0].in_features == 7


def test_tensors_can_be_shared_or_left_out() -> None:
    model = Odd()
    assert sharing(model, [model.one.weight]).two.weight is model.one.weight
    bare = shell(model)
    assert bare.one.weight.is_meta and bare.two.weight is bare.one.weight and not model.one.weight.is_meta
