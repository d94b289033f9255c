"""Packed layers as ONNX nodes of domain `lilliput`: what `torch.onnx.export` has to be told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lilliput.kernels.runtime import DOMAIN, VERSION

_WINDOW = {"strides": "INTS", "pads": "INTS", "dilations": "INTS", "group": "INT"}
_BINARY = {"channels": "INT", **_WINDOW, "pad": "INT"}
# Of every node: inputs (a question mark: may be left out), the output's type, attributes. csrc/ort_layers.cc computes them.
_NODES: dict[str, tuple[dict[str, str], str, dict[str, str]]] = {
    "Binarize": ({"x": "float", "least?": "float"}, "uint8", {}),
    "BinaryConv": ({"x": "uint8", "weight": "uint8", "scale": "float", "bias?": "float"}, "float", _BINARY),
    "BinaryConvBits": ({"x": "uint8", "weight": "uint8", "least": "int32", "flip": "uint8"}, "uint8", _BINARY),
    "TernaryConv": (
        {"x": "uint8", "weight": "uint8", "mask": "uint8", "scale": "float", "bias?": "float"},
        "float",
        _BINARY,
    ),
    "TernaryConvBits": (
        {"x": "uint8", "weight": "uint8", "mask": "uint8", "least": "int32", "flip": "uint8"},
        "uint8",
        _BINARY,
    ),
    "Int4Conv": (
        {"x": "uint8", "weight": "uint8", "scale": "float", "bias?": "float"},
        "float",
        {"channels": "INT", **_WINDOW, "zero": "INT"},
    ),
    "SparseConv": (
        {"x": "float", "rows": "int32", "columns": "int32", "values": "float", "bias?": "float"},
        "float",
        {"channels": "INT", "kernel_shape": "INTS", **_WINDOW},
    ),
    "SparseLinear": (
        {"x": "float", "rows": "int32", "columns": "int32", "values": "float", "bias?": "float"},
        "float",
        {"channels": "INT"},
    ),
}


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """For `torch.onnx.export(..., dynamo=True, custom_translation_table=translations())`."""
    nodes = {name: _node(name) for name in _NODES}

    def binarize(x: Any, least: Any = None) -> Any:
        return nodes["Binarize"](*_given(x, least))

    def packed(node: str, tensors: int, last: str) -> Callable[..., Any]:
        """An operation that takes so many tensors, then channels, a kernel that its weight knows, a window and one number."""

        def call(*given: Any) -> Any:
            channels, _, *window = given[tensors:]
            told = {"channels": channels, **_window(*window[:4]), last: window[4]}
            return nodes[node](*_given(*given[:tensors]), **told)

        return call

    def sparse(x: Any, rows: Any, columns: Any, values: Any, bias: Any, kernel: Any, *window: Any) -> Any:
        told = {"channels": int(x.shape[1]), "kernel_shape": list(kernel), **_window(*window)}
        return nodes["SparseConv"](*_given(x, rows, columns, values, bias), **told)

    def linear(x: Any, rows: Any, columns: Any, values: Any, bias: Any) -> Any:
        return nodes["SparseLinear"](*_given(x, rows, columns, values, bias), channels=int(x.shape[-1]))

    ops = torch.ops.lilliput
    return {
        ops.binarize.default: binarize,
        ops.binary_conv2d.default: packed("BinaryConv", 4, "pad"),
        ops.binary_conv2d_bits.default: packed("BinaryConvBits", 4, "pad"),
        ops.ternary_conv2d.default: packed("TernaryConv", 5, "pad"),
        ops.ternary_conv2d_bits.default: packed("TernaryConvBits", 5, "pad"),
        ops.int4_conv2d.default: packed("Int4Conv", 4, "zero"),
        ops.sparse_conv2d.default: sparse,
        ops.sparse_linear.default: linear,
    }


def _node(name: str) -> Any:
    from onnx.defs import OpSchema
    from onnxscript.values import Op, Opset

    inputs, output, attributes = _NODES[name]
    options = OpSchema.FormalParameterOption
    schema = OpSchema(
        name,
        DOMAIN,
        VERSION,
        inputs=[
            OpSchema.FormalParameter(
                key.rstrip("?"), f"tensor({kind})", param_option=options.Optional if key.endswith("?") else options.Single
            )
            for key, kind in inputs.items()
        ],
        outputs=[OpSchema.FormalParameter("y", f"tensor({output})")],
        attributes=[OpSchema.Attribute(key, getattr(OpSchema.AttrType, kind)) for key, kind in attributes.items()],
    )
    return Op(Opset(DOMAIN, VERSION), name, schema)


def _given(*tensors: Any) -> list[Any]:
    return [tensor for tensor in tensors if tensor is not None]


def _window(stride: Any, padding: Any, dilation: Any, groups: int) -> dict[str, Any]:
    return {"strides": list(stride), "pads": list(padding), "dilations": list(dilation), "group": groups}
