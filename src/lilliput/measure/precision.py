"""Bytes by precision: how large the weights of a layer are when each is stored with the bits it needs."""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor, nn

from lilliput.core.layers import Mapped, through
from lilliput.core.maps import Quantizer


def storage_bytes(module: nn.Module, *, skip: set[int] | frozenset[int] = frozenset()) -> int:
    """Bytes of the module's own parameters and persistent buffers, its children's left out.

    A tensor of n elements takes n times its item size. The weight of a mapped layer takes ⌈n·bits/8⌉ by its quantizer,
    and the quantizer's side information (scales, codebook) on top; maps that do not quantize, such as masks, vanish in
    the weight and take nothing. Tensors whose `id` is in `skip` are shared with another layer and counted there.
    """
    total = sum(_size(t) for t in stored(module) if id(t) not in skip)
    if not isinstance(module, Mapped) or id(module.weight) in skip:
        return total
    if (found := _quantizer(module.weight_maps)) is None:
        return total
    at, quantizer = found
    return total - _size(module.weight) + ceil(module.weight.numel() * quantizer.bits / 8) + _side(module, at, quantizer)


def stored(module: nn.Module) -> list[Tensor]:
    """The module's own tensors that its state dict holds."""
    lost = module._non_persistent_buffers_set
    kept = [b for name, b in module._buffers.items() if b is not None and name not in lost]
    return [p for p in module._parameters.values() if p is not None] + kept


def weight_bits(module: nn.Module) -> float | None:
    """Bits of one weight: the quantizer's, else the width of the weight's type; None for a layer without `weight`."""
    if isinstance(module, Mapped) and (found := _quantizer(module.weight_maps)) is not None:
        return float(found[1].bits)
    weight = module._parameters.get("weight")
    return None if weight is None else 8.0 * weight.element_size()


def input_bits(module: nn.Module) -> float | None:
    """Bits of one input element, where a quantizer stands before the layer."""
    if isinstance(module, Mapped) and (found := _quantizer(module.input_maps)) is not None:
        return float(found[1].bits)
    return None


def _quantizer(maps: nn.ModuleList) -> tuple[int, Quantizer] | None:
    """The last quantizer in a list of maps, and its place."""
    found = [(i, m) for i, m in enumerate(maps) if isinstance(m, Quantizer)]
    return found[-1] if found else None


def _side(module: Mapped, at: int, quantizer: Quantizer) -> int:
    """Bytes of the side information. On meta nothing can be encoded, so there it is the quantizer's state."""
    if module.weight.is_meta:
        return sum(_size(t) for part in quantizer.modules() for t in stored(part))
    with torch.no_grad():
        before = through(module.weight_maps[:at], module.weight)
        return sum(_size(t) for t in quantizer.encode(before).side.values())


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
