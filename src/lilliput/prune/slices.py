"""The weights behind each channel of a layer, whatever kind of layer it is."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lilliput.core.channels import Group, Slot
from lilliput.core.layers import Mapped, Resizable


def makes(model: nn.Module, slot: Slot) -> bool:
    """Whether a layer brings channels into being, as convolutions do and norms and depthwise convolutions do not."""
    layer = layer_of(model, slot)
    if isinstance(layer, _ConvNd):
        return slot.axis == "out" and not layer.groups == layer.in_channels > 1
    return slot.axis == "out" and isinstance(layer, nn.Linear | Resizable)


def reads(model: nn.Module, slot: Slot) -> bool:
    """Whether a layer with a weight reads these channels."""
    return slot.axis == "in" and isinstance(layer_of(model, slot), _ConvNd | nn.Linear)


def layer_of(model: nn.Module, slot: Slot) -> nn.Module | None:
    """The layer of a slot; None where the slot is a bare parameter."""
    return None if slot.axis.isdigit() else model.get_submodule(slot.site)


def makers(model: nn.Module, group: Group) -> list[tuple[Slot, Tensor]]:
    """The slots whose weights make a group's channels, with these weights as (channels, rest).

    Depthwise convolutions count, since each of their filters belongs to one channel. Where no layer makes the channels, a
    weight that a function of the user's reads does.
    """
    layers = [s for s in group.slots if s.axis == "out" and isinstance(layer_of(model, s), _ConvNd | nn.Linear)]
    slots = layers or [s for s in group.slots if s.axis.isdigit() and _bare(model, s).dim() > 1]
    return [(slot, shown) for slot in slots if (shown := slices(model, slot)) is not None]


def scales(model: nn.Module, group: Group) -> list[tuple[Slot, Tensor]]:
    """The norms that scale a group's channels, with γ, (channels,)."""
    norms = [(slot, layer_of(model, slot)) for slot in group.slots]
    return [(s, n.weight) for s, n in norms if isinstance(n, _NormBase | nn.GroupNorm) and n.weight is not None]


def slices(model: nn.Module, slot: Slot) -> Tensor | None:
    """The weights of each channel of a slot, (channels, rest), with their gradient: rows of a layer that makes channels,
    columns of one that reads them, the scale of a norm. None for layers without such weights."""
    layer: Any = layer_of(model, slot)
    if layer is None:
        bare = _bare(model, slot)
        return bare.movedim(int(slot.axis), 0).flatten(1) if bare.dim() > 1 else bare.unsqueeze(1)
    if isinstance(layer, _NormBase | nn.GroupNorm):
        return None if layer.weight is None else layer.weight.unsqueeze(1)
    if not isinstance(layer, _ConvNd | nn.Linear):
        return None
    return _turned(layer, _weight(layer), slot.axis).flatten(1)


def energies(model: nn.Module, slot: Slot, known: dict[str, Tensor]) -> Tensor | None:
    """The squared norms of the kernels of each channel of a slot, (channels, kernels), as `slices` has the weights.

    A layer's kernels are read once for both of its axes: `known` remembers them by site.
    """
    layer = layer_of(model, slot)
    if not isinstance(layer, _ConvNd | nn.Linear):
        found = slices(model, slot)
        return None if found is None else found.detach().square()
    if slot.site not in known:
        squares = _weight(layer).detach().square()
        many = squares.dim() > 2 and squares[0, 0].numel() > 1
        known[slot.site] = squares.flatten(2).sum(2) if many else squares.flatten(1)
    return _turned(layer, known[slot.site], slot.axis)


def _weight(layer: _ConvNd | nn.Linear) -> Tensor:
    return layer.mapped_weight() if isinstance(layer, Mapped) else layer.weight


def _turned(layer: _ConvNd | nn.Linear, weight: Tensor, axis: str) -> Tensor:
    """A weight, or what is known of its kernels, with the channels of one axis first."""
    if isinstance(layer, _ConvTransposeNd):  # its weight begins with the inputs
        return weight if axis == "in" else weight.transpose(0, 1)
    if axis == "out":
        return weight
    groups = layer.groups if isinstance(layer, _ConvNd) else 1
    return weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1) if groups > 1 else weight.transpose(0, 1)


def _bare(model: nn.Module, slot: Slot) -> Tensor:
    """A parameter or buffer that stands in a model by itself."""
    owner, _, name = slot.site.rpartition(".")
    found = getattr(model.get_submodule(owner), name)
    assert isinstance(found, Tensor)
    return found
