"""The domain `lilliput` in a stock ONNX Runtime: the same numbers, and an error for whatever does not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lilliput import kernels
from lilliput.errors import WorkError
from lilliput.kernels import BinaryConv2d, BinaryConvBits, SparseConv2d, SparseLinear, runtime

native = pytest.mark.skipif(kernels.backend() != "native", reason="the native core was not built")
WINDOW: dict[str, Any] = {"group": 1, "strides": [2, 1], "pads": [1, 2], "dilations": [1, 1]}
INPUTS = {"Binarize": ["x"], "BinaryConv": ["x", "weight", "scale", "bias"], "BinaryConvBits": ["x", "weight", "least", "flip"],
          "TernaryConv": ["x", "weight", "mask", "scale", "bias"], "Int4Conv": ["x", "weight", "scale", "bias"],
          "SparseConv": ["x", "rows", "columns", "values", "bias"],
          "SparseLinear": ["x", "rows", "columns", "values", "bias"]}  # fmt: skip


def session(
    kind: str, first: Any, output: Any, weights: dict[str, Tensor], graph_inputs: tuple[str, ...] = (), **told: Any
) -> Any:
    """A session with one node of this kind; what `graph_inputs` names is no initializer."""
    import onnxruntime
    from onnx import helper, numpy_helper

    arrays = {name: tensor.numpy() for name, tensor in weights.items()}
    names = [name for name in INPUTS[kind] if name == "x" or name in arrays]
    node = helper.make_node(kind, names, ["y"], domain="lilliput", **told)
    fed = [helper.make_tensor_value_info("x", first, None)]
    fed += [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(arrays[n].dtype), None) for n in graph_inputs]
    kept = [numpy_helper.from_array(array, name) for name, array in arrays.items() if name not in graph_inputs]
    graph = helper.make_graph([node], "one", fed, [helper.make_tensor_value_info("y", output, None)], kept)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("lilliput", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = kernels.register(onnxruntime.SessionOptions())
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(made: Any, x: Tensor) -> Tensor:
    return torch.from_numpy(made.run(None, {"x": x.numpy()})[0])


def binary() -> tuple[BinaryConv2d, dict[str, Tensor]]:
    torch.manual_seed(0)
    conv = nn.Conv2d(12, 9, 3, stride=(2, 1), padding=(1, 2))
    with torch.no_grad():
        conv.weight.copy_(torch.sign(conv.weight) * (torch.rand(9, 1, 1, 1) + 0.5))
    made = BinaryConv2d.of(conv)
    assert made.bias is not None
    return made, {"weight": made.weight, "scale": made.scale, "bias": made.bias}


def sparse() -> tuple[SparseConv2d, dict[str, Tensor]]:
    torch.manual_seed(1)
    conv = nn.Conv2d(6, 5, 3, stride=(2, 1), padding=(1, 2))
    with torch.no_grad():
        conv.weight[torch.rand_like(conv.weight) < 0.8] = 0
    made = SparseConv2d.of(conv)
    assert made.bias is not None
    return made, {"rows": made.rows, "columns": made.columns, "values": made.values, "bias": made.bias}


@native
def test_nodes_compute_what_the_layers_compute() -> None:
    conv, weights = binary()
    bits, x = BinaryConvBits.of(conv, nn.BatchNorm2d(9).eval()), torch.randn(2, 12, 7, 6)
    packed = torch.ops.lilliput.binarize(x)
    assert torch.equal(run(session("Binarize", 1, 2, {}), x), packed)
    made = session("BinaryConv", 2, 1, weights, channels=12, pad=0, **WINDOW)
    for size in [(7, 6), (3, 3), (7, 6)]:  # every size of image is packed for once
        part = packed[..., : size[0], : size[1]].contiguous()
        assert torch.equal(run(made, part), conv(part))
    unbiased = session("BinaryConv", 2, 1, {k: v for k, v in weights.items() if k != "bias"}, channels=12, pad=0, **WINDOW)
    assert torch.equal(run(unbiased, packed) + weights["bias"].view(-1, 1, 1), conv(packed))
    sides = {"weight": bits.weight, "least": bits.least, "flip": bits.flip}
    assert torch.equal(run(session("BinaryConvBits", 2, 2, sides, channels=12, pad=0, **WINDOW), packed), bits(packed))


@native
def test_sparse_nodes_compute_what_the_layers_compute() -> None:
    conv, weights = sparse()
    x = torch.randn(2, 6, 7, 6)
    made = session("SparseConv", 1, 1, weights, channels=6, kernel_shape=[3, 3], **WINDOW)
    assert torch.equal(run(made, x), conv(x))


@native
def test_sparse_linear_nodes_compute_what_the_layers_compute() -> None:
    torch.manual_seed(2)
    linear = SparseLinear.of(nn.Linear(20, 7))
    assert linear.bias is not None
    weights = {"rows": linear.rows, "columns": linear.columns, "values": linear.values, "bias": linear.bias}
    made = session("SparseLinear", 1, 1, weights, channels=20)
    for shape in [(1, 20), (3, 20), (20,), (2, 3, 20), (0, 20), (1030, 20)]:
        x = torch.randn(shape)
        assert torch.equal(run(made, x), linear(x))
    with pytest.raises(Exception, match="19 channels where 20 belong"):
        run(made, torch.randn(2, 19))


@native
@pytest.mark.parametrize(("change", "says"), [
    ({"group": None}, "`group` must be a whole number"),
    ({"group": 5}, "do not go together"),
    ({"group": 0}, "do not go together"),
    ({"group": 1.5}, "`group`"),
    ({"channels": 40}, "do not go together"),
    ({"channels": 1 << 40}, "channels"),
    ({"strides": [2]}, "`strides` must be two"),
    ({"strides": "2"}, "`strides`"),
    ({"strides": [1 << 50, 1]}, "strides"),
    ({"pad": 3}, "`pad` must be"),
])  # fmt: skip
def test_wrong_attributes_are_errors_when_the_session_is_made(change: dict[str, Any], says: str) -> None:
    told = {"channels": 12, "pad": 0, **WINDOW, **change}
    with pytest.raises(Exception, match=says):
        session("BinaryConv", 2, 1, binary()[1], **{name: value for name, value in told.items() if value is not None})


@native
@pytest.mark.parametrize(("change", "says"), [
    ({"weight": torch.zeros(9, 2, 3, dtype=torch.uint8)}, "four dimensions"),
    ({"weight": torch.zeros(9, 3, 3, 3, dtype=torch.uint8)}, "do not go together"),
    ({"weight": torch.zeros(9, 2, 3, 3)}, "ype"),
    ({"scale": torch.zeros(8)}, "8 elements where 9 belong"),
    ({"bias": torch.zeros(10)}, "10 elements where 9 belong"),
])  # fmt: skip
def test_wrong_weights_are_errors_when_the_session_is_made(change: dict[str, Tensor], says: str) -> None:
    with pytest.raises(Exception, match=says):
        session("BinaryConv", 2, 1, {**binary()[1], **change}, channels=12, pad=0, **WINDOW)


@native
@pytest.mark.parametrize(("change", "says"), [
    ({"mask": torch.zeros(9, 2, 3, 2, dtype=torch.uint8)}, "108 elements where 162 belong"),
    ({"mask": torch.zeros(9, 2, 3, 3)}, "ype"),
    ({"scale": torch.zeros(8)}, "8 elements where 9 belong"),
])  # fmt: skip
def test_wrong_ternary_weights_are_errors_when_the_session_is_made(change: dict[str, Tensor], says: str) -> None:
    weights = binary()[1]
    weights["mask"] = torch.full_like(weights["weight"], 255)
    made = session("TernaryConv", 2, 1, weights, channels=12, pad=0, **WINDOW)
    packed = torch.ops.lilliput.binarize(torch.randn(2, 12, 7, 6))
    assert torch.equal(run(made, packed), binary()[0](packed))
    with pytest.raises(Exception, match=says):
        session("TernaryConv", 2, 1, {**weights, **change}, channels=12, pad=0, **WINDOW)


@native
@pytest.mark.parametrize(("change", "told", "says"), [
    ({"weight": torch.zeros(9, 5, 3, 3, dtype=torch.uint8)}, {}, "do not go together"),
    ({"bias": torch.zeros(10)}, {}, "10 elements where 9 belong"),
    ({}, {"zero": 256}, "`zero` must be"),
    ({}, {"zero": -1}, "`zero` must be"),
    ({}, {"channels": 13}, "do not go together"),
])  # fmt: skip
def test_wrong_weights_of_four_bits_are_errors_when_the_session_is_made(
    change: dict[str, Tensor], told: dict[str, int], says: str
) -> None:
    weights = {"weight": torch.zeros(9, 6, 3, 3, dtype=torch.uint8), "scale": torch.ones(9), "bias": torch.zeros(9)}
    with pytest.raises(Exception, match=says):
        session("Int4Conv", 2, 1, {**weights, **change}, **{"channels": 12, "zero": 3, **WINDOW, **told})


@native
@pytest.mark.parametrize(("change", "says"), [
    ({"rows": torch.tensor([0], dtype=torch.int32)}, "one element more"),
    ({"rows": torch.tensor([0, 900], dtype=torch.int32)}, "900 belong"),
    ({"columns": torch.tensor([7], dtype=torch.int32)}, "1 elements where"),
])  # fmt: skip
def test_wrong_sparse_weights_are_errors_when_the_session_is_made(change: dict[str, Tensor], says: str) -> None:
    with pytest.raises(Exception, match=says):
        session("SparseConv", 1, 1, {**sparse()[1], **change}, channels=6, kernel_shape=[3, 3], **WINDOW)


@native
def test_weights_that_are_no_initializers_are_an_error() -> None:
    for name in ("weight", "scale", "bias"):
        with pytest.raises(Exception, match="initializer"):
            session("BinaryConv", 2, 1, binary()[1], (name,), channels=12, pad=0, **WINDOW)


@native
def test_columns_that_no_weight_has_are_an_error_when_it_runs() -> None:
    weights = sparse()[1]
    made = session(
        "SparseConv", 1, 1, {**weights, "columns": weights["columns"] + 54}, channels=6, kernel_shape=[3, 3], **WINDOW
    )
    with pytest.raises(Exception, match="do not fit"):
        run(made, torch.randn(1, 6, 5, 5))


@native
@pytest.mark.parametrize(("shape", "says"), [
    ((1, 2, 5), "four dimensions"),
    ((1, 3, 5, 5), "3 bytes of channels where 2 belong"),
    ((1, 2, 0, 5), "no convolution"),
    ((1, 2, 5, 40_000), "no convolution"),
])  # fmt: skip
def test_wrong_inputs_are_errors_when_it_runs(shape: tuple[int, ...], says: str) -> None:
    made = session("BinaryConv", 2, 1, binary()[1], channels=12, pad=0, **WINDOW)
    with pytest.raises(Exception, match=says):
        made.run(None, {"x": np.zeros(shape, np.uint8)})


@native
def test_an_empty_batch_has_an_empty_output() -> None:
    made = session("BinaryConv", 2, 1, binary()[1], channels=12, pad=0, **WINDOW)
    assert run(made, torch.zeros(0, 2, 5, 5, dtype=torch.uint8)).shape == (0, 9, 3, 7)


def test_without_the_library_registering_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "__file__", "nowhere/runtime.py")
    with pytest.raises(WorkError, match="was not built"):
        kernels.register(object())
