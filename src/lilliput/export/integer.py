"""Rewrites that leave a runtime nothing to find out about quantizers: integers wherever values only move or are clipped.

Each rule keeps what the network computes, bit for bit, except the bias, which becomes the 32-bit integer the kernels add.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lilliput.export.rewrite import Net, attributes

# Operations that only move values: how many of their inputs are data (-1: all).
MOVES = {"MaxPool": 1, "Reshape": 1, "Flatten": 1, "Transpose": 1, "Slice": 1, "Squeeze": 1, "Unsqueeze": 1, "Gather": 1,
         "Identity": 1, "Pad": 1, "Concat": -1, "Split": 1, "DepthToSpace": 1, "SpaceToDepth": 1, "Expand": 1}  # fmt: skip
_BIAS = 2**31 - 1


def rewrite(net: Net) -> None:
    """Apply every rule."""
    net.rewrite(same_grid_once, no_clipping_before, quantize_early, no_clipping_after, dequantize_late, pool_means)
    net.rewrite(integer_bias, short_weights)


def same_grid_once(net: Net, node: Any) -> bool:
    """Two equal quantizers of one value are one."""
    if node.op_type != "QuantizeLinear":
        return False
    twins = [n for n in net.readers[node.input[0]] if n is not None and n is not node and _grid(net, n) == _grid(net, node)]
    for twin in twins:
        net.read_instead(twin.output[0], node.output[0])
        net.remove(twin)
    return bool(twins)


def no_clipping_before(net: Net, node: Any) -> bool:
    """A quantizer saturates, so a ReLU or clip before it whose bounds its levels keep anyway does nothing."""
    if node.op_type != "QuantizeLinear":
        return False
    before = net.makers.get(node.input[0])
    if before is None or len(net.readers[node.input[0]]) > 1 or not _keeps(net, before, _span(net, node)):
        return False
    net.connect(node, 0, before.input[0])
    net.remove(before)
    return True


def no_clipping_after(net: Net, node: Any) -> bool:
    """Nor does one behind it."""
    made = net.makers.get(node.input[0]) if node.op_type in ("Relu", "Clip") else None
    if made is None or made.op_type != "DequantizeLinear" or node.output[0] in net.outputs:
        return False
    span = _span(net, made)
    if not _keeps(net, node, span):
        return False
    net.read_instead(node.output[0], node.input[0])
    net.remove(node)
    return True


def pool_means(net: Net, node: Any) -> bool:
    """A mean over the pixels of quantized values is written as the pool that has an integer kernel."""
    made = net.makers.get(node.input[0]) if node.op_type == "ReduceMean" else None
    if made is None or made.op_type != "DequantizeLinear" or len(node.input) < 2 or node.input[1] not in net.constants:
        return False
    given = attributes(node)
    if sorted(net.constants[node.input[1]].tolist()) not in ([2, 3], [-2, -1]) or given.get("noop_with_empty_axes", 0):
        return False
    keep = bool(given.get("keepdims", 1))
    pooled = net.add("GlobalAveragePool", node.input[:1], node.output[0] if keep else None)
    if not keep:
        net.add("Flatten", [pooled], node.output[0], axis=1)
    net.remove(node)
    return True


def quantize_early(net: Net, node: Any) -> bool:
    """What is moved and then quantized is quantized first: then the quantizer stands right behind the layer it fuses with."""
    before = net.makers.get(node.input[0]) if node.op_type == "QuantizeLinear" else None
    if before is None or before.op_type not in MOVES or len(before.output) > 1:
        return False
    data = _data(before)
    sources = [net.makers.get(name) for name in data]
    if len(net.readers[node.input[0]]) > 1 or any(s is not None and s.op_type == "DequantizeLinear" for s in sources):
        return False
    zero = net.constants[node.input[2]]
    if not _pads_zero(net, before) or node.attribute:
        return False
    moved = {name: net.add("QuantizeLinear", [name, *node.input[1:]]) for name in dict.fromkeys(data)}
    _move(net, before, moved, zero, node.output[0])
    net.remove(node, before)
    return True


def dequantize_late(net: Net, node: Any) -> bool:
    """Values of one grid are moved as integers."""
    if node.op_type not in MOVES:
        return False
    sources: list[Any] = [net.makers.get(name) for name in _data(node)]
    if any(s is None or s.op_type != "DequantizeLinear" or s.attribute or s.input[0] in net.constants for s in sources):
        return False
    grids = {_grid(net, s) for s in sources}
    if len(grids) > 1 or not _pads_zero(net, node):
        return False
    first = sources[0]
    codes = {each.output[0]: each.input[0] for each in sources}
    moved = [net.fresh("codes") for _ in node.output]
    _move(net, node, codes, net.constants[first.input[2]], moved)
    for part, output in zip(moved, node.output, strict=True):
        net.add("DequantizeLinear", [part, *first.input[1:]], output)
    net.remove(node)
    return True


def integer_bias(net: Net, node: Any) -> bool:
    """The bias in units of input scale × weight scale, as integer kernels add it.

    A channel whose weights are all zero may have any scale, and gets one that holds its bias well. Where a bias would not fit
    into 32 bits, the channel's weights are too small to matter beside it, and are written with the larger scale it needs.
    """
    if node.op_type not in ("Conv", "Gemm") or len(node.input) < 3 or node.input[2] not in net.constants:
        return False
    data: Any = net.makers.get(node.input[0])
    weight: Any = net.makers.get(node.input[1])
    bias = net.constants[node.input[2]]
    if not _is_integer_layer(net, node, data, weight) or bias.dtype != np.float32:
        return False
    codes, scale = net.constants[weight.input[0]], net.constants[weight.input[1]]
    step = np.float64(net.constants[data.input[1]])
    held = fitted(codes, np.broadcast_to(scale, bias.shape).astype(np.float64), bias.astype(np.float64), step)
    if held is not None:
        codes, scale = held
        for place, value in enumerate((codes, scale, np.zeros(scale.shape, codes.dtype))):
            net.connect(weight, place, net.constant(net.fresh(weight.input[place]), value))
        _set_axis(weight)
    unit = (scale.astype(np.float32) * np.float32(step)).astype(np.float32)
    whole = np.clip(np.rint(bias.astype(np.float64) / unit.astype(np.float64)), -_BIAS, _BIAS).astype(np.int32)
    stem = node.input[2]
    parts = [net.constant(f"{stem}.codes", whole), net.constant(f"{stem}.scale", unit)]
    net.connect(node, 2, net.add("DequantizeLinear", parts, None, **(attributes(weight) if unit.ndim else {})))
    return True


def short_weights(net: Net, node: Any) -> bool:
    """A weight whose every number has the same value in half precision is stored in half the bytes; runtimes widen it."""
    weight = net.constants.get(node.input[1]) if node.op_type in ("Conv", "Gemm", "MatMul") else None
    if weight is None or weight.dtype != np.float32 or weight.size < 256:
        return False
    with np.errstate(over="ignore"):
        short = weight.astype(np.float16)
    if not (short.astype(np.float32) == weight).all():
        return False
    name = net.constant(net.fresh(node.input[1]), short)
    net.connect(node, 1, net.add("Cast", [name], None, to=1))
    return True


def _is_integer_layer(net: Net, node: Any, data: Any, weight: Any) -> bool:
    both = all(n is not None and n.op_type == "DequantizeLinear" for n in (data, weight))
    if not both or weight.input[0] not in net.constants or attributes(weight).get("axis", 0) != 0:
        return False
    given = attributes(node)
    return node.op_type == "Conv" or (given.get("transB") == 1 and given.get("beta", 1.0) == given.get("alpha", 1.0) == 1.0)


def _set_axis(node: Any) -> None:
    from onnx import helper

    del node.attribute[:]
    node.attribute.append(helper.make_attribute("axis", 0))


def fitted(codes: Any, scale: Any, bias: Any, step: Any) -> tuple[Any, Any] | None:
    """Codes and scales of a weight with which every bias fits, or None if the given ones do."""
    largest = np.abs(bias) / (step * 2.0**30)
    dead = ~codes.reshape(len(codes), -1).any(1) & (bias != 0)
    wanted = np.where(dead, np.abs(bias) / (step * 2.0**20), np.maximum(scale, largest))
    if (wanted == scale).all():
        return None
    ratio = (scale / wanted).reshape(-1, *[1] * (codes.ndim - 1))
    return np.rint(codes * ratio).astype(codes.dtype), wanted.astype(np.float32)


def _data(node: Any) -> list[str]:
    """The inputs of a move that are moved."""
    count = MOVES[node.op_type]
    return list(node.input) if count < 0 else list(node.input[:count])


def _move(net: Net, node: Any, names: dict[str, str], zero: Any, output: str | Sequence[str]) -> str:
    """The same move of other values; what padding adds is the zero point."""
    inputs = [names.get(name, name) if i < len(_data(node)) else name for i, name in enumerate(node.input)]
    if node.op_type == "Pad":
        inputs = [*inputs[:2], net.constant(f"pad.{zero.dtype}.{zero}", zero), *inputs[3:]]
    return net.add(node.op_type, inputs, output, **attributes(node))


def _pads_zero(net: Net, node: Any) -> bool:
    """Whether a move adds nothing but zeros."""
    if node.op_type != "Pad" or attributes(node).get("mode", b"constant") != b"constant":
        return node.op_type != "Pad"
    value = node.input[2] if len(node.input) > 2 and node.input[2] else None
    return value is None or (value in net.constants and not net.constants[value].any())


def _grid(net: Net, node: Any) -> tuple[Any, ...] | None:
    """What decides the levels of a quantizer."""
    if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
        return None
    parts = [net.constants[name] for name in node.input[1:]]
    return (*((p.dtype.str, p.shape, p.tobytes()) for p in parts), attributes(node).get("axis"))


def _span(net: Net, node: Any) -> tuple[float, float]:
    """The lowest and highest level of a quantizer or dequantizer of a whole tensor."""
    scale, zero = (net.constants[name] for name in node.input[1:3])
    if scale.ndim:
        return -np.inf, np.inf
    bounds, kind = _bounds(net, node), np.iinfo(zero.dtype)
    low, high = max(float(kind.min), bounds[0]), min(float(kind.max), bounds[1])
    return float(scale) * (low - int(zero)), float(scale) * (high - int(zero))


def _bounds(net: Net, node: Any) -> tuple[float, float]:
    """Where the codes of a quantizer of fewer levels than its type has are clipped."""
    if node.op_type == "QuantizeLinear":
        readers = net.readers.get(node.output[0], [])
        clip = readers[0] if len(readers) == 1 else None
    else:
        clip = net.makers.get(node.input[0])
    if clip is None or clip.op_type != "Clip":
        return -np.inf, np.inf
    return float(net.constants[clip.input[1]]), float(net.constants[clip.input[2]])


def _keeps(net: Net, node: Any, span: tuple[float, float]) -> bool:
    """Whether levels within `span` pass a ReLU or a clip unchanged, or saturate where it stops."""
    if node.op_type == "Relu":
        return span[0] >= 0
    if node.op_type != "Clip" or any(name and name not in net.constants for name in node.input[1:]):
        return False
    low, high = (_limit(net, node, i, d) for i, d in ((1, -np.inf), (2, np.inf)))
    return span[0] >= low and span[1] <= high * (1 + 1e-6)


def _limit(net: Net, node: Any, place: int, default: float) -> float:
    present = len(node.input) > place and node.input[place]
    return float(net.constants[node.input[place]]) if present else default
