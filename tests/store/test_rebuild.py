"""Records become networks: the same structure, no work done twice, no more work than the limits allow."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lil_samples import MAPS, RESIZES, small
from torch import nn

from lilliput.core.record import Record, record
from lilliput.errors import FormatError, ModelError, UnknownName
from lilliput.store import factory, rebuild
from lilliput.store.guard import Guard
from lilliput.store.rebuild import skeleton


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("make", [rebuild, skeleton])
def test_a_record_gives_the_same_structure(make: Any) -> None:
    model = small()
    again = make(record(model))
    assert shapes(again) == shapes(model) and record(again) == record(model)


def test_rebuilt_networks_can_be_filled_and_run() -> None:
    model = small()
    again = rebuild(record(model))
    again.load_state_dict(model.state_dict())
    x = torch.linspace(0, 1, 3072).reshape(1, 3, 32, 32)
    assert torch.equal(model(x), again(x))


def test_a_skeleton_of_the_zoo_has_no_memory() -> None:
    assert all(tensor.is_meta for tensor in skeleton(Record("resnet8", RESIZES + MAPS)).state_dict().values())


def test_the_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    rebuild(Record("resnet8"))
    assert torch.equal(before, torch.get_rng_state())


def test_nothing_to_build_is_an_error() -> None:
    with pytest.raises(FormatError, match="no architecture"):
        rebuild(Record())


def test_a_factory_builds_from_the_zoo() -> None:
    assert factory("resnet8:width=0.5,classes=3", trust=False)().architecture == "resnet8:classes=3,width=0.5"
    with pytest.raises(UnknownName, match="Did you mean"):
        factory("resnt20", trust=True)


@pytest.mark.parametrize(
    "text",
    ["resnet20:width=1e7", "resnet20:classes=99999999999", "shift_resnet20:expansion=1e5", "vgg16:classes=100000"],
)
def test_networks_beyond_the_limits_are_not_built(text: str) -> None:
    with pytest.raises((FormatError, ModelError), match="over a limit"):
        rebuild(Record(text))
    with pytest.raises((FormatError, ModelError), match="over a limit"):
        skeleton(Record(text))


def test_the_guard_stops_before_memory_is_asked_for() -> None:
    with Guard(largest=1000), pytest.raises(FormatError, match="over a limit"):
        torch.zeros(1 << 60)
    x = torch.zeros(100, 1)
    with Guard(largest=1000), pytest.raises(FormatError, match="over a limit"):
        x + x.t()
    with Guard(largest=1000):
        assert (x.expand(100, 1 << 40)[:, :3] + 1).numel() == 300


def test_the_guard_counts_totals_and_operations() -> None:
    with Guard(largest=100, total=250), pytest.raises(FormatError, match="over a limit"):
        for _ in range(3):
            torch.ones(100)
    guard = Guard(largest=100)
    guard.operations = 5
    with guard, pytest.raises(FormatError, match="operations"):
        for _ in range(10):
            torch.ones(1)


def test_the_guard_lets_through_what_depends_on_numbers() -> None:
    x = torch.tensor([1.0, 0.0, 2.0])
    with Guard(largest=100):
        assert x[x > 0].tolist() == [1.0, 2.0] and x.nonzero().shape == (2, 1) and x.sum().item() == 3
    with Guard(largest=1), pytest.raises(FormatError, match="over a limit"):
        x.nonzero()
