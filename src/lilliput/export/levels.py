"""A network's maps as XNNPACK reads them: quantizers as signed bytes and back, other maps on weights baked.

The operations are PyTorch's own `quantized_decomposed`, which every reader of exported programs knows. XNNPACK's bytes are
signed and cover −128..127; a quantizer's lowest level gets the lowest byte, so that saturation does half of its clipping.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from lilliput.core.layers import Mapped, through
from lilliput.errors import ExportError, at
from lilliput.quant.dorefa import Gradient
from lilliput.quant.integer import Affine

LOW, HIGH = -128, 127
_WAY_OUT = "Export the network as it was before that step, or write an `.onnx`."


@dataclass(frozen=True)
class Grid:
    """The levels (q − zero)·scale, for the bytes q in low..high."""

    scale: float
    zero: int
    low: int = LOW
    high: int = HIGH

    @property
    def arguments(self) -> tuple[float, int, int, int, torch.dtype]:
        """What follows the tensor in a call of a quantizer or dequantizer."""
        return self.scale, self.zero, self.low, self.high, torch.int8

    def code(self, value: float) -> float:
        """The byte a value lies at, which may be none."""
        return value / self.scale + self.zero

    def level(self, code: int) -> float:
        """The value of a byte."""
        return (code - self.zero) * self.scale

    @property
    def key(self) -> tuple[float, int]:
        """What two quantizers share whose bytes mean the same."""
        return self.scale, self.zero


@cache
def operations() -> Any:
    """`torch.ops.quantized_decomposed`; importing what defines them takes longer than all of this package."""
    import torch.ao.quantization.fx._decomposed

    return torch.ops.quantized_decomposed


def is_integer(model: nn.Module) -> bool:
    """Whether some activation passes through a map that changes it. Raises `ExportError` for one that no byte can hold."""
    found = False
    for path, module in model.named_modules():
        for kind in ("input_maps", "output_maps"):
            maps = module._modules.get(kind)
            for each in maps if isinstance(maps, nn.ModuleList) else ():
                with at(path):
                    _check(each)
                found |= isinstance(each, Affine)
    return found


def lower(model: nn.Module) -> nn.Module:
    """A copy in eval mode, on the CPU, whose quantizers of activations are pairs of operations that a rewrite can follow."""
    operations()
    new = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    with torch.no_grad():
        for layer in [m for m in new.modules() if isinstance(m, Mapped)]:
            _lower_weight(layer)
    for module in list(new.modules()):
        for kind in ("input_maps", "output_maps"):
            maps = module._modules.get(kind)
            for name, each in list(maps._modules.items()) if isinstance(maps, nn.ModuleList) else ():
                maps._modules[name] = Level(each) if isinstance(each, Affine) else each  # type: ignore[union-attr]
    return new


class Level(nn.Module):
    """A quantizer of activations, as bytes and back."""

    def __init__(self, affine: Affine) -> None:
        super().__init__()
        scale, zero = affine.settled()
        shift = LOW - affine.low
        self.grid = Grid(float(scale), int(zero) + shift, LOW, affine.high + shift)

    def forward(self, x: Tensor) -> Tensor:
        ops, arguments = operations(), self.grid.arguments
        codes = ops.quantize_per_tensor(x, *arguments)
        return ops.dequantize_per_tensor(codes, *arguments)  # type: ignore[no-any-return]


class Weight(nn.Module):
    """A weight stored as bytes: symmetric, with one scale or one an output channel."""

    def __init__(self, affine: Affine, weight: Tensor) -> None:
        super().__init__()
        scale = affine.settled()[0]
        self.register_buffer("codes", affine.encode(weight).values)
        self.register_buffer("scale", scale.expand(len(weight)).clone())
        self.register_buffer("zero", torch.zeros(len(weight), dtype=torch.int64))

    def forward(self, weight: Tensor) -> Tensor:
        # −127..127 for every width: bounds of 4 bits would make XNNPACK look for a packed weight.
        return operations().dequantize_per_channel(  # type: ignore[no-any-return]
            self.codes, self.scale, self.zero, 0, -HIGH, HIGH, torch.int8
        )


def _check(each: nn.Module) -> None:
    """Gradients pass through a map that does nothing at inference; every other one must be a quantizer to bytes."""
    if isinstance(each, Gradient):
        return
    if not isinstance(each, Affine):
        kind = getattr(each, "name", type(each).__name__)
        raise ExportError(f"activations pass through `{kind}`, and XNNPACK knows 8-bit integers alone. {_WAY_OUT}")
    if each.bits > 8:
        raise ExportError(f"activations have `bits` (={each.bits}), and XNNPACK's kernels take 2 to 8. {_WAY_OUT}")
    if each.axis is not None:
        raise ExportError(f"activations have scales along `axis` (={each.axis}), and XNNPACK takes one. {_WAY_OUT}")


def _lower_weight(layer: Any) -> None:
    *earlier, last = layer.weight_maps or [None]
    if isinstance(last, Affine) and last.bits <= 8 and last.signed and last.axis in (None, 0) and not bool(last.zero.any()):
        layer.weight_maps = nn.ModuleList([Weight(last, through(nn.ModuleList(earlier), layer.weight))])
    else:
        layer.weight = nn.Parameter(layer.mapped_weight().detach(), requires_grad=False)
        layer.weight_maps = nn.ModuleList()
