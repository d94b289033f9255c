"""Edits: performed on a new model, refused when they do not fit, the same after a trip through JSON."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import Everything, Residual, randomized
from torch import Tensor, nn

from lilliput import zoo
from lilliput.core.channels import channels
from lilliput.core.edits import Edit, Map, Resize, Swap, from_json, spans, to_json, unspan
from lilliput.core.layers import Compressed, MappedConv2d, swaps
from lilliput.core.maps import Mapping, maps, take
from lilliput.core.perform import bake, perform
from lilliput.core.record import edits
from lilliput.errors import EditError


@maps.register("test.threshold")
class Threshold(Mapping):
    """Zeroes weights whose magnitude is below a given one; resizes with its host."""

    name = "test.threshold"

    def __init__(self, shape: torch.Size, device: torch.device, below: float) -> None:
        super().__init__()
        self.below = below
        self.register_buffer("mask", torch.ones(shape, device=device))

    @classmethod
    def like(cls, tensor: Tensor, **spec: Any) -> Threshold:
        return cls(tensor.shape, tensor.device, **spec)

    def absorb(self, tensor: Tensor) -> None:
        self.mask.copy_(tensor.abs() >= self.below)

    def resize(self, axis: str, keep: Any, dim: int) -> None:
        self.mask = take(self.mask, dim, keep)

    def forward(self, w: Tensor) -> Tensor:
        return w * self.mask


@maps.register("test.clamp")
class Clamp(Mapping):
    """Clamps an activation."""

    name = "test.clamp"

    def __init__(self, high: float) -> None:
        super().__init__()
        self.high = high

    @classmethod
    def like(cls, tensor: Tensor, **spec: Any) -> Clamp:
        return cls(**spec)

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(-self.high, self.high)


@swaps.register("test.scaled")
class Scaled(Compressed):
    """The dense layer times one number."""

    name = "test.scaled"

    def __init__(self, inner: nn.Module, by: float) -> None:
        super().__init__()
        self.inner, self.by = inner, by

    @classmethod
    def like(cls, dense: nn.Module, **spec: Any) -> Scaled:
        return cls(copy.deepcopy(dense), **spec)

    def absorb(self, dense: nn.Module) -> None:
        self.inner.load_state_dict(dense.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.by


MIXED: list[Edit] = [
    Map("stem", "weight", "test.threshold", {"below": 0.1}),
    Resize("stem", "out", tuple(range(11))),
    Resize("one.0", "in", tuple(range(11))),
    Resize("one.2", "out", tuple(range(11))),
    Resize("project", "in", tuple(range(11))),
    Resize("two.0", "in", tuple(range(11))),
    Swap("twice", "test.scaled", {"by": 0.5}),
    Map("two", "output", "test.clamp", {"high": 1.5}),
    Map("head", "input", "test.clamp", {"high": 0.7}),
]


def subject() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return randomized(Residual()), torch.randn(2, 3, 8, 8, dtype=torch.double)


def test_the_input_is_untouched_and_nothing_is_shared() -> None:
    model, x = subject()
    before, y = {k: v.clone() for k, v in model.state_dict().items()}, model(x)
    new = perform(model, MIXED)
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.zero_()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(model(x), y) and edits(model) == ()
    assert not any(m._forward_hooks for m in model.modules())


def test_edits_survive_json_and_replay_bit_equal() -> None:
    model, x = subject()
    once = perform(model, MIXED)
    again = perform(model, from_json(json.loads(json.dumps(to_json(MIXED)))))
    assert edits(again) == edits(once) == tuple(MIXED)
    assert torch.equal(once(x), again(x))


def test_structure_alone_then_the_state_dict_is_the_same_model() -> None:
    model, x = subject()
    done = perform(model, MIXED)
    with torch.no_grad():
        for parameter in done.parameters():
            parameter.add_(0.01)
    rebuilt = perform(model, MIXED, weights=False)
    rebuilt.load_state_dict(done.state_dict())
    assert torch.equal(rebuilt(x), done(x))


def test_structure_alone_works_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = Residual()
    made = perform(model, MIXED, weights=False)
    assert {k: v.shape for k, v in made.state_dict().items()} == {
        k: v.shape for k, v in perform(Residual(), MIXED).state_dict().items()
    }


def test_bake_keeps_the_function_and_leaves_ordinary_layers() -> None:
    model, x = subject()
    mapped = perform(model, MIXED)
    baked = bake(mapped)
    assert torch.allclose(baked(x), mapped(x))
    assert type(baked.get_submodule("stem")) is nn.Conv2d and isinstance(mapped.get_submodule("stem"), MappedConv2d)
    assert torch.equal(baked.get_submodule("stem").weight, mapped.get_submodule("stem").mapped_weight())
    assert [e for e in edits(baked) if isinstance(e, Map) and e.tensor == "weight"] == []
    assert type(baked.get_submodule("head")) is MappedConv2d  # what acts on its input still runs


def test_maps_follow_a_resize() -> None:
    model = perform(Everything(), [Map("c", "weight", "test.threshold", {"below": 0.05})]).eval()
    x = torch.randn(1, 3, 8, 8)
    found = channels(model, x)
    small = perform(model, found.remove([a for g in found.groups for a in g.atoms[::2]]))
    layer = small.get_submodule("c")
    assert layer.weight_maps[0].mask.shape == layer.weight.shape
    assert torch.isfinite(small(x)).all()


def test_a_copy_shares_nothing_with_the_mapped_original() -> None:
    model, x = subject()
    mapped = perform(model, MIXED)
    y = mapped(x)
    other = bake(copy.deepcopy(mapped))
    with torch.no_grad():
        other.get_submodule("stem").weight.zero_()
    assert torch.equal(mapped(x), y)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (Resize("nowhere", "out", (0,)), "nowhere: the model has no such layer"),
        (Resize("stem", "out", ()), "stem: removing every channel"),
        (Resize("stem", "out", (0, 12)), r"stem: `keep` must ascend within 0\.\.11"),
        (Resize("stem", "out", (3, 3)), "must ascend"),
        (Resize("stem", "side", (0,)), "the axis is `in` or `out`"),
        (Resize("two.2", "out", (0,)), "a `ReLU` cannot lose channels"),
        (Map("stem", "weight", "test.thresold", {}), "Did you mean `test.threshold`"),
        (Map("stem", "weight", "test.threshold", {"above": 1}), "cannot be made with"),
        (Map("stem", "bias", "test.threshold", {"below": 1}), "not on `bias`"),
        (Map("two.1", "weight", "test.threshold", {"below": 1}), "a `BatchNorm2d` has no mapped form"),
        (Swap("stem", "test.scaled", {}), "cannot be made with"),
        (Map("", "weight", "test.threshold", {"below": 1}), "no mapped form"),
        (Resize("scale", "7", (0,)), "no parameter or buffer `scale`"),
    ],
)
def test_edits_that_do_not_fit_name_the_place(edit: Edit, words: str) -> None:
    with pytest.raises(Exception, match=words) as caught:
        perform(Residual(), [edit])
    assert caught.value.exit_code in (1, 2)


def test_groups_must_shrink_evenly() -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 1, groups=4))
    with pytest.raises(EditError, match=r"0: the 4 groups must keep equally many channels, and keep \[2, 2, 1, 2\]"):
        perform(model, [Resize("0", "out", (0, 1, 2, 3, 4, 6, 7))])
    whole = perform(model, [Resize("0", "out", (0, 1, 4, 5))])[0]
    assert (whole.groups, whole.in_channels, whole.out_channels) == (2, 4, 4)


@given(st.sets(st.integers(0, 300), min_size=1))
def test_spans_are_invertible(indices: set[int]) -> None:
    keep = tuple(sorted(indices))
    assert unspan(spans(keep)) == keep


@pytest.mark.parametrize("text", ["3-1", "a", "0-99999999", "1,1", "5,2", "-3"])
def test_spans_that_lie_are_refused(text: str) -> None:
    with pytest.raises(EditError):
        unspan(text)


@pytest.mark.parametrize(
    "value",
    [{}, {"edit": "cut", "site": "a"}, {"edit": "resize", "site": "a", "axis": "in"}, {"edit": "map", "site": 1}],
)
def test_what_is_no_edit_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(EditError):
        from_json([value])


def test_edits_compose_over_calls() -> None:
    model = zoo.create("resnet8").eval()
    x = torch.randn(1, 3, 16, 16)
    found = channels(model, x)
    first = found.remove([g.atoms[0] for g in found.groups])
    small = perform(model, first)
    second = channels(small, x)
    smaller = perform(small, second.remove([g.atoms[-1] for g in second.groups]))
    assert torch.equal(perform(model, edits(smaller))(x), smaller(x))


def test_a_layer_that_is_the_whole_network_is_not_replaced_in_silence() -> None:
    with pytest.raises(EditError, match="the whole network"):
        perform(nn.Conv2d(3, 4, 1), [Swap("", "identity")])
