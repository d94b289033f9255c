"""Rewrites that bring a network into the one form XNNPACK's integer kernels take: dequantizer → operation → quantizer.

Each rule keeps what the network computes: a quantizer saturates, so clipping before it is a matter of its bounds; what only
moves values moves bytes as well; an average is a convolution with equal weights. Layers that cannot take the form end in
floats, with the reason.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import fx

from lilliput.export.integer import fitted
from lilliput.export.levels import HIGH, LOW, Grid
from lilliput.export.plain import is_pick, simplify, window_of
from lilliput.export.traced import Node, Traced, grid_of

aten: Any = torch.ops.aten
LAYERS = (aten.conv2d.default, aten.conv2d.padding, aten.linear.default)
# Operations that only move values and that XNNPACK runs on bytes.
MOVES = {aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.permute_copy.default, aten.max_pool2d.default,
         aten.cat.default, aten.unsqueeze.default, aten.squeeze.dims, aten.squeeze.dim, aten.constant_pad_nd.default,
         aten.slice_copy.Tensor, aten._unsafe_view.default}  # fmt: skip
# Those that ExecuTorch's own kernels run on bytes.
OWN_MOVES = {aten.index_select.default, aten.select.int, aten.stack.default, aten.expand.default, aten.flip.default,
             aten.roll.default, aten.upsample_nearest2d.vec, aten.pixel_shuffle.default}  # fmt: skip
_CLIPS = {aten.relu.default: (0.0, math.inf), aten.relu6.default: (0.0, 6.0), aten.hardtanh.default: (-1.0, 1.0),
          aten.clamp.default: (-math.inf, math.inf), aten.clamp_min.default: (-math.inf, math.inf)}  # fmt: skip


def rewrite(module: fx.GraphModule) -> dict[str, str]:
    """Apply every rule in place; the layers that end in floats, each with the reason."""
    net = Traced(module)
    simplify(net)
    net.rewrite(quantizers_once, clips_into_bounds, quantized_early, kept_on_the_grid)
    net.rewrite(windows_as_convolutions, picks_as_convolutions)
    stays = {net.path(n): why for n in net.graph.nodes if n.target in LAYERS and (why := why_float(net, n)) is not None}
    for node in [n for n in module.graph.nodes if n.target in LAYERS]:
        floats_or_held(net, node)
    for node in reversed(list(module.graph.nodes)):
        without_bounds(net, node)
    net.rewrite(own_reader, bounds_as_clips)
    _done(module)
    return stays


def move_bytes(module: fx.GraphModule) -> None:
    """Where ExecuTorch's own kernels move values that are bytes before and after, let them move the bytes."""
    Traced(module).rewrite(moved_as_bytes)
    _done(module)


def _done(module: fx.GraphModule) -> None:
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()


def why_float(net: Traced, layer: Node) -> str | None:
    """Why a layer has no integer kernel; None if it has."""
    if not net.is_a(layer.args[1], net.weight_of):
        return "its weight is not quantized"
    if not net.is_a(layer.args[0], net.dequantize):
        return "its input is not quantized"
    if len(layer.users) > 1:
        return "its output is also read unquantized"
    if not net.is_a(net.only_reader(layer), net.quantize):
        return "its output is not quantized, and XNNPACK's integer layers end in bytes"
    return None


def quantizers_once(net: Traced, node: Node) -> bool:
    """Equal quantizers of one value, and equal dequantizers of one code, are one."""
    if node.target not in (net.quantize, net.dequantize):
        return False
    twins = [n for n in node.args[0].users if n is not node and n.target == node.target and n.args == node.args]
    first = next((n for n in net.graph.nodes if n is node or n in twins), node)
    return first is not node and net.replace(node, first)


def clips_into_bounds(net: Traced, node: Node) -> bool:
    """What is clipped and then quantized is quantized with narrower bounds: rounding keeps order."""
    grid = net.grid(node) if node.target == net.quantize else None
    clip = node.args[0]
    if grid is None or clip.target not in _CLIPS or net.only_reader(clip) is not node or net.grid(clip.args[0]) is not None:
        return False
    node.args = (clip.args[0], *_within(grid, *_limits(clip)).arguments)
    return True


def _limits(clip: Node) -> tuple[float, float]:
    low, high = (*clip.args[1:3], None, None)[:2]
    default = _CLIPS[clip.target]
    return default[0] if low is None else float(low), default[1] if high is None else float(high)


def _within(grid: Grid, low: float, high: float) -> Grid:
    """A grid whose levels reach no further than the rounded limits."""
    bounds = [min(max(grid.code(each), grid.low), grid.high) for each in (low, high)]
    return Grid(grid.scale, grid.zero, *(int(np.rint(np.float32(b))) for b in bounds))


