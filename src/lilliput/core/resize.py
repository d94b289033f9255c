"""How each kind of layer loses channels. One function a kind; a layer of the user's own brings its own `resize`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm

from lilliput.core.layers import Resizable
from lilliput.core.maps import Mapping, take
from lilliput.errors import EditError


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
    if isinstance(layer, _ConvTransposeNd):
        _transposed(layer, axis, keep)
    elif layer.groups > 1:
        _grouped(layer, axis, keep)
    elif axis == "out":
        _slice(layer, ("weight", "bias"), 0, keep)
        _resize_maps(layer, axis, keep)
        layer.out_channels = len(keep)
    else:
        _slice(layer, ("weight",), 1, keep)
        _resize_maps(layer, axis, keep)
        layer.in_channels = len(keep)


def _grouped(layer: _ConvNd, axis: str, keep: tuple[int, ...]) -> None:
    """Groups shrink evenly, or whole groups go (their inputs with them)."""
    total = layer.out_channels if axis == "out" else layer.in_channels
    each = total // layer.groups
    parts = [[i for i in keep if i // each == g] for g in range(layer.groups)]
    left = [part for part in parts if part]
    if len({len(part) for part in left}) > 1:
        raise EditError(f"the {layer.groups} groups must keep equally many channels, and keep {[len(p) for p in parts]}")
    if axis == "out":
        _slice(layer, ("weight", "bias"), 0, keep)
        _resize_maps(layer, axis, keep)
        layer.in_channels = layer.in_channels // layer.groups * len(left)
        layer.out_channels, layer.groups = len(keep), len(left)
        return
    if len(left) < layer.groups:
        raise EditError("an input group can only leave together with its outputs: resize `out` instead")
    rows = layer.out_channels // layer.groups
    local = [[i % each for i in part] for part in left]
    if all(part == local[0] for part in local):
        _slice(layer, ("weight",), 1, local[0])
    else:
        blocks = layer.weight.detach().split(rows, 0)
        weight = blocks[0].new_empty(layer.out_channels, len(local[0]), *blocks[0].shape[2:])
        for g, block in enumerate(blocks):
            weight[g * rows : (g + 1) * rows] = take(block, 1, local[g])
        layer.weight = nn.Parameter(weight, layer.weight.requires_grad)
    _resize_maps(layer, axis, local[0])
    layer.in_channels = len(keep)


def _transposed(layer: _ConvTransposeNd, axis: str, keep: tuple[int, ...]) -> None:
    if layer.groups > 1:
        raise EditError("a grouped transposed convolution cannot lose channels")
    if axis == "out":
        _slice(layer, ("weight",), 1, keep)
        _slice(layer, ("bias",), 0, keep)
        layer.out_channels = len(keep)
    else:
        _slice(layer, ("weight",), 0, keep)
        layer.in_channels = len(keep)


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


def resize_tensor(owner: nn.Module, name: str, dim: int, keep: tuple[int, ...]) -> None:
    """Keep slices of a bare parameter or buffer."""
    _slice(owner, (name,), dim, keep)


def _slice(layer: nn.Module, names: Sequence[str], dim: int, keep: Sequence[int]) -> None:
    for name in names:
        tensor = getattr(layer, name)
        if tensor is None:
            continue
        kept = take(tensor, dim, keep)
        is_parameter = isinstance(tensor, nn.Parameter)
        setattr(layer, name, nn.Parameter(kept, tensor.requires_grad) if is_parameter else kept)


def _resize_maps(layer: nn.Module, axis: str, keep: Sequence[int]) -> None:
    """Weight maps follow both axes, input maps the input channels, output maps the output channels."""
    followers = {"weight_maps": {"out": 0, "in": 1}, "input_maps": {"in": 1}, "output_maps": {"out": 1}}
    for kind, dims in followers.items():
        maps = layer._modules.get(kind)
        for each in maps.children() if maps is not None and axis in dims else ():
            if isinstance(each, Mapping):
                each.resize(axis, keep, dims[axis])
