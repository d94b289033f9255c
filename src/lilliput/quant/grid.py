"""A quantizer for files: evenly spaced levels without a limit that matters, and steps that cost next to nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor

from lilliput.core.maps import Codes, Quantizer, maps, take
from lilliput.errors import EditError

HIGH = 2**15 - 1
SQRT2_BITS = 0x3504F3  # what follows the exponent of √2 in a float32
LEVELS = 127  # of a row's largest magnitude, where nothing else decides the steps


@maps.register("grid")
class Grid(Quantizer):
    r"""Whole multiples of a step, which is a power of √2 and has a factor for each row, kernel and tap.

    s_rkt = 2^((e₀ + e_r + e_k + e_t) / 2),   q = round(w / s),   ŵ = q·s          (halves round to even)
    ∂ŵ/∂w = 1 where |q| < 2^15 − 1, else 0                (straight-through)
    costs what an entropy coder needs for q, 16 bits without one, and 8 bits for each exponent e.

    A row is an output channel, a kernel an input channel, a tap a place in the kernel. `steps` holds e₀, then e_r, e_k and
    e_t; methods set it (quant/rate). Left alone, a row's largest magnitude is 64 to 127 steps.
    """

    name = "grid"
    bits = 16
    for_files = True
    by_row: ClassVar[tuple[str, ...]] = ()  # buffers of a subclass that hold a number for every row
    steps: Tensor

    def __init__(self, shape: Sequence[int], steps: Tensor) -> None:
        super().__init__()
        self.rows, self.kernels = shape[0], shape[1]
        self.register_buffer("steps", steps)

    @classmethod
    def like(cls, tensor: Tensor) -> Self:  # type: ignore[override] # its own spec
        """The quantizer for a weight of this shape, (out, in, ...)."""
        if tensor.dim() < 2:
            raise EditError(f"a grid is for weights of two dimensions and more, and this one has `{tensor.dim()}`")
        taps = tensor[0, 0].numel()
        count = 1 + tensor.shape[0] + tensor.shape[1] + taps
        return cls(tensor.shape, torch.zeros(count, dtype=torch.int8, device=tensor.device))

    def absorb(self, tensor: Tensor) -> None:
        """Steps by the rows' largest magnitudes."""
        if not torch.isfinite(tensor).all():
            raise EditError("the weight holds NaN or infinity, which no step fits")
        largest = tensor.flatten(1).abs().amax(1).double()
        rows = torch.where(largest > 0, (2 * (largest / LEVELS).log2()).ceil(), 0.0)
        self.set(rows, torch.zeros(self.kernels), torch.zeros(self.taps))

    def set(self, rows: Tensor, kernels: Tensor, taps: Tensor) -> None:
        """Take these exponents, rounded; e₀ is the median of the rows', which leaves small ones."""
        rows = rows.round()
        first = rows.median().clamp(-128, 127)
        parts = torch.cat([first.view(1), *(part.to(rows) for part in (rows - first, kernels.round(), taps.round()))])
        self.steps.copy_(parts.clamp(-128, 127))

    @property
    def taps(self) -> int:
        """How many places a kernel has."""
        return len(self.steps) - 1 - self.rows - self.kernels

    def spread(self) -> Tensor:
        """The step of every weight, (rows, kernels, taps). Exact: a power of two, or one times √2 as a float32."""
        first, rows, kernels, taps = self.steps.int().split([1, self.rows, self.kernels, self.taps])
        twice = first + rows.view(-1, 1, 1) + _brief(kernels).view(-1, 1) + _brief(taps)
        exponents = (twice >> 1).clamp_(-120, 120).add_(127)
        bits = exponents.bitwise_left_shift_(23).add_((twice & 1).mul_(SQRT2_BITS))
        return bits.view(torch.float32).expand(self.rows, self.kernels, self.taps)

    def forward(self, w: Tensor) -> Tensor:
        step = self.spread().view(w.shape)
        codes = self.rounded(w.detach(), step)
        quantized = codes * step
        if not (w.requires_grad and torch.is_grad_enabled()):
            return quantized
        return quantized + torch.where(codes.abs() < HIGH, w - w.detach(), 0.0)

    def rounded(self, w: Tensor, step: Tensor) -> Tensor:
        """The codes of a weight, as floats."""
        return (w / step).round().clamp(-HIGH, HIGH)

    def encode(self, tensor: Tensor) -> Codes:
        """16-bit integers within the bounds that these keep to. NaN has no code."""
        codes = self.rounded(tensor.detach(), self.spread().view(tensor.shape)).to(torch.int16)
        low, high = (int(bound) for bound in codes.aminmax()) if codes.numel() else (0, 0)
        return Codes(codes, min(low, 0), max(high, 0), {name: getattr(self, name) for name in ("steps", *self.by_row)})

    def decode(self, codes: Codes) -> Tensor:
        return codes.values * self.spread().view(codes.values.shape)

    def resize(self, axis: str, keep: Sequence[int], dim: int) -> None:
        first, rows, kernels, taps = self.steps.split([1, self.rows, self.kernels, self.taps])
        if dim == 0:
            rows, self.rows = take(rows, 0, keep), len(keep)
            for name in self.by_row:
                setattr(self, name, take(getattr(self, name), 0, keep))
        if dim == 1:
            kernels, self.kernels = take(kernels, 0, keep), len(keep)
        self.steps = torch.cat([first, rows, kernels, taps])

    def extra_repr(self) -> str:
        return f"rows={self.rows}, kernels={self.kernels}, taps={self.taps}"


def _brief(exponents: Tensor) -> Tensor:
    """One zero for many: networks are large, and most need no such factors. An accelerator would have to be waited for."""
    return exponents[:1] if exponents.device.type == "cpu" and not any(exponents.tolist()) else exponents
