"""What views, slices and moves do to the names of channels: they are executed on the names, index arithmetic and all.

What such code demands of the channels besides is a rule: parts shrink together, a split axis shrinks in its last factor,
what lies side by side is equally wide, and channels that are picked by number stay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from lilliput.core.follow import Follow, kind, place, rule
from lilliput.core.names import thin, varies

MOVES = {
    "aten::cat", "aten::stack", "aten::index_select", "aten::flip", "aten::roll", "aten::repeat", "aten::clone",
    "aten::_to_copy", "aten::contiguous", "aten::channel_shuffle", "aten::native_channel_shuffle", "aten::pixel_shuffle",
    "aten::pixel_unshuffle", "aten::index", "aten::repeat_interleave", "aten::lift_fresh_copy", "aten::lift_fresh",
    "aten::expand", "aten::detach_", "aten::im2col", "aten::alias", "aten::unfold",
}  # fmt: skip
SHUFFLES = {"aten::channel_shuffle", "aten::native_channel_shuffle"}
ORDERLY = {"aten::view", "aten::_unsafe_view", "aten::clone", "aten::_to_copy", "aten::contiguous", "aten::detach",
           "aten::alias", "aten::expand", "aten::lift_fresh"}  # fmt: skip


@rule("aten::split", "aten::split_with_sizes", "aten::chunk", "aten::slice", "aten::unbind", "aten::select")
def _part(f: Follow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Parts of the channel dimension shrink together, as code that halves it at run time expects."""
    x = args[0]
    if f.known(x):
        dim = (_named(func, args, kwargs, "dim") or 0) % x.dim()
        names, parts = f.of(x), [t for t in tree_leaves(out)]
        shrinks = _shrinks(f, names, dim)
        if shrinks and (_named(func, args, kwargs, "step") or 1) != 1:
            f.names.pin(names, f"channels are picked by number ({place()})")
        elif shrinks:
            _shrink_together(f, names, dim, func, parts)
    _move(f, func, args, kwargs, out)


def _shrinks(f: Follow, names: Tensor, dim: int) -> bool:
    """Whether a dimension gets shorter when channels go: not one on which whole sets of channels lie, as `stack` makes it."""
    rooted = f.names.roots(thin(names))
    if not varies(rooted, dim):
        return False
    others = [d for d in range(rooted.dim()) if d != dim and varies(rooted, d)]
    return not any(_all_vary(rooted.movedim(dim, 0), d + (d < dim)) for d in others)


def _all_vary(slices: Tensor, dim: int) -> bool:
    """Whether names vary along a dimension in every slice of the first one."""
    return bool((slices != slices.narrow(dim, 0, 1)).flatten(1).any(1).all())


