"""The record of one forward: what ran, in which layer, and where values went."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from integer_nets import branches, images, resnet, shuffled
from torch import Tensor, nn

from lilliput.core.watch import watch


class Relus(nn.Module):
    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.relu = nn.ReLU(inplace)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.b(self.relu(self.a(x))))


def shape_of(model: nn.Module) -> list[tuple[str, str, tuple[int, ...], tuple[int, ...]]]:
    return [(op.kind, op.site, op.inputs, op.outputs) for op in watch(model, images(1)).ops]


def test_every_layer_stands_where_it_ran() -> None:
    model = resnet()
    graph = watch(model, images(3))
    sites = [op.site for op in graph.ops if op.kind in ("conv", "linear", "batch_norm")]
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.BatchNorm2d)]
    assert sites == layers
    assert graph.times_called["layer1.0"] == 1


def test_values_link_operations() -> None:
    graph = watch(resnet(), images(1))
    add = next(op for op in graph.ops if op.kind == "add")
    assert graph.makers[add.inputs[0]].site == "layer1.0.bn2"
    assert {op.kind for op in graph.readers[add.inputs[1]]} == {"conv", "add"}  # the stem's output, and its shortcut
    assert graph.only_reader(add.inputs[0]) is add
    assert graph.only_reader(graph.outputs[0]) is None


def test_returned_values_know_their_modules() -> None:
    graph = watch(resnet(), images(1))
    end = next(op for op in graph.ops if op.kind == "mean").inputs[0]
    assert [call.path for call in graph.returned[end]] == ["layer3.0", "layer3"]


def test_in_place_is_the_same_as_out_of_place() -> None:
    torch.manual_seed(0)
    plain = Relus(False)
    inplace = Relus(True)
    inplace.load_state_dict(plain.state_dict())
    assert shape_of(plain) == shape_of(inplace)


def test_a_view_of_what_was_written_to_is_something_new() -> None:
    class Written(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = x * 2
            flat = x.flatten(1)
            x.relu_()
            return flat + 1

    graph = watch(Written(), images(1))
    assert [op.kind for op in graph.ops] == ["aten::mul", "move", "relu", "written", "aten::add"]
    assert graph.ops[-1].inputs == graph.ops[-2].outputs


def test_kinds() -> None:
    class Kinds(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = F.relu6(F.pad(x, (1, 1)))
            x = torch.cat([x, F.max_pool2d(x, 1)], 1).mean((-2, -1))
            return x.clamp(min=0) + x.clamp(-1, 1)

    graph = watch(Kinds(), images(1))
    assert [op.kind for op in graph.ops] == ["move", "relu", "move", "cat", "mean", "relu", "aten::clamp", "add"]
    assert graph.ops[1].limit == 6


def test_constants_are_counted() -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x, torch.zeros(1, 1, 8, 8)], 1)

    assert watch(Constant(), images(1)).ops[-1].others == 1


def test_weights_computed_by_maps_are_no_values() -> None:
    class Standardised(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)

    graph = watch(Standardised(3, 4, 1), images(1))
    assert [op.kind for op in graph.ops] == ["conv"]


def test_the_model_is_untouched() -> None:
    for model in (branches().train(), shuffled()):
        before, mode = copy.deepcopy(model.state_dict()), model.training
        watch(model, images(2))
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        assert model.training == mode
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