def quantized_early(net: Traced, node: Node) -> bool:
    """What is moved and then quantized is quantized first: then the quantizer stands right behind the layer it fuses with."""
    grid = net.grid(node) if node.target == net.quantize else None
    move = node.args[0]
    if grid is None or move.target not in MOVES | OWN_MOVES or net.only_reader(move) is not node or not _fills_zero(move):
        return False
    sources = net.data(move)
    if all(net.is_a(s, net.dequantize) for s in sources) or any(_off(net, s, grid) for s in sources):
        return False
    for source in sources:
        if not net.is_a(source, net.dequantize):
            move.replace_input_with(source, net.level(source, grid))
    return True


def _off(net: Traced, source: Node, grid: Grid) -> bool:
    """Whether a value lies on the levels of another grid."""
    other = net.grid(source)
    return other is not None and other.key != grid.key


def kept_on_the_grid(net: Traced, node: Node) -> bool:
    """Values of one grid that are moved or clipped stay on it, and are bytes again behind the move."""
    clips = node.target in _CLIPS
    if not (clips or node.target in MOVES | OWN_MOVES) or not _fills_zero(node):
        return False
    found = [net.grid(s) if net.is_a(s, net.dequantize) else None for s in net.data(node)]
    grids = [g for g in found if g is not None]
    if len(grids) < len(found) or len({g.key for g in grids}) > 1:
        return False
    grid = Grid(*grids[0].key, min(g.low for g in grids), max(g.high for g in grids))
    if clips and _keeps(grid, *_limits(node)):
        return net.replace(node, node.args[0])
    reader = net.only_reader(node)
    behind = net.grid(reader) if reader is not None and reader.target == net.quantize else None
    if (behind is not None and behind.key == grid.key) or (clips and _limits(node) != (0.0, math.inf)):
        return False
    made = net.level(node, _behind(node, grid))
    node.replace_all_uses_with(made, delete_user_cb=lambda reader: reader is not made.args[0])
    return True


def _keeps(grid: Grid, low: float, high: float) -> bool:
    """Whether every level passes a clip unchanged."""
    return grid.level(grid.low) >= low and grid.level(grid.high) <= high * (1 + 1e-6)


def _behind(node: Node, grid: Grid) -> Grid:
    """The bounds behind a move or a ReLU of values within the grid's."""
    if node.target in _CLIPS:
        return Grid(*grid.key, max(grid.low, grid.zero), max(grid.high, grid.zero))
    if node.target == aten.constant_pad_nd.default:
        return Grid(*grid.key, min(grid.low, grid.zero), max(grid.high, grid.zero))
    return grid


def _fills_zero(move: Node) -> bool:
    """Whether a move adds nothing but zeros."""
    if move.target != aten.constant_pad_nd.default:
        return True
    return not any(move.args[2:3]) and min(move.args[1]) >= 0


def windows_as_convolutions(net: Traced, node: Node) -> bool:
    """An average over a window is a convolution of each channel whose weights are 1/k²: sums of bytes, and no rounding before
    the quantizer."""
    if node.target != aten.avg_pool2d.default or not _between(net, node):
        return False
    window, stride, padding, rest = window_of(node)
    given = dict(zip(("ceil", "padding counts", "divisor"), rest, strict=False))
    if given.get("ceil") or given.get("divisor") or (any(padding) and not given.get("padding counts", True)):
        return False
    return net.replace(node, _each_channel(net, node, window, stride, padding, 1 / math.prod(window)))


def picks_as_convolutions(net: Traced, node: Node) -> bool:
    """XNNPACK's pools have no stride beyond their window; a convolution of each channel by 1 has."""
    if not is_pick(node) or not _between(net, node):
        return False
    return net.replace(node, _each_channel(net, node, [1, 1], list(node.args[2]), [0, 0], 1.0))


def _between(net: Traced, node: Node) -> bool:
    """Whether an operation stands between a dequantizer and a quantizer."""
    return net.is_a(node.args[0], net.dequantize) and net.is_a(net.only_reader(node), net.quantize)


def _each_channel(net: Traced, node: Node, window: list[int], stride: list[int], padding: list[int], weight: float) -> Node:
    """A convolution of each channel by itself with equal weights, in front of a node."""
    channels = net.shape(node.args[0])[1]
    codes = net.constant(node, f"{node.name}_codes", torch.ones(channels, 1, *window, dtype=torch.int8))
    scale = net.constant(node, f"{node.name}_scale", torch.full((channels,), weight))
    zero = net.constant(node, f"{node.name}_zero", torch.zeros(channels, dtype=torch.int64))
    with net.graph.inserting_before(node):
        values = net.graph.call_function(net.weight_of, (codes, scale, zero, 0, -HIGH, HIGH, torch.int8))
        made = net.graph.call_function(aten.conv2d.default, (node.args[0], values, None, stride, padding, [1, 1], channels))
    made.meta = dict(node.meta)
    return made


