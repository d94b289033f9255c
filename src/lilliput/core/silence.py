"""Silenced instead of removed: the same network with these channels zero where they are made and where they are read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lilliput.core.edits import Resize
from lilliput.core.resize import bare


def silence(model: nn.Module, edits: Iterable[Resize]) -> None:
    """Set to zero, in place, whatever these edits would remove. What the network then computes, the smaller one must."""
    with torch.no_grad():
        for edit in edits:
            if edit.axis.isdigit():
                owner, name = bare(model, edit.site)
                _zero(getattr(owner, name), int(edit.axis), edit.keep)
            else:
                _silence_layer(model.get_submodule(edit.site), edit.axis, edit.keep)


def _silence_layer(layer: nn.Module, axis: str, keep: Sequence[int]) -> None:
    weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
    if isinstance(bias, Tensor) and axis == "out":
        _zero(bias, 0, keep)
    if not isinstance(weight, Tensor):
        return
    if isinstance(layer, _ConvNd) and layer.groups > 1:
        _silence_grouped(layer, axis, keep)
    else:
        _zero(weight, ("in", "out").index(axis) ^ (not isinstance(layer, _ConvTransposeNd)), keep)


def _silence_grouped(layer: _ConvNd, axis: str, keep: Sequence[int]) -> None:
    """A group at a time, because channels of a group are counted from its first."""
    transposed, kept = isinstance(layer, _ConvTransposeNd), set(keep)
    each = (layer.out_channels if axis == "out" else layer.in_channels) // layer.groups
    for group, block in enumerate(layer.weight.detach().chunk(layer.groups, 0)):  # views: (out, in) of the group, or (in, out)
        local = [i for i in range(each) if group * each + i in kept]
        _zero(block, ("in", "out").index(axis) ^ (not transposed), local)


def _zero(tensor: Tensor, dim: int, keep: Sequence[int]) -> None:
    lost = sorted(set(range(tensor.shape[dim])) - set(keep))
    if lost:
        tensor.detach().index_fill_(dim, torch.tensor(lost, device=tensor.device), 0)
