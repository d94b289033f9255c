"""What each ATen operation does to the names of channels.

Few kinds of rule: weighted layers make names; pointwise operations join the names they meet; views and moves are executed
on the names; reductions and pools drop dimensions that carry no name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from lilliput.core.follow import Follow, kind, owned, place, rule
from lilliput.core.names import spread, thin, varies

MOVES = {
    "aten::cat", "aten::stack", "aten::index_select", "aten::flip", "aten::roll", "aten::repeat", "aten::clone",
    "aten::_to_copy", "aten::contiguous", "aten::channel_shuffle", "aten::native_channel_shuffle", "aten::pixel_shuffle",
    "aten::pixel_unshuffle", "aten::index", "aten::repeat_interleave", "aten::lift_fresh_copy", "aten::lift_fresh",
    "aten::expand", "aten::detach_", "aten::im2col", "aten::alias", "aten::unfold",
}  # fmt: skip
POINTWISE = {
    "aten::hardswish",
    "aten::hardswish_",
    "aten::mish",
    "aten::mish_",
    "aten::native_dropout",
    "aten::_prelu_kernel",
    "aten::bernoulli",
    "aten::fill_",
    "aten::zero_",
}
SHUFFLES = {"aten::channel_shuffle", "aten::native_channel_shuffle"}
ORDERLY = {"aten::view", "aten::_unsafe_view", "aten::clone", "aten::_to_copy", "aten::contiguous", "aten::detach",
           "aten::alias", "aten::expand", "aten::lift_fresh"}  # fmt: skip


@rule("aten::convolution")
def _convolution(f: Follow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    x, weight, transposed, groups = args[0], args[1], args[6], args[8]
    inputs, outputs = f.vector(x, 1), out.shape[1]
    if groups > 1 and f.site(weight) is None:
        f.pin(x, "a grouped layer whose weight is computed during the forward", out)
    elif groups > 1 and groups == x.shape[1] and not transposed:
        _depthwise(f, weight, inputs, out)
    elif groups > 1 and transposed:
        f.pin(x, "a grouped transposed convolution", out)
    else:
        made = f.weighted(weight, inputs, outputs, (1, 0) if transposed else (0, 1))
        if groups > 1:  # groups shrink evenly: the same places leave every group
            f.names.join_along(inputs.view(groups, -1), 0)
            f.names.join_along(made.view(groups, -1), 0)
        if f.known(args[2]):
            f.names.join(made, f.of(args[2]))
        f.give(out, spread(made, out.shape, 1))


def _depthwise(f: Follow, weight: Tensor, inputs: Tensor, out: Tensor) -> None:
    path, owner, _ = f.site(weight)  # type: ignore[misc]
    made = inputs.repeat_interleave(out.shape[1] // len(inputs))
    if isinstance(owner, nn.modules.conv._ConvNd):
        f.note(path.rpartition(".")[0], "out", made)
    else:
        f.names.pin(inputs, f"a depthwise convolution by a function, whose groups are fixed ({place()})")
    f.give(out, spread(made, out.shape, 1))


@rule("aten::addmm", "aten::mm", "aten::bmm", "aten::baddbmm")
def _matmul(f: Follow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    a, b = args[-2:]
    found = f.site(b)
    if found is not None and b.dim() == 2:
        made = f.weighted(b, f.vector(a, -1), out.shape[-1], (1, 0))
        if len(args) == 3 and f.known(args[0]) and args[0].dim() == 1:
            f.names.join(made, f.of(args[0]))
        f.give(out, spread(made, out.shape, out.dim() - 1))
        return
    _product(f, a, b, out)


def _product(f: Follow, a: Tensor, b: Tensor, out: Tensor) -> None:
    """Two activations multiplied: names on the summed dimension are joined, those on one free dimension survive."""
    left, right = f.of(a), f.of(b)
    summed = [varies(left, left.dim() - 1), varies(right, right.dim() - 2)]
    rows, columns = varies(left, left.dim() - 2), varies(right, right.dim() - 1)
    if (any(summed) and not all(summed)) or (any(summed) and (rows or columns)) or (rows and columns):
        f.pin((a, b), "a product of activations with channels on several dimensions", out)
        return
    if all(summed):
        f.names.join(f.vector(a, -1), f.vector(b, -2))
    elif rows:
        f.give(out, spread(f.vector(a, -2), out.shape, out.dim() - 2))
    elif columns:
        f.give(out, spread(f.vector(b, -1), out.shape, out.dim() - 1))


@rule("aten::native_batch_norm", "aten::_native_batch_norm_legit_no_training", "aten::_batch_norm_no_update",
      "aten::cudnn_batch_norm", "aten::_native_batch_norm_legit")  # fmt: skip
def _batch_norm(f: Follow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    x = args[0]
    if not f.known(x):
        return
    vector = f.vector(x, 1)
    for tensor in args[1:5]:
        found = f.site(tensor)
        if found is not None and tensor.dim() == 1 and found[1] is not None:
            f.note(*owned(found[0], found[1], 0), vector)
        elif f.known(tensor):
            f.names.join(f.of(tensor), vector)
    f.give(out[0], spread(vector, out[0].shape, 1))


@rule("aten::native_group_norm")
def _group_norm(f: Follow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    x, weight, bias, groups = args[0], args[1], args[2], args[6]
    if not f.known(x):
        return
    vector = f.vector(x, 1)
    f.names.join_along(vector.view(groups, -1), 1)  # a group is divided by its own statistics: all of it or nothing
    for tensor in (weight, bias):
        if isinstance(tensor, Tensor):
            f.names.join(f.of(tensor), vector)
    f.give(out[0], spread(vector, out[0].shape, 1))


@rule("aten::native_layer_norm")
def _layer_norm(f: Follow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    x, shape = args[0], args[1]
    names = f.of(x)
    if any(varies(names, x.dim() - 1 - d) for d in range(len(shape))):
        f.pin(x, "a layer norm divides by statistics over its channels")
    f.give(out[0], names)


@rule("aten::_softmax", "aten::_log_softmax", "aten::softmax")
def _softmax(f: Follow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    if varies(f.of(args[0]), args[1] % args[0].dim()):
        f.pin(args[0], "a softmax over channels")
    f.give(out, f.of(args[0]))


@rule("aten::_scaled_dot_product_flash_attention_for_cpu", "aten::_scaled_dot_product_attention_math")
def _attention(f: Follow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    f.pin(args[:2], "attention divides by the square root of its width")
    values = f.of(args[2])
    if varies(values, 1) and varies(values, 3):
        f.pin(args[2], "attention heads and channels at once")
    dim = 3 if varies(values, 3) else 1
    f.give(out[0], spread(f.vector(args[2], dim), out[0].shape, dim))


@rule("aten::mean", "aten::sum", "aten::amax", "aten::amin", "aten::max", "aten::min", "aten::var", "aten::std",
      "aten::var_mean", "aten::logsumexp", "aten::linalg_vector_norm", "aten::norm", "aten::prod")  # fmt: skip
def _reduce(f: Follow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    x = args[0]
    if not f.known(x):
        return
    names = f.of(x)
    dims = _reduced(func, args, kwargs, x.dim())
    if any(varies(names, d) for d in dims):
        if func._schema.name != "aten::sum":  # a removed term and a silenced one are the same only to a sum
            f.pin(x, f"{func._schema.name.replace('::', '.')} over channels", out)
        return
    keepdim = isinstance(out, Tensor) and out.dim() == x.dim()
    kept = names[tuple(slice(0, 1) if d in dims else slice(None) for d in range(x.dim()))]
    if not keepdim:
        kept = kept.squeeze(tuple(dims))
    for result in tree_leaves(out):
        f.give(result, kept)


def _reduced(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], rank: int) -> list[int]:
    """The dimensions a reduction runs over; all of them where none is named."""
    for number, argument in enumerate(func._schema.arguments):
        if argument.name == "dim":
            dim = args[number] if number < len(args) else kwargs.get("dim")
            dims = [dim] if isinstance(dim, int) else dim
            return [d % rank for d in dims] if dims else list(range(rank))
    return list(range(rank))


@rule("aten::max_pool2d_with_indices", "aten::avg_pool2d", "aten::_adaptive_avg_pool2d", "aten::adaptive_max_pool2d",
      "aten::max_pool3d_with_indices", "aten::avg_pool3d", "aten::_adaptive_avg_pool3d", "aten::avg_pool1d",
      "aten::upsample_nearest2d", "aten::upsample_bilinear2d", "aten::upsample_bicubic2d", "aten::upsample_nearest1d",
      "aten::upsample_nearest3d", "aten::_upsample_bilinear2d_aa", "aten::reflection_pad2d", "aten::replication_pad2d",
      "aten::grid_sampler_2d", "aten::_upsample_nearest_exact2d")  # fmt: skip
def _pool(f: Follow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    x = args[0]
    if f.known(x):
        dim = 1 if x.dim() > 3 or func._schema.name.endswith("1d") else 0
        vector = f.vector(x, dim)
        for result in tree_leaves(out):
            f.give(result, spread(vector, result.shape, dim))


@rule("aten::constant_pad_nd")
def _pad(f: Follow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    x, pads = args[0], args[1]
    names = f.of(x)
    for k in range(0, len(pads), 2):
        dim = x.dim() - 1 - k // 2
        before, after = pads[k], pads[k + 1]
        if not (before or after):
            continue
        if varies(names, dim) and min(before, after) >= 0:
            names = _widen(f, names, dim, before, after)
        else:
            index = (torch.arange(out.shape[dim]) - before).clamp(0, names.shape[dim] - 1)
            names = names.index_select(dim, index)
    f.give(out, names)


def _widen(f: Follow, names: Tensor, dim: int, before: int, after: int) -> Tensor:
    """Padding on the channel dimension: as many channels as the code says, whatever else goes, so these stay."""
    parts = []
    for count in (before, after):
        shape = [*names.shape[:dim], count, *names.shape[dim + 1 :]]
        new = f.names.fresh(count)
        f.names.pin(new, f"padding adds a fixed number of channels ({place()})")
        parts.append(spread(new, torch.Size(shape), dim))
    return torch.cat([parts[0], names, parts[1]], dim)


@rule("aten::copy_", "aten::index_put_", "aten::index_put", "aten::scatter", "aten::scatter_", "aten::masked_fill_")
def _written(f: Follow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    why = f"{func._schema.name.replace('::', '.')} writes into another tensor"
    f.pin((args, kwargs), why, out, args[0]._base)


@rule("aten::split", "aten::split_with_sizes", "aten::chunk", "aten::slice", "aten::unbind", "aten::select")
def _part(f: Follow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Parts of the channel dimension shrink together, as code that halves it at run time expects."""
    x = args[0]
    if f.known(x):
        dim = (_named(func, args, kwargs, "dim") or 0) % x.dim()
        names, parts = f.of(x), [t for t in tree_leaves(out)]
        if varies(names, dim):
            _shrink_together(f, names, dim, func, parts)
    _move(f, func, args, kwargs, out)


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
        if len(big) > 1 and any(varies(names, d) for d in group_in):
            for dim in big[:-1]:  # a channel axis that is split shrinks in its last factor
                if varies(result, big[-1]):
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
    moved = _lineage(f, func._schema.name, args, out)
    if not any(f.known(t) or (t in f.parameters and not moved) for t in tensors):
        return
    if func._schema.name in SHUFFLES:
        f.names.join_along(f.vector(args[0], 1).view(args[1], -1), 0)
    named_args, named_kwargs = tree_map(lambda t: _swap(f, t, tensors), (args, kwargs))
    named_kwargs.pop("dtype", None), named_kwargs.pop("memory_format", None)
    try:
        result = func(*named_args, **named_kwargs)
    except RuntimeError:  # names expanded without memory cannot take every view
        named_args = tree_map(lambda t: t.contiguous() if isinstance(t, Tensor) else t, named_args)
        result = func(*named_args, **named_kwargs)
    for tensor, names in zip(tree_leaves(out), tree_leaves(result), strict=True):
        f.give(tensor, names)


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


@kind(lambda func: torch.Tag.pointwise in func.tags or func._schema.name in POINTWISE)
def _pointwise(f: Follow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    results = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
    if not any(f.known(t) for t in tensors):  # parameters among themselves: a masked or rounded weight is still that weight
        for t in tensors:
            found = f.site(t)
            if found is not None and t.dim() > 1 and results and results[0].shape == t.shape:
                f.origin[results[0]] = found
                return
        if len(tensors) != 1 or tensors[0] not in f.parameters:
            return
    names = torch.zeros((), dtype=torch.long)
    for tensor in tensors:
        own = thin(f.of(tensor))
        f.names.join(names, own)
        names = torch.where(names != 0, names, own)
    for result in results:
        f.give(result, names.expand(result.shape))