def floats_or_held(net: Traced, layer: Node) -> None:
    """The weight of a layer that runs in floats is written in floats. Of the others, every bias fits into the accumulator."""
    if not net.is_a(layer.args[1], net.weight_of):
        return
    weight = layer.args[1]
    codes, scale = (net.tensor(a) for a in weight.args[:2])
    stem = weight.args[0].target
    if why_float(net, layer) is not None:
        values = codes * scale.view(-1, *[1] * (codes.dim() - 1))
        layer.replace_input_with(weight, net.constant(layer, f"{stem}_floats", values))
    elif (held := _held(net, layer, codes, scale)) is not None:
        new = [net.constant(layer, f"{stem}_held{i}", torch.from_numpy(np.array(v))) for i, v in enumerate(held)]
        with net.graph.inserting_before(layer):
            made = net.graph.call_function(net.weight_of, (*new, *weight.args[2:]))
        layer.replace_input_with(weight, made)


def _held(net: Traced, layer: Node, codes: torch.Tensor, scale: torch.Tensor) -> Any:
    """Codes and scales with which every bias fits, or None if the given ones do."""
    bias = layer.args[2] if len(layer.args) > 2 else None
    if bias is None:
        return None
    step = np.float64(grid_of(layer.args[0]).scale)
    return fitted(codes.numpy(), scale.double().numpy(), net.tensor(bias).double().numpy(), step)


def own_reader(net: Traced, node: Node) -> bool:
    """Every reader has a dequantizer of its own, since it belongs to the kernel that reads it."""
    if node.target != net.dequantize or len(node.users) < 2:
        return False
    for reader in list(node.users)[1:]:
        reader.replace_input_with(node, net.values(node.args[0], grid_of(node)))
    return True


def without_bounds(net: Traced, node: Node) -> None:
    """Behind a move of values within bounds the same bounds say nothing. From the last to the first, as they say it in turn."""
    grid = net.grid(node) if net.is_a(node, net.quantize) else None
    made = node.args[0] if node.args else node
    if grid is None or made.target not in MOVES | OWN_MOVES | set(_CLIPS):
        return
    before = [net.grid(s) for s in net.data(made)]
    if all(g is not None and g.key == grid.key for g in before):
        kept = [_behind(made, g) for g in before if g is not None]
        if all(g.low >= grid.low and g.high <= grid.high for g in kept):
            _open(net, node)


def bounds_as_clips(net: Traced, node: Node) -> bool:
    """XNNPACK's bytes are −128..127: narrower bounds are clipped, by the layer itself where there is one, else on bytes."""
    grid = net.grid(node) if node.target == net.quantize else None
    if grid is None or (grid.low, grid.high) == (LOW, HIGH):
        return False
    made, before = node.args[0], net.grid(node.args[0])
    fuses = made.target in LAYERS and why_float(net, made) is None
    on_bytes = before is not None and before.key == grid.key
    node.replace_input_with(made, _clip(net, made if fuses or on_bytes else net.level(made, Grid(*grid.key)), grid))
    _open(net, node)
    return True


def _open(net: Traced, node: Node) -> None:
    """Let a quantizer and what reads it have all bytes."""
    whole = Grid(*grid_of(node).key).arguments
    for each in (node, *(reader for reader in node.users if reader.target == net.dequantize)):
        each.args = (each.args[0], *whole)


def moved_as_bytes(net: Traced, node: Node) -> bool:
    """What ExecuTorch moves itself, it moves as bytes."""
    if not _is_own(node) or any(not net.is_a(s, net.dequantize) for s in net.data(node)):
        return False
    behind = net.only_reader(node)
    if not net.is_a(behind, net.quantize) or grid_of(behind).key != grid_of(net.data(node)[0]).key:
        return False
    for source in net.data(node):
        node.replace_input_with(source, source.args[0])
    return net.replace(behind, node)


def _is_own(node: Node) -> bool:
    return node.target in OWN_MOVES or (node.target == aten.slice_copy.Tensor and node.args[4:5] not in ((), (1,)))


def _clip(net: Traced, value: Node, grid: Grid) -> Node:
    with net.graph.inserting_after(value):
        if grid.high == HIGH and grid.low == grid.zero:
            return net.graph.call_function(aten.relu.default, (value,))
        return net.graph.call_function(aten.hardtanh.default, (value, grid.level(grid.low), grid.level(grid.high)))
