"""One form for each operation of a traced network that can be written in several, so that few rules meet it."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from lilliput.export.traced import Node, Traced

aten: Any = torch.ops.aten
_NOTHING = {aten.dropout.default, aten.contiguous.default, aten.clone.default, aten.alias.default, aten.detach.default,
            aten.lift_fresh_copy.default, aten.feature_dropout.default}  # fmt: skip


def simplify(net: Traced) -> None:
    """Apply every rule."""
    net.rewrite(without_nothing, plain_padding, plain_turns, slices_of_splits, strides_as_pools, pools_of_pools, means)


def without_nothing(net: Traced, node: Node) -> bool:
    """Dropout and copies do nothing at inference."""
    return node.target in _NOTHING and net.replace(node, node.args[0])


def plain_padding(net: Traced, node: Node) -> bool:
    """Padding by a constant has one form."""
    if node.target != aten.pad.default or (node.args[2:3] or ("constant",))[0] != "constant":
        return False
    with net.graph.inserting_before(node):
        value = (node.args[3:4] or (None,))[0]
        made = net.graph.call_function(aten.constant_pad_nd.default, (*node.args[:2], 0.0 if value is None else value))
    made.meta = dict(node.meta)
    return net.replace(node, made)


def plain_turns(net: Traced, node: Node) -> bool:
    """Dimensions are reordered, and parts taken, by copying: what is behind need not know in which order values lie."""
    if node.target == aten.slice.Tensor:
        node.target = aten.slice_copy.Tensor
    elif node.target == aten.permute.default:
        node.target = aten.permute_copy.default
    elif node.target == aten.transpose.int:
        order = list(range(len(net.shape(node))))
        one, other = node.args[1:3]
        order[one], order[other] = order[other], order[one]
        node.target, node.args = aten.permute_copy.default, (node.args[0], order)
    else:
        return False
    return True


def slices_of_splits(net: Traced, node: Node) -> bool:
    """A part of a split is a slice, which XNNPACK has."""
    splits = (aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default)
    if getattr(node.target, "__name__", "") != "getitem" or not any(net.is_a(node.args[0], s) for s in splits):
        return False
    split, number = node.args
    dim = split.args[2] if len(split.args) > 2 else split.kwargs.get("dim", 0)
    sizes = [part.shape[dim] for part in split.meta["val"]]
    begin = sum(sizes[:number])
    with net.graph.inserting_before(node):
        made = net.graph.call_function(aten.slice_copy.Tensor, (split.args[0], dim, begin, begin + sizes[number]))
    made.meta = dict(node.meta)
    return net.replace(node, made)


def means(net: Traced, node: Node) -> bool:
    """A mean over all pixels, however it is written, is the one XNNPACK knows: both dimensions stay, as 1."""
    x = node.args[0] if node.args else None
    if not isinstance(x, fx.Node) or "val" not in x.meta or len(net.shape(x)) != 4 or not _is_mean(net, node):
        return False
    with net.graph.inserting_before(node):
        made = net.graph.call_function(aten.mean.dim, (x, [2, 3], True))
        made.meta = dict(node.meta)
        if len(node.meta["val"].shape) == 2:
            made = net.graph.call_function(aten.view.default, (made, list(node.meta["val"].shape)))
            made.meta = dict(node.meta)
    return net.replace(node, made)


def _is_mean(net: Traced, node: Node) -> bool:
    """Whether a node is a mean over all pixels that is not in its final form yet."""
    image = net.shape(node.args[0])[2:]
    if node.target == aten.adaptive_avg_pool2d.default:
        return list(node.args[1]) == [1, 1]
    if node.target == aten.mean.dim:
        keeps = len(node.args) > 2 and bool(node.args[2])
        return sorted(d % 4 for d in node.args[1]) == [2, 3] and not keeps
    return node.target == aten.avg_pool2d.default and tuple(node.args[1]) == image and not any(window_of(node)[2])


def strides_as_pools(net: Traced, node: Node) -> bool:
    """Every n-th pixel is the largest of one pixel at stride n, which only moves values."""
    if node.target != aten.slice_copy.Tensor or (node.args[4:5] or (1,))[0] == 1:
        return False
    dim, begin, end, step = node.args[1:5]
    shape = net.shape(node.args[0])
    if len(shape) != 4 or dim not in (2, 3) or begin not in (None, 0) or end < shape[dim]:
        return False
    with net.graph.inserting_before(node):
        strides = [step if d == dim else 1 for d in (2, 3)]
        made = net.graph.call_function(aten.max_pool2d.default, (node.args[0], [1, 1], strides))
    made.meta = dict(node.meta)
    return net.replace(node, made)


def pools_of_pools(net: Traced, node: Node) -> bool:
    """Two such picks in a row are one."""
    if not is_pick(node) or not is_pick(before := node.args[0]) or net.only_reader(before) is not node:
        return False
    strides = [a * b for a, b in zip(before.args[2], node.args[2], strict=True)]
    node.args = (before.args[0], [1, 1], strides)
    return True


def is_pick(node: Any) -> bool:
    plain = isinstance(node, fx.Node) and node.target == aten.max_pool2d.default and len(node.args) == 3
    return plain and list(node.args[1]) == [1, 1]


def window_of(pool: Node) -> tuple[list[int], list[int], list[int], tuple[Any, ...]]:
    """Window, stride and padding of an average pool, and its other arguments."""
    window, *more = [list(a) if isinstance(a, list | tuple) else a for a in pool.args[1:]]
    stride = more[0] if more and more[0] else window
    return window, stride, more[1] if len(more) > 1 else [0, 0], tuple(more[2:])
