"""What layers see and say at sampled positions: a layer's work as rows of a matrix product.

A convolution (of any dimension, strided, padded, dilated) or a linear layer is y = W·x at every position of its output,
with x the patch of the input that the position reads.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lilliput.core.layers import Mapped, through


def refusal(layer: nn.Module) -> str | None:
    """Why a layer's work is not such a product of its weight; None where it is."""
    if not isinstance(layer, nn.Linear | _ConvNd) or isinstance(layer, _ConvTransposeNd):
        return f"it is a `{type(layer).__name__}`"
    if isinstance(layer, Mapped) and len(layer.weight_maps):
        return "its weight passes through maps; bake the model first"
    return None


def groups(layer: nn.Module) -> int:
    """How many products side by side a layer computes."""
    return layer.groups if isinstance(layer, _ConvNd) else 1


def weight_rows(layer: Any, part: int) -> Tensor:
    """The weight of one of the layer's groups as (outputs, inputs, elements of the kernel), a view."""
    rows = layer.weight.shape[0] // groups(layer)
    found: Tensor = layer.weight.detach()[part * rows : (part + 1) * rows]
    return found.flatten(2) if found.dim() > 2 else found.unsqueeze(2)


def positions(layer: nn.Module, y: Tensor, each: int, draw: torch.Generator) -> Tensor:
    """For every row of the batch `each` different random places of the layer's output `y`, or all there are; (n, each)."""
    return _drawn(len(y), math.prod(y.shape[1:-1] if isinstance(layer, nn.Linear) else y.shape[2:]), each, draw)


def positions_for(layer: nn.Module, x: Tensor, each: int, draw: torch.Generator) -> Tensor:
    """The same, of the output that an input `x` will have."""
    sizes = x.shape[1:-1] if isinstance(layer, nn.Linear) else _sizes(layer, _padded(layer, x))
    return _drawn(len(x), math.prod(sizes), each, draw)


def _drawn(rows: int, space: int, each: int, draw: torch.Generator) -> Tensor:
    if each >= space:
        return torch.arange(space).expand(rows, space)
    return torch.rand(rows, space, generator=draw).argsort(1)[:, :each]


def outputs(layer: nn.Module, y: Tensor, where: Tensor) -> Tensor:
    """The layer's outputs at these places, (n · each, outputs)."""
    flat = y.reshape(len(y), -1, y.shape[-1]) if isinstance(layer, nn.Linear) else y.flatten(2).transpose(1, 2)
    return _at(flat, where)


def patches(layer: Any, x: Tensor, where: Tensor) -> Tensor:
    """What the layer reads at these places of its output, (n · each, inputs, elements of the kernel)."""
    if isinstance(layer, Mapped):
        x = through(layer.input_maps, x)
    if isinstance(layer, nn.Linear):
        return _at(x.reshape(len(x), -1, x.shape[-1]), where).unsqueeze(2)
    padded = _padded(layer, x)
    dims, sizes = len(layer.kernel_size), _sizes(layer, padded)
    row = torch.arange(len(x), device=x.device).view(-1, 1, *[1] * dims)
    index: list[Tensor] = []  # for each dimension of space, (n, each, kernel) with ones where the others vary
    for d, (place, size) in enumerate(zip(_unravel(where.to(x.device), sizes), layer.kernel_size, strict=True)):
        offsets = torch.arange(size, device=x.device) * layer.dilation[d]
        shape = [1] * dims
        shape[d] = size
        index.append(place.view(*where.shape, *[1] * dims) * layer.stride[d] + offsets.view(1, 1, *shape))
    channels_last = padded.movedim(1, -1)
    found = channels_last[(row, *index)]  # (n, each, *kernel, inputs)
    return found.flatten(0, 1).flatten(1, -2).transpose(1, 2)


def _padded(layer: Any, x: Tensor) -> Tensor:
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)


def _sizes(layer: Any, padded: Tensor) -> list[int]:
    """The size of the output in each dimension of space."""
    reach = [(k - 1) * d for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
    return [(n - r - 1) // s + 1 for n, r, s in zip(padded.shape[2:], reach, layer.stride, strict=True)]


def _unravel(flat: Tensor, sizes: list[int]) -> list[Tensor]:
    found: list[Tensor] = []
    for size in reversed(sizes):
        found.insert(0, flat % size)
        flat = flat // size
    return found


def _at(flat: Tensor, where: Tensor) -> Tensor:
    """Rows (n, space, channels) at places (n, each)."""
    index = where.to(flat.device).unsqueeze(2).expand(-1, -1, flat.shape[2])
    return flat.gather(1, index).flatten(0, 1)
