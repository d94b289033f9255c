"""A network's maps as integer runtimes read them: quantizers as QuantizeLinear and DequantizeLinear, other maps baked."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from lilliput.core.layers import Mapped, through
from lilliput.errors import ExportError, at
from lilliput.quant.integer import Affine


def lower(model: nn.Module) -> nn.Module:
    """A copy in eval mode, on the CPU, that only `torch.onnx.export` can run.

    Integer weights of at most 8 bits are stored as integers; a weight that any other map computes is stored in floats.
    Raises `ExportError` for activations in integers of more than 8 bits.
    """
    new = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    with torch.no_grad():
        for layer in list(new.modules()):
            if isinstance(layer, Mapped):
                _lower_weight(layer)
    for path, layer in list(new.named_modules()):
        for kind in ("input_maps", "output_maps"):
            with at(path):
                _lower_activations(layer._modules.get(kind))
    return new


def _lower_activations(maps: nn.Module | None) -> None:
    for name, each in list(maps._modules.items()) if isinstance(maps, nn.ModuleList) else ():
        if isinstance(each, Affine) and each.bits > 8:
            raise ExportError(f"no kernel takes activations of `bits` (={each.bits}); there are kernels for 2 to 8")
        if isinstance(each, Affine):
            maps._modules[name] = Levels(each)  # type: ignore[union-attr]


def _is_integer(layer: Any) -> bool:
    """Whether the last map on a layer's weight makes integers of at most 8 bits."""
    maps: Any = layer.weight_maps if isinstance(layer, Mapped) else ()
    return len(maps) > 0 and isinstance(maps[-1], Affine) and maps[-1].bits <= 8


class Levels(nn.Module):
    """An integer quantizer of activations, written as integers and back."""

    def __init__(self, affine: Affine) -> None:
        super().__init__()
        self.bounds = [affine.low, affine.high]
        self.whole = torch.iinfo(affine.dtype).min == affine.low and torch.iinfo(affine.dtype).max == affine.high
        self.axis, self.dtype = affine.axis, affine.dtype
        scale, zero = affine.settled()
        self.register_buffer("scale", scale)
        self.register_buffer("zero", zero.to(affine.dtype))

    def forward(self, x: Tensor) -> Tensor:
        codes = _op("QuantizeLinear", (x, self.scale, self.zero), self.axis, self.dtype, x.shape)
        if not self.whole:  # fewer levels than the type has
            bounds = [torch.tensor(b, dtype=self.dtype) for b in self.bounds]
            codes = _op("Clip", (codes, *bounds), None, self.dtype, x.shape)
        return _op("DequantizeLinear", (codes, self.scale, self.zero), self.axis, torch.float32, x.shape)


class Weight(nn.Module):
    """A weight that is stored as integers. Its input, the latent weight, is not read, so it is not exported."""

    def __init__(self, affine: Affine, weight: Tensor) -> None:
        super().__init__()
        self.axis = affine.axis
        self.register_buffer("codes", affine.encode(weight).values)
        scale, zero = affine.settled()
        self.register_buffer("scale", scale)
        self.register_buffer("zero", zero.to(affine.dtype))

    def forward(self, weight: Tensor) -> Tensor:
        parts = (self.codes, self.scale, self.zero)
        return _op("DequantizeLinear", parts, self.axis, torch.float32, weight.shape)


def _lower_weight(layer: Any) -> None:
    if _is_integer(layer):
        *earlier, affine = layer.weight_maps
        layer.weight_maps = nn.ModuleList([Weight(affine, through(nn.ModuleList(earlier), layer.weight))])
    else:
        layer.weight = nn.Parameter(layer.mapped_weight().detach(), requires_grad=False)
        layer.weight_maps = nn.ModuleList()


def _op(name: str, inputs: tuple[Any, ...], axis: int | None, dtype: torch.dtype, shape: Any) -> Tensor:
    attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
    return torch.onnx.ops.symbolic(name, inputs, attributes, dtype=dtype, shape=shape)
