"""How each kind of layer loses channels. One function a kind; a layer of the user's own brings its own `resize`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm

from lilliput.core.edits import Resize
from lilliput.core.layers import Resizable
from lilliput.core.maps import Mapping, take
from lilliput.errors import EditError

ONE_AXIS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.PReLU)


def resize_at(model: nn.Module, edit: Resize) -> None:
    """Perform one `Resize` in place; only `perform` and the trial of channel names do, on copies of their own."""
    if not edit.keep:
        raise EditError(f"removing every channel of `{edit.axis}` would cut the network; keep at least one")
    if edit.axis.isdigit():
        owner, name = bare(model, edit.site)
        tensor, dim = getattr(owner, name), int(edit.axis)
        _check_range(edit, tensor.shape[dim] if dim < tensor.dim() else 0)
        _slice(owner, (name,), dim, edit.keep)
        return
    if edit.axis not in ("in", "out"):
        raise EditError(f"the axis is `in` or `out`, not `{edit.axis}`")
    layer = find(model, edit.site)
    if edit.axis == "in" and isinstance(layer, ONE_AXIS):
        raise EditError(f"a `{type(layer).__name__}` has one set of channels, which is called `out`; resize that")
    _check_range(edit, size(layer, edit.axis))
    resize(layer, edit.axis, edit.keep)


def find(model: nn.Module, site: str) -> nn.Module:
    """The module at a dotted path."""
    try:
        return model.get_submodule(site)
    except AttributeError:
        raise EditError("the model has no such layer") from None


def bare(model: nn.Module, site: str) -> tuple[nn.Module, str]:
    """The owner and the name of a parameter or buffer."""
    parent, _, name = site.rpartition(".")
    owner = find(model, parent)
    if vars(owner)["_parameters"].get(name, vars(owner)["_buffers"].get(name)) is None:
        raise EditError(f"the model has no parameter or buffer `{site}`")
    return owner, name


def _check_range(edit: Resize, channels: int | None) -> None:
    ascending = list(edit.keep) == sorted(set(edit.keep))
    if not ascending or edit.keep[0] < 0 or (channels is not None and edit.keep[-1] >= channels):
        raise EditError(f"`keep` must ascend within 0..{(channels or 0) - 1}; it runs from {edit.keep[0]} to {edit.keep[-1]}")


@singledispatch
def resize(layer: nn.Module, axis: str, keep: tuple[int, ...]) -> None:
    """Keep the channels `keep` of one axis of a layer, in place; only `perform` calls this, on its own copy."""
    if not isinstance(layer, Resizable):
        raise EditError(f"a `{type(layer).__name__}` cannot lose channels; give it `places` and `resize(axis, keep)`")
    layer.resize(axis, keep)


def size(layer: nn.Module, axis: str) -> int | None:
    """How many channels a layer has on an axis, where that is known."""
    if isinstance(layer, _ConvNd):
        return layer.out_channels if axis == "out" else layer.in_channels
    if isinstance(layer, nn.Linear):
        return layer.out_features if axis == "out" else layer.in_features
    if isinstance(layer, _BatchNorm | _InstanceNorm):
        return layer.num_features
    if isinstance(layer, nn.GroupNorm):
        return layer.num_channels
    if isinstance(layer, nn.PReLU):
        return layer.num_parameters
    return None


@resize.register
def _conv(layer: _ConvNd, axis: str, keep: tuple[int, ...]) -> None:
    if layer.groups > 1:
        _grouped(layer, axis, keep)
        return
    transposed = isinstance(layer, _ConvTransposeNd)
    if axis == "out":
        _slice(layer, ("weight",), int(transposed), keep)
        _slice(layer, ("bias",), 0, keep)
        layer.out_channels = len(keep)
    else:
        _slice(layer, ("weight",), int(not transposed), keep)
        layer.in_channels = len(keep)
    _resize_maps(layer, axis, keep)


def _grouped(layer: _ConvNd, axis: str, keep: tuple[int, ...]) -> None:
    """Groups shrink evenly, or whole groups go (their inputs with them)."""
    total = layer.out_channels if axis == "out" else layer.in_channels
    each = total // layer.groups
    parts = [[i % each for i in keep if i // each == g] for g in range(layer.groups)]
    left = [g for g, part in enumerate(parts) if part]
    if len({len(parts[g]) for g in left}) > 1:
        raise EditError(f"the {layer.groups} groups must keep equally many channels, and keep {[len(p) for p in parts]}")
    if axis == "in" and len(left) < layer.groups:
        raise EditError("an input group can only leave together with its outputs: resize `out` instead")
    _slice_groups(layer, axis, [(g, parts[g]) for g in left])
    if axis == "out":
        _slice(layer, ("bias",), 0, keep)
        layer.in_channels = layer.in_channels // layer.groups * len(left)
        layer.out_channels, layer.groups = len(keep), len(left)
        _resize_maps(layer, axis, keep)
    else:
        if any(part != parts[0] for part in parts) and _has_maps(layer, "weight_maps"):
            raise EditError("its groups would keep different inputs, which its weight maps cannot follow; bake the model first")
        _resize_maps(layer, axis, parts[0])
        layer.in_channels = len(keep)


def _slice_groups(layer: _ConvNd, axis: str, left: Sequence[tuple[int, list[int]]]) -> None:
    """Each remaining group keeps its own places of `axis`, counted within the group."""
    blocks = layer.weight.chunk(layer.groups, 0)  # (out, in) of a group each; (in, out) in a transposed convolution
    dim = int((axis == "in") != isinstance(layer, _ConvTransposeNd))
    kept = torch.cat([take(blocks[g], dim, part) for g, part in left])
    layer.weight = nn.Parameter(kept, layer.weight.requires_grad)


@resize.register
def _linear(layer: nn.Linear, axis: str, keep: tuple[int, ...]) -> None:
    if axis == "out":
        _slice(layer, ("weight", "bias"), 0, keep)
        layer.out_features = len(keep)
    else:
        _slice(layer, ("weight",), 1, keep)
        layer.in_features = len(keep)
    _resize_maps(layer, axis, keep)


@resize.register(_BatchNorm)
@resize.register(_InstanceNorm)
def _norm(layer: _BatchNorm, axis: str, keep: tuple[int, ...]) -> None:
    _slice(layer, ("weight", "bias", "running_mean", "running_var"), 0, keep)
    layer.num_features = len(keep)


@resize.register
def _group_norm(layer: nn.GroupNorm, axis: str, keep: tuple[int, ...]) -> None:
    each = layer.num_channels // layer.num_groups
    if len(keep) % each or any(len({i // each for i in keep[k : k + each]}) > 1 for k in range(0, len(keep), each)):
        raise EditError(f"a group norm loses whole groups of {each} channels; it would change what the others are divided by")
    _slice(layer, ("weight", "bias"), 0, keep)
    layer.num_channels, layer.num_groups = len(keep), len(keep) // each


@resize.register
def _prelu(layer: nn.PReLU, axis: str, keep: tuple[int, ...]) -> None:
    if layer.num_parameters > 1:
        _slice(layer, ("weight",), 0, keep)
        layer.num_parameters = len(keep)


def _slice(layer: nn.Module, names: Sequence[str], dim: int, keep: Sequence[int]) -> None:
    for name in names:
        tensor = getattr(layer, name)
        if tensor is None:
            continue
        kept = take(tensor, dim, keep)
        is_parameter = isinstance(tensor, nn.Parameter)
        setattr(layer, name, nn.Parameter(kept, tensor.requires_grad) if is_parameter else kept)


def _has_maps(layer: nn.Module, kind: str) -> bool:
    maps = layer._modules.get(kind)
    return maps is not None and any(True for _ in maps.children())


def _resize_maps(layer: nn.Module, axis: str, keep: Sequence[int]) -> None:
    """Weight maps follow both axes, input maps the input channels, output maps the output channels."""
    followers = {"weight_maps": {"out": 0, "in": 1}, "input_maps": {"in": 1}, "output_maps": {"out": 1}}
    for kind, dims in followers.items():
        maps = layer._modules.get(kind)
        for each in maps.children() if maps is not None and axis in dims else ():
            if isinstance(each, Mapping):
                each.resize(axis, keep, dims[axis])
