"""What each ATen operation does to the names of channels.

Few kinds of rule: weighted layers make names; pointwise operations join the names they meet; reductions and pools drop
dimensions that carry no name. Views and moves are executed on the names (core/moves).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lilliput.core.follow import Follow, kind, owned, place, rule
from lilliput.core.maps import Mapping
from lilliput.core.names import spread, thin, varies

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


@rule("aten::convolution")
def _convolution(f: Follow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    x, weight, transposed, groups = args[0], args[1], args[6], args[8]
    inputs, outputs = f.vector(x, 1), out.shape[1]
    if groups > 1 and f.site(weight) is None:
        f.pin(x, "a grouped layer whose weight is computed during the forward", out)
    elif groups > 1 and groups == x.shape[1]:
        _depthwise(f, weight, inputs, out)
    else:
        made = f.weighted(weight, inputs, outputs, (1, 0) if transposed else (0, 1), groups)
        _bias(f, weight, args[2], made)
        f.give(out, spread(made, out.shape, 1))


def _bias(f: Follow, weight: Tensor, bias: Any, made: Tensor) -> None:
    """A bias that does not belong to the layer of the weight, which would take it along, has names of its own."""
    found, own = f.site(weight), f.site(bias)
    layer = found[1] if found is not None else None
    with_layer = own is not None and own[1] is layer and isinstance(layer, nn.modules.conv._ConvNd | nn.Linear)
    if f.known(bias) or (own is not None and not with_layer):
        f.names.join(made, f.of(bias))


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
        if len(args) == 3 and args[0].dim() == 1:
            _bias(f, b, args[0], made)
        f.give(out, spread(made, out.shape, out.dim() - 1))
        return
    _product(f, a, b, out)


def _product(f: Follow, a: Tensor, b: Tensor, out: Tensor) -> None:
    """Two activations multiplied: names on the summed dimension are joined, those on one free dimension survive."""
    left, right = f.of(a), f.of(b)
    summed = [varies(left, left.dim() - 1), varies(right, right.dim() - 2)]
    rows, columns = varies(left, left.dim() - 2), varies(right, right.dim() - 1)
    batches = left.dim() == 3 and (varies(left, 0) or varies(right, 0))
    if batches or (any(summed) and not all(summed)) or (any(summed) and (rows or columns)) or (rows and columns):
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
            if found[0] in f.shared:
                f.names.pin(vector, f"`{found[0]}` belongs to several layers")
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
    if varies(f.names.roots(thin(f.of(args[0]))), args[1] % args[0].dim()):
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
    rooted = f.names.roots(thin(names))
    if any(varies(rooted, d) for d in dims):
        others = any(varies(rooted, d) for d in range(x.dim()) if d not in dims)
        if others or func._schema.name != "aten::sum":  # a removed term and a silenced one are the same only to a sum
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


@kind(lambda func: torch.Tag.pointwise in func.tags or func._schema.name in POINTWISE)
def _pointwise(f: Follow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    results = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
    if not any(f.known(t) for t in tensors):  # parameters among themselves: a masked or rounded weight is still that weight
        for t in tensors:
            found = f.site(t)
            if found is not None and t.dim() > 1 and results and results[0].shape == t.shape and _follow(f, t, tensors):
                f.origin[results[0]] = found
                return
        if len(tensors) != 1 or tensors[0] not in f.parameters:
            return
    if len(tensors) == len(results) == 1 and tensors[0].shape == results[0].shape:  # an activation: nothing meets
        f.give(results[0], f.of(tensors[0]))
        return
    names = torch.zeros((), dtype=torch.long)
    for tensor in tensors:
        own = thin(f.of(tensor))
        f.names.join(names, own)
        names = torch.where(names != 0, names, own)
    for result in results:
        _keep_sizes(f, tensors, names.expand(result.shape))
        f.give(result, names.expand(result.shape))


def _follow(f: Follow, weight: Tensor, tensors: Sequence[Tensor]) -> bool:
    """Whether all that meets a weight shrinks when its layer does: numbers, and the tensors of maps."""
    met = [f.parameters[t][1] for t in tensors if t is not weight and t.numel() > 1 and t in f.parameters]
    return all(isinstance(owner, Mapping) for owner in met)


def _keep_sizes(f: Follow, tensors: Sequence[Tensor], names: Tensor) -> None:
    """Pin channels that met a tensor without names that is as wide as they are: a constant of that very size."""
    for tensor in tensors:
        if not f.of(tensor).any():
            lead = names.dim() - tensor.dim()
            if any(n > 1 and varies(names, lead + d) for d, n in enumerate(tensor.shape)):
                f.names.pin(names, f"they meet a constant of a fixed size ({place()})")


@rule("aten::embedding")
def _embedding(f: Follow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Rows of a table: its columns are channels."""
    if f.known(args[0]) or args[0] in f.parameters:
        f.give(out, spread(f.vector(args[0], 1), out.shape, out.dim() - 1))
