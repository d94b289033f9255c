"""Times of layers: every layer appears once, in order, with its own time alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lilliput import zoo
from lilliput.errors import ConfigError
from lilliput.measure.layer_times import layer_times


def test_every_module_that_ran_has_a_time_and_is_left_alone() -> None:
    model = zoo.create("resnet8").train()
    found = layer_times(model, torch.randn(1, 3, 32, 32), runs=3, warmup=1)
    names = [t.name for t in found]
    assert names[0] == "" and len(names) == len(set(names))
    assert set(names) == {name for name, m in model.named_modules() if not isinstance(m, nn.ModuleList)}
    assert all(t.runs == 3 and 0 <= t.p10 <= t.median_ms <= t.p90 for t in found)
    assert all(m.training for m in model.modules()) and not torch.nn.modules.module._global_forward_hooks
    assert next(t.kind for t in found if t.name == "conv1") == "Conv2d"


def test_the_time_of_children_is_not_the_parents() -> None:
    class Waits(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(300):
                x = x + 1
            return x

    parent, child = layer_times(nn.Sequential(Waits()), torch.ones(100), runs=5)
    assert (parent.name, child.name) == ("", "0") and parent.median_ms < child.median_ms


def test_every_node_of_a_file_has_a_time(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper, save

    w = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in "xy")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "product"),
        helper.make_node("Softmax", ["a"], ["y"], "share"),
    ]
    model = helper.make_model(helper.make_graph(nodes, "small", [x], [y], [w]), opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    save(model, tmp_path / "small.onnx")
    found = layer_times(tmp_path / "small.onnx", torch.ones(1, 4), runs=4, warmup=2)
    assert [(t.name, t.kind, t.runs) for t in found] == [("product", "MatMul", 4), ("share", "Softmax", 4)]
    assert [p.name for p in tmp_path.iterdir()] == ["small.onnx"]
    assert found[0].to_json()["name"] == "product"


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="`runs`"):
        layer_times(nn.ReLU(), torch.ones(1), runs=0)
