"""Packing where it pays: what is measured, what is not even tried, and what follows from the times."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lilliput import kernels
from lilliput.core.edits import Map
from lilliput.core.perform import perform
from lilliput.errors import WorkError
from lilliput.kernels import SparseConv2d, SparseLinear, Worth, break_even, pack_sparse, runtime, worth

native = pytest.mark.skipif(kernels.backend() != "native", reason="the native core was not built")
X = torch.randn(2, 3, 8, 8)


def net(zeros: float = 0.9) -> nn.Sequential:
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1, padding="same"),
        nn.Flatten(), nn.Linear(144, 5),
    )  # fmt: skip
    for layer in made:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            with torch.no_grad():
                layer.weight[torch.rand_like(layer.weight) < zeros] = 0
    return made


def timed(monkeypatch: pytest.MonkeyPatch, dense: float, packed: float) -> list[tuple[int, ...]]:
    """Made-up times instead of measured ones; the shapes that were asked for."""
    asked: list[tuple[int, ...]] = []
    monkeypatch.setattr(break_even, "_known", {})
    monkeypatch.setattr(break_even, "_measure", lambda layer, size: asked.append(size) or (dense, packed))
    return asked


@native
def test_layers_are_packed_where_they_are_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, dense=2.0, packed=1.0)
    model = net()
    packed = pack_sparse(model, X)
    assert [type(m) for m in packed] == [SparseConv2d, nn.ReLU, nn.Conv2d, nn.Conv2d, nn.Flatten, SparseLinear]
    torch.testing.assert_close(packed(X), model.eval()(X))


@native
def test_layers_stay_dense_where_they_are_not_and_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = timed(monkeypatch, dense=1.0, packed=2.0)
    model = net()
    assert [type(m) for m in pack_sparse(model, X)] == [type(m) for m in model]
    assert asked == [(2, 3, 8, 8), (2, 144)]
    found = {each.layer: str(each) for each in worth(model, X)}
    assert "`2` ms packed and `1` ms dense: stays dense" in found["0"]
    assert "depthwise" in found["2"] and "padding=same" in found["3"]


@native
def test_dense_layers_are_not_measured_and_shapes_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = timed(monkeypatch, 1.0, 2.0)
    assert worth(net(zeros=0.0), X) == ()
    twice = nn.Sequential(*(copy.deepcopy(net()[0]) for _ in range(2)), nn.Conv2d(8, 3, 1))
    twice.insert(1, nn.Conv2d(8, 3, 1))
    worth(twice, X)
    assert len(asked) == 1


@native
def test_looking_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, 1.0, 2.0)
    model = net().train()
    model[1].eval()
    modes, before = [m.training for m in model.modules()], copy.deepcopy(model.state_dict())
    worth(model, X)
    assert [m.training for m in model.modules()] == modes and not model[0]._forward_pre_hooks
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@native
def test_a_layer_that_stands_in_two_places_is_packed_in_both(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, 2.0, 1.0)
    one = nn.Conv2d(3, 3, 3, padding=1)
    with torch.no_grad():
        one.weight[torch.rand_like(one.weight) < 0.9] = 0
    packed = pack_sparse(nn.Sequential(one, nn.ReLU(), one), X)
    assert packed[0] is packed[2] and isinstance(packed[0], SparseConv2d)
    assert isinstance(pack_sparse(one, X), SparseConv2d)


@native
def test_masks_count_as_zeros_and_mapped_inputs_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, 2.0, 1.0)
    keep = (torch.rand(8, 3, 3, 3) > 0.9).tolist()
    plain = nn.Sequential(nn.Conv2d(3, 8, 3))
    with torch.no_grad():
        plain[0].weight.mul_(torch.tensor(keep))
    signed = perform(plain, [Map("0", "input", "sign")])
    assert "maps" in worth(signed, X)[0].why and not worth(signed, X)[0].pays


@native
def test_real_times_are_measured() -> None:
    found = worth(net(0.95), X)
    assert [each.layer for each in found] == ["0", "2", "3", "5"]
    assert all((each.dense_ms or 0) > 0 and (each.packed_ms or 0) > 0 for each in (found[0], found[3]))
    assert all(each.pays == (each.packed_ms < each.dense_ms) for each in (found[0], found[3]))  # type: ignore[operator]


def test_worth_in_words() -> None:
    assert str(Worth("a", 0.9, 2.0, 1.0)) == "a: 90 % zeros, `1` ms packed and `2` ms dense: packed"
    assert str(Worth("", 0.9, why="no")) == "(the model itself): 90 % zeros: no"


def test_without_the_library_nothing_can_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "__file__", "nowhere/runtime.py")
    assert worth(net(0.0), X) == ()
    with pytest.raises(WorkError, match="was not built"):
        worth(net(), X)
