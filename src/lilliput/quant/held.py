"""The quantizer for files in training: codes that learn while norms stand, and the finer steps that they end on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lilliput.core.fold import line
from lilliput.core.layers import Mapped
from lilliput.core.maps import maps
from lilliput.quant.bias import coarseness
from lilliput.quant.grid import HIGH, Grid

ZONE = 0.6  # of a step
PARTS = 8  # of a step's exponent in halves of an octave
LEAST = 1e-8  # slope of a norm that counts


@maps.register("held_grid")
class HeldGrid(Grid):
    r"""Whole multiples of the steps that a `grid` would have behind the norm, for a layer whose norm still stands.

    s_rkt = 2^((e₀ + e_r + e_k + e_t) / 2) / g_r
    q = sign(w)·max(1, round(|w| / s)) where |w| ≥ `zone`·s, else 0;   ŵ = q·s
    ∂ŵ/∂w = 1 where |q| < 2^15 − 1, else 0                (straight-through)
    costs what a `grid` does, and 32 bits a row while it is trained.

    `slopes` holds g_r, the size of γ/√(σ² + ε) when the weight was rounded, and stays as it is: what norms learn changes no
    code. (Steps that followed them flipped codes by the row, and ResNet-56 lost a point.) A zone from 1/2 to 1 makes zeros of
    numbers that one step would be nearer to, which is what a coder wants. `bias_step` is what biases will be multiples
    of, 0 where nobody said. Folding makes it a `fine_grid`.
    Jacob et al. 2018, arXiv:1712.05877, section 3.2 (weights are rounded in training as they will be when norms are folded).
    """

    name = "held_grid"
    by_row = ("slopes",)
    slopes: Tensor
    zone: Tensor
    bias_step: Tensor

    def __init__(self, shape: Sequence[int], steps: Tensor) -> None:
        super().__init__(shape, steps)
        self.register_buffer("slopes", torch.ones(shape[0], device=steps.device))
        self.register_buffer("zone", torch.tensor(ZONE, device=steps.device))
        self.register_buffer("bias_step", torch.zeros((), device=steps.device))

    def spread(self) -> Tensor:
        """The step of every weight, (rows, kernels, taps)."""
        return super().spread() / self.slopes.view(-1, 1, 1)

    def rounded(self, w: Tensor, step: Tensor) -> Tensor:
        """The codes of a weight, as floats."""
        size = w.abs() / step
        return torch.where(size < self.zone, 0.0, w.sign() * size.round().clamp(1, HIGH))


@maps.register("fine_grid")
class FineGrid(Grid):
    r"""A `grid` whose rows have steps in sixteenths of an octave: what is left of a `held_grid` when its norm is folded.

    s_rkt = 2^((e₀ + e_r + e_k + e_t) / 2 + p_r / 16),   p_r in 0 to 7;   q and ŵ as a `grid` has them
    costs 3 bits a row more. A row is scaled by less than 2.2 % to fit.
    """

    name = "fine_grid"
    by_row = ("parts",)
    parts: Tensor

    def __init__(self, shape: Sequence[int], steps: Tensor) -> None:
        super().__init__(shape, steps)
        self.register_buffer("parts", torch.zeros(shape[0], dtype=torch.int8, device=steps.device))

    def take_over(self, held: HeldGrid, slope: Tensor) -> None:
        """The steps of another grid behind a norm of this slope, (rows,)."""
        first, rows, kernels, taps = held.steps.long().split([1, held.rows, held.kernels, held.taps])
        moved = (slope.abs().clamp(min=LEAST) / held.slopes.double()).log2()
        sixteenths = PARTS * (first + rows) + (2 * PARTS * moved).round().long()
        self.set((sixteenths // PARTS).double(), kernels, taps)
        self.parts.copy_(sixteenths % PARTS)

    def spread(self) -> Tensor:
        """The step of every weight, (rows, kernels, taps)."""
        table = torch.tensor([2.0 ** (k / (2 * PARTS)) for k in range(PARTS)], device=self.parts.device)
        return super().spread() * table[self.parts.long()].view(-1, 1, 1)


def held(model: nn.Module) -> list[tuple[Any, HeldGrid]]:
    """The layers whose last weight map is a grid that is trained on, and these."""
    layers = [layer for layer in model.modules() if isinstance(layer, Mapped) and layer.weight_maps]
    return [(layer, each) for layer in layers if isinstance(each := layer.weight_maps[-1], HeldGrid)]


@torch.no_grad()
def unroll(rounded: nn.Module, model: nn.Module, norms: Mapping[str, str]) -> None:
    """Give layers and norms the numbers with which they compute what the network does whose norms were folded, then rounded.

    norms: by layer, the norm that was folded into it. Layers that were held before stay as they are.
    """
    sites = {id(layer): site for site, layer in model.named_modules()}
    for layer, grid in held(model):
        site = sites[id(layer)]
        folded: Any = rounded.get_submodule(site)
        if isinstance(folded.weight_maps[-1], HeldGrid):
            continue
        slope = torch.ones_like(grid.slopes, dtype=torch.float64)
        if site in norms:
            slope = line(model, norms[site])[0]
            _center(model.get_submodule(norms[site]), slope, layer.bias, folded.bias.double())
        elif folded.bias is not None:
            layer.bias.copy_(folded.bias)
        if folded.bias is not None and folded.bias.any():
            grid.bias_step.copy_(coarseness(folded.bias))
        grid.steps.copy_(folded.weight_maps[-1].steps)
        grid.slopes.copy_(slope.abs().clamp(min=LEAST))
        signed = torch.where(slope < 0, -grid.slopes, grid.slopes)
        layer.weight.copy_(folded.weight / signed.view(-1, *[1] * (layer.weight.dim() - 1)))


def _center(norm: Any, slope: Tensor, bias: Tensor | None, folded: Tensor) -> None:
    """Let a norm expect the mean with which it adds what the folded bias does; its own offset does so where there is no slope.

    The offset stays, as in training the norm takes the batch's mean away whatever it expects.
    """
    own = torch.zeros_like(slope) if bias is None else bias.double()
    offset = torch.zeros_like(slope) if norm.bias is None else norm.bias.double()
    living = slope.abs() > LEAST
    norm.running_mean.copy_(torch.where(living, own + (offset - folded) / torch.where(living, slope, 1.0), norm.running_mean))
    if norm.bias is not None:
        norm.bias.copy_(torch.where(living, offset, folded))