def _shrink_together(f: Follow, names: Tensor, dim: int, func: Any, parts: Sequence[Tensor]) -> None:
    if "unbind" in func._schema.name or "select" in func._schema.name:
        f.names.pin(names, f"single channels are picked by number ({place()})")
        return
    whole, widths = names.shape[dim], {p.shape[dim] for p in parts}
    if widths == {whole}:
        return
    width = next(iter(widths))
    if len(widths) > 1 or whole % width:
        f.names.pin(names, f"channels are split into uneven parts ({place()})")
        return
    f.names.join_along(names.movedim(dim, -1).reshape(-1, whole // width, width), 1)


def _named(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> Any:
    """An argument by its name in the schema."""
    for number, argument in enumerate(func._schema.arguments):
        if argument.name == name:
            return args[number] if number < len(args) else kwargs.get(name, argument.default_value)
    return None


@rule("aten::view", "aten::_unsafe_view", "aten::reshape", "aten::unflatten")
def _view(f: Follow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    x = args[0]
    if _lineage(f, func._schema.name, args, out) or not (f.known(x) or x in f.parameters):
        return
    names = f.of(x)
    result = names.contiguous().view(out.shape) if names.numel() else names.reshape(out.shape)
    for group_in, group_out in _factors(x.shape, out.shape):
        big = [d for d in group_out if out.shape[d] > 1]
        if len(big) > 1 and any(varies(names, d) for d in group_in) and varies(result, big[-1]):
            # A channel axis that is split shrinks in its last factor. Where that is the small one it is hardly the one
            # that the code computes from the width, so nothing shrinks.
            wide = math.prod(out.shape[d] for d in big[:-1]) <= out.shape[big[-1]]
            for dim in big[:-1] if wide else big:
                f.names.join_along(result, dim)
    f.give(out, result)


def _factors(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Which dimensions of a view come from which: the smallest runs with equal products."""
    runs, i, j = [], 0, 0
    while i < len(before) and j < len(after):
        left, right = [i], [j]
        a, b = before[i], after[j]
        i, j = i + 1, j + 1
        while a != b:
            if a < b and i < len(before):
                a, left, i = a * before[i], [*left, i], i + 1
            elif j < len(after):
                b, right, j = b * after[j], [*right, j], j + 1
            else:
                break
        runs.append((left, right))
    return runs


@kind(lambda func: func.is_view or func._schema.name in MOVES)
def _move(f: Follow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Execute the very operation on the names."""
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and t.dtype != torch.long]
    if func._schema.name == "aten::index" and any(t.dtype in (torch.bool, torch.uint8) for t in args[1] if t is not None):
        f.pin((args, kwargs), "a mask picks elements", out)
        return
    moved = _lineage(f, func._schema.name, args, out)
    if not any(f.known(t) or (t in f.parameters and not moved) for t in tensors):
        return
    _line_up(f, func, args, kwargs)
    if func._schema.name in SHUFFLES:
        f.names.join_along(f.vector(args[0], 1).view(args[1], -1), 0)
    named_args, named_kwargs = tree_map(lambda t: _swap(f, t, tensors), (args, kwargs))
    carried = [t for t, was in zip(tree_leaves(named_args), tree_leaves(args), strict=True) if t is not was]
    named_kwargs.pop("dtype", None), named_kwargs.pop("memory_format", None)
    try:
        result = func(*named_args, **named_kwargs)
    except RuntimeError:  # names expanded without memory cannot take every view, and not every kernel takes integers
        named_args = tree_map(lambda t: t.contiguous().double() if any(t is c for c in carried) else t, named_args)
        result = func(*named_args, **named_kwargs)
    for tensor, names in zip(tree_leaves(out), tree_leaves(result), strict=True):
        f.give(tensor, names.long())


def _line_up(f: Follow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """What a move demands of channels besides moving them: equal widths of what is laid side by side, fixed places."""
    op, x = func._schema.name, args[0]
    if op in ("aten::cat", "aten::stack"):
        dim = (_named(func, args, kwargs, "dim") or 0) % (x[0].dim() + (op == "aten::stack"))
        named = [f.of(t) for t in x if t.dim() == x[0].dim()]
        if op == "aten::cat":
            others = [d for d in range(x[0].dim()) if d != dim]
            named = [t.narrow(dim, 0, 1) for t in named if t.numel()]
            named = named if any(varies(t, d) for t in named for d in others) else []
        for other in named[1:]:
            f.meet(named[0], other)
    elif op in ("aten::index", "aten::index_select", "aten::roll"):
        if any(varies(f.of(x), d) for d in _picked(func, args, kwargs, x.dim())):
            f.names.pin(f.of(x), f"channels are picked by number ({place()})")


def _picked(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], rank: int) -> list[int]:
    """The dimensions along which indexing or rolling picks."""
    if func._schema.name == "aten::index":
        return [d for d, index in enumerate(args[1]) if index is not None][:rank]
    if func._schema.name == "aten::roll":
        return [d % rank for d in _named(func, args, kwargs, "dims") or range(rank)]
    return [args[1] % rank]


def _swap(f: Follow, value: Any, tensors: Sequence[Tensor]) -> Any:
    """A data tensor's names in its place; index tensors stay."""
    return f.of(value) if any(value is t for t in tensors) else value


def _lineage(f: Follow, op: str, args: tuple[Any, ...], out: Any) -> bool:
    """A weight that is only transposed or copied is still that weight."""
    found = f.site(args[0]) if args and isinstance(args[0], Tensor) else None
    if found is None or not isinstance(out, Tensor) or f.known(args[0]) or args[0].dim() < 2:
        return False
    path, owner, order = found
    if op in ("aten::t", "aten::transpose") and args[0].dim() == 2:
        f.origin[out] = (path, owner, order[::-1])
    elif op in ORDERLY and out.shape == args[0].shape:
        f.origin[out] = found
    return out in f.origin
