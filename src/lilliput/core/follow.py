"""The rules by which channel names pass through operations, watched one ATen operation at a time.

Operations fall into few kinds: weighted (convolution, linear) make names; pointwise ones join the names they meet; views
and moves are executed on the names; reductions and pools drop dimensions that carry no name. Whatever is of no kind pins
the names it meets and says where, so that nothing is guessed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from lilliput.core.layers import Resizable
from lilliput.core.names import Names, spread, thin, varies

Rule = Callable[["Follow", Any, tuple[Any, ...], dict[str, Any], Any], None]
RULES: dict[str, Rule] = {}


def rule(*ops: str) -> Callable[[Rule], Rule]:
    """Register the rule of some ATen operations."""

    def decorate(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(ops, function))
        return function

    return decorate


class Follow(TorchDispatchMode):
    """Carries names beside the tensors of one forward and collects `slots`: (site, axis, names) of every parameter met."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names = Names()
        self.slots: list[tuple[str, str, Tensor]] = []
        self._names_of = WeakTensorKeyDictionary()
        self._origin = WeakTensorKeyDictionary()  # tensors computed from one parameter alone, of its shape up to order
        self._made: dict[str, tuple[Tensor, Tensor]] = {}  # in and out names of weighted layers already met
        self._free = WeakTensorKeyDictionary()  # parameters that met data as plain tensors, with their names
        self._asleep = 0
        self._register(model)

    # --- what is known of a tensor ---------------------------------------------------------------------------------

    def of(self, tensor: Tensor) -> Tensor:
        """The names of a tensor, of its shape; a parameter that meets data gets names of its own."""
        if tensor in self._names_of:
            return self._names_of[tensor]
        if tensor in self._parameters and self._is_plain(tensor):
            made = self.names.fresh(tensor.numel()).view(tensor.shape)
            self._names_of[tensor] = self._free[tensor] = made
            return made
        return torch.zeros((), dtype=torch.long).expand(tensor.shape)

    def _is_plain(self, tensor: Tensor) -> bool:
        """Whether a parameter may carry one channel an element: a scale, a gate, an embedding, but no weight matrix."""
        _, owner = self._parameters[tensor]
        is_weight = isinstance(owner, nn.modules.conv._ConvNd | nn.Linear) and tensor.dim() > 1
        return tensor.numel() > 1 and not is_weight and sum(n > 1 for n in tensor.shape) <= 2

    def known(self, tensor: Any) -> bool:
        """Whether a value carries names."""
        return isinstance(tensor, Tensor) and tensor in self._names_of

    def give(self, tensor: Any, names: Tensor) -> None:
        """Attach names to a result."""
        if isinstance(tensor, Tensor) and tensor.shape == names.shape:
            self._names_of[tensor] = names

    def vector(self, tensor: Tensor, dim: int) -> Tensor:
        """One name an index of `dim`; names that share an index are joined, so they leave together."""
        names = self.of(tensor)
        for other in range(names.dim()):
            if other != dim % names.dim() and varies(names, other):
                self.names.join_along(names, other)
        index = [0] * names.dim()
        rows: Any = tuple(slice(None) if d == dim % names.dim() else i for d, i in enumerate(index))
        return names[rows].clone() if names.numel() else names.reshape(-1)

    def note(self, site: str, axis: str, names: Tensor) -> None:
        """Write down a slot; what is met twice (a shared layer, a weight and its bias) is one slot."""
        for other_site, other_axis, other in self.slots:
            if (other_site, other_axis) == (site, axis):
                self.names.join(other, names)
                return
        self.slots.append((site, axis, names))

    def pin(self, values: Any, why: str) -> None:
        """Pin whatever names stand in some arguments."""
        for value in tree_leaves(values):
            if self.known(value):
                self.names.pin(self.of(value), f"{why} ({_place()})")

    def site(self, tensor: Any) -> tuple[str, nn.Module | None, tuple[int, ...]] | None:
        """The parameter a tensor is or comes from: its path, the module that owns it, and the order of its dimensions."""
        if not isinstance(tensor, Tensor):
            return None
        if tensor in self._parameters:
            path, owner = self._parameters[tensor]
            return path, owner, tuple(range(tensor.dim()))
        return self._origin.get(tensor)

    # --- watching ---------------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not self._asleep:
            self._apply(func, args, kwargs, out)
        return out

    def _apply(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        op = func._schema.name
        if op in RULES:
            RULES[op](self, func, args, kwargs, out)
        elif func.is_view or op in MOVES:
            _move(self, func, args, kwargs, out)
        elif torch.Tag.pointwise in func.tags or op in POINTWISE:
            _pointwise(self, func, args, kwargs, out)
        else:
            self.pin((args, kwargs), f"no rule for {op.replace('::', '.')}")

    def _register(self, model: nn.Module) -> None:
        self._parameters = WeakTensorKeyDictionary()
        for path, owner in model.named_modules():
            for name, tensor in [*owner.named_parameters(recurse=False), *owner.named_buffers(recurse=False)]:
                if tensor not in self._parameters:
                    self._parameters[tensor] = (f"{path}.{name}" if path else name, owner)
            if isinstance(owner, Resizable):
                owner.register_forward_pre_hook(self._enter)
                owner.register_forward_hook(self._leave)
        self._paths = {module: path for path, module in model.named_modules()}

    def _enter(self, module: nn.Module, args: Any) -> None:
        self._asleep += 1

    def _leave(self, module: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
        """A resizable layer of the user's: names go where its `places` say, and new ones stand where it makes channels."""
        self._asleep -= 1
        inputs = self.vector(args[0], 1)
        places = torch.tensor(module.places)
        outputs = torch.where(places >= 0, inputs[places.clamp(min=0)], 0)
        outputs[places < 0] = self.names.fresh(int((places < 0).sum()))
        site = self._paths[module]
        self.note(site, "in", inputs)
        self.note(site, "out", outputs)
        self.give(output, spread(outputs, output.shape, 1))

    def finish(self) -> None:
        """Turn the names of free parameters into slots of their owners."""
        for tensor, names in list(self._free.items()):
            path, owner = self._parameters[tensor]
            rooted = self.names.roots(names)
            dims = [d for d in range(tensor.dim()) if varies(rooted, d)]
            if len(dims) != 1:
                self.names.pin(names, f"parameter `{path}` holds channels on {len(dims)} dimensions at once")
                continue
            site, axis = owned(path, owner, dims[0])
            index = tuple(slice(None) if d == dims[0] else 0 for d in range(tensor.dim()))
            self.note(site, axis, names[index])

    # --- weighted layers ---------------------------------------------------------------------------------------------

    def weighted(self, weight: Tensor, inputs: Tensor, outputs: int, dims: tuple[int, int]) -> Tensor:
        """The names behind a layer with a weight: its slots are noted once; a shared weight keeps its names.

        `dims` are the dimensions of `weight` that run over outputs and inputs.
        """
        found = self.site(weight)
        if found is None:
            self.names.pin(inputs, f"its weight is computed during the forward ({_place()})")
            return torch.zeros(outputs, dtype=torch.long)
        path, owner, order = found
        if path in self._made:
            first, made = self._made[path]
            self.names.join(first, inputs)
            return made
        made = self.names.fresh(outputs)
        self._made[path] = (inputs, made)
        for names, dim in ((made, dims[0]), (inputs, dims[1])):
            self.note(*owned(path, owner, order[dim]), names)
        return made


def owned(path: str, owner: nn.Module | None, dim: int) -> tuple[str, str]:
    """Site and axis of a parameter's dimension: those of its layer if that is a known kind, else the parameter itself."""
    site = path.rpartition(".")[0]
    if isinstance(owner, nn.modules.conv._ConvTransposeNd):
        return site, ("in", "out")[dim] if path.endswith("weight") else "out"
    if isinstance(owner, nn.modules.conv._ConvNd | nn.Linear):
        return site, ("out", "in")[dim]
    if isinstance(owner, nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.PReLU):
        return site, "out"
    return path, str(dim)


def _place() -> str:
    """File and line of the user's code that runs now."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if "/torch/" not in file and "/lilliput/core/" not in file:
            return f"{file.rsplit('/', 1)[-1]}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "unknown place"


# --- rules -----------------------------------------------------------------------------------------------------------


@rule("aten::convolution")
def _convolution(f: Follow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    x, weight, transposed, groups = args[0], args[1], args[6], args[8]
    inputs, outputs = f.vector(x, 1), out.shape[1]
    if groups > 1 and f.site(weight) is None:
        f.pin(x, "its weight is computed during the forward")
    elif groups == x.shape[1] and not transposed:
        _depthwise(f, weight, inputs, out)
    elif groups > 1 and transposed:
        f.pin(x, "a grouped transposed convolution")
    else:
        made = f.weighted(weight, inputs, outputs, (1, 0) if transposed else (0, 1))
        if groups > 1:  # groups shrink evenly: the same places leave every group
            f.names.join_along(inputs.view(groups, -1), 0)
            f.names.join_along(made.view(groups, -1), 0)
        f.give(out, spread(made, out.shape, 1))


def _depthwise(f: Follow, weight: Tensor, inputs: Tensor, out: Tensor) -> None:
    path, owner, _ = f.site(weight)  # type: ignore[misc]
    made = inputs.repeat_interleave(out.shape[1] // len(inputs))
    if isinstance(owner, nn.modules.conv._ConvNd):
        f.note(path.rpartition(".")[0], "out", made)
    else:
        f.names.pin(inputs, f"a depthwise convolution by a function, whose groups are fixed ({_place()})")
    f.give(out, spread(made, out.shape, 1))


@rule("aten::addmm", "aten::mm", "aten::bmm", "aten::baddbmm")
def _matmul(f: Follow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    a, b = args[-2:]
    found = f.site(b)
    if found is not None and b.dim() == 2:
        made = f.weighted(b, f.vector(a, -1), out.shape[-1], (1, 0))
        f.give(out, spread(made, out.shape, out.dim() - 1))
        return
    _product(f, a, b, out)


def _product(f: Follow, a: Tensor, b: Tensor, out: Tensor) -> None:
    """Two activations multiplied: names on the summed dimension are joined, those on one free dimension survive."""
    left, right = f.of(a), f.of(b)
    summed = [varies(left, left.dim() - 1), varies(right, right.dim() - 2)]
    rows, columns = varies(left, left.dim() - 2), varies(right, right.dim() - 1)
    if (any(summed) and not all(summed)) or (any(summed) and (rows or columns)) or (rows and columns):
        f.pin((a, b), "a product of activations with channels on several dimensions")
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
            f.pin(x, f"{func._schema.name.replace('::', '.')} over channels")
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
        f.names.pin(new, f"padding adds a fixed number of channels ({_place()})")
        parts.append(spread(new, torch.Size(shape), dim))
    return torch.cat([parts[0], names, parts[1]], dim)


@rule("aten::copy_", "aten::index_put_", "aten::index_put", "aten::scatter", "aten::scatter_", "aten::masked_fill_")
def _written(f: Follow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    f.pin((args, kwargs), f"{func._schema.name.replace('::', '.')} writes into another tensor")


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
        f.names.pin(names, f"single channels are picked by number ({_place()})")
        return
    whole, widths = names.shape[dim], {p.shape[dim] for p in parts}
    if widths == {whole}:
        return
    width = next(iter(widths))
    if len(widths) > 1 or whole % width:
        f.names.pin(names, f"channels are split into uneven parts ({_place()})")
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
    if _lineage(f, func._schema.name, args, out) or not (f.known(x) or x in f._parameters):
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


MOVES = {
    "aten::cat", "aten::stack", "aten::index_select", "aten::flip", "aten::roll", "aten::repeat", "aten::clone",
    "aten::_to_copy", "aten::contiguous", "aten::channel_shuffle", "aten::native_channel_shuffle", "aten::pixel_shuffle",
    "aten::pixel_unshuffle", "aten::index", "aten::repeat_interleave", "aten::lift_fresh_copy", "aten::lift_fresh",
    "aten::expand", "aten::detach_", "aten::im2col", "aten::alias", "aten::unfold",
}  # fmt: skip
POINTWISE = {"aten::native_dropout", "aten::_prelu_kernel", "aten::bernoulli", "aten::fill_", "aten::zero_"}
SHUFFLES = {"aten::channel_shuffle", "aten::native_channel_shuffle"}
ORDERLY = {"aten::view", "aten::_unsafe_view", "aten::clone", "aten::_to_copy", "aten::contiguous", "aten::detach",
           "aten::alias", "aten::expand", "aten::lift_fresh"}  # fmt: skip


def _move(f: Follow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Execute the very operation on the names."""
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and t.dtype != torch.long]
    moved = _lineage(f, func._schema.name, args, out)
    if not any(f.known(t) or (t in f._parameters and not moved) for t in tensors):
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
        f._origin[out] = (path, owner, order[::-1])
    elif op in ORDERLY and out.shape == args[0].shape:
        f._origin[out] = found
    return out in f._origin


def _pointwise(f: Follow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    results = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
    if not any(f.known(t) for t in tensors):  # parameters among themselves: a masked or rounded weight is still that weight
        for t in tensors:
            found = f.site(t)
            if found is not None and t.dim() > 1 and results and results[0].shape == t.shape:
                f._origin[results[0]] = found
                return
        if len(tensors) != 1 or tensors[0] not in f._parameters:
            return
    names = torch.zeros((), dtype=torch.long)
    for tensor in tensors:
        own = thin(f.of(tensor))
        f.names.join(names, own)
        names = torch.where(names != 0, names, own)
    for result in results:
        f.give(result, names.expand(result.shape))
