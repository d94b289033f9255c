"""Rounding for the smallest file: no training, a few hundred images, codes chosen for what they cost in loss and in bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from lilliput import kernels
from lilliput.config import config
from lilliput.core.edits import Edit, Map, Swap
from lilliput.core.fold import fold
from lilliput.core.layers import HOSTS, Mapped
from lilliput.core.method import Look, Method
from lilliput.core.perform import perform
from lilliput.core.record import edits
from lilliput.errors import ConfigError, at
from lilliput.kernels.rounding import Job
from lilliput.quant.curvature import TEMPERATURE, Curvature, upper
from lilliput.quant.grid import HIGH, Grid
from lilliput.quant.held import unroll
from lilliput.quant.in_order import Seen, in_order, see

PRICE = 0.03  # of a bit, in squared steps
_ACROSS, _DOWN = 1e-3, 1e-1  # damping; outputs are seen through one random direction an image, so they need more


@config("quant.rate")
class RateQuantize(Method):
    r"""Weights as whole multiples of steps, for files: norms folded, steps where the loss bends little large, and every code
    chosen by what it costs in loss and in bits of the context coder, while the weights after it make up for its error.

    ŵ = q·s (quant/grid),   s_rj = `step` · √(G⁻¹)_r · √(A⁻¹)_j  with the triangular factors of A and G (quant/curvature)
    q minimizes ((w − q·s) / (s/`step`))² / 2 + `price`·`step`²·bits(q);   then w ← w − (G⁻¹ ⊗ A⁻¹ restricted)·error
    Moved are the weights that are not rounded yet: later ones of the row, the rows below, and the bias last.
    With steps so chosen every weight adds about step²/30 to the loss. A weight that is zero stays zero. Biases become multiples
    of a power of two. Codes are those of two quantizers that take turns (csrc/trellis.h), found by a Viterbi search of sixteen
    paths.
    Layers are rounded in the order they run in, each on what the rounded ones before it return and after the least-squares step
    that brings its outputs closest to those of the float network (quant/in_order).
    step: 0 does nothing; 0.0007 costs next to nothing, 0.003 some tenths of a point. price: 0 rounds to the nearest.
    images: how many show the curvature. temperature: quant/curvature. turns: False for one quantizer, whose codes any coder
    makes small, at a fifth of a bit a weight more. skip: layers left alone, by name or pattern.
    norms: "fold", or "keep" for a network that goes on to be trained with these codes (quant/held, quant/hold); `fold` ends
    that. It takes `turns: false`.
    Needs the native core. After Hassibi and Stork 1993 (OBS), Frantar et al. 2023, arXiv:2210.17323 (in order, by
    Cholesky factors), and Wiedemann et al. 2020, arXiv:1907.11900 (weighing the coder's bits).
    """

    identity: ClassVar[dict[str, Any]] = {"step": 0.0}

    step: float = 0.001
    price: float = PRICE
    images: int = 512
    temperature: float = TEMPERATURE
    turns: bool = True
    skip: tuple[str, ...] = ()
    norms: str = "fold"

    def check(self) -> None:
        """Numbers that make sense."""
        for option, value in (("step", self.step), ("price", self.price)):
            if not 0 <= value < float("inf"):
                raise ConfigError(f"`{option}` (={value}) must be a number from 0 on")
        if self.images < 1 or not 0 < self.temperature < float("inf"):
            raise ConfigError(f"`images` (={self.images}) and `temperature` (={self.temperature}) must be positive")
        if self.norms not in ("fold", "keep"):
            raise ConfigError(f"`norms` (={self.norms}) is not one of fold, keep")
        if self.norms == "keep" and self.turns:
            raise ConfigError("`norms` (=keep) is for training, which knows one quantizer: `turns` (=true) must be false")

    def plan(self, model: nn.Module, look: Look) -> list[Edit]:
        """Folds, and a grid on every weight that has no map yet."""
        with at(self.name):
            self.check()
            if self.step == 0:
                return []
            folds = fold(model, look.example)
            sites = self.sites(perform(model, folds))
            if self.norms == "keep":
                return [Map(site, "weight", "held_grid") for site in sites]
            return [*folds, *(Map(site, "weight", "grid", {}) for site in sites)]

    def refit(self, before: nn.Module, after: nn.Module, look: Look) -> None:
        """Round."""
        with at(self.name):
            if self.step and self.norms == "keep":
                rounded = replace(self, norms="fold")(before, look)
                unroll(rounded, after, _norms(edits(rounded)[len(edits(before)) :]))
            elif sites := gridded(after):
                self.round(after, self.seen(after, sites, look), self.step)

    def sites(self, model: nn.Module) -> list[str]:
        """The layers whose weights are rounded."""
        named = dict(model.named_modules())
        for pattern in self.skip:
            if not any(fnmatchcase(site, pattern) for site in named):
                raise ConfigError(f"`skip`: no layer is called `{pattern}`")
        return [
            site
            for site, layer in named.items()
            if (type(layer) in HOSTS or (isinstance(layer, Mapped) and not layer.weight_maps))
            and not any(fnmatchcase(site, pattern) for pattern in self.skip)
        ]

    def seen(self, model: nn.Module, sites: Sequence[str], look: Look) -> Seen:
        """What is to be known of these layers; what a search for `step` needs once."""
        return see(model, sites, look.need_batches(self.name, self.images), look.seed, self.temperature)

    def round(self, model: nn.Module, seen: Seen, step: float) -> float:
        """Set the steps, weights and biases of gridded layers, in place; returns the bits that their codes take, about.

        Raises `WorkError` without the native core.
        """
        return in_order(model, seen, lambda site, layer, bend: round_layer(layer, bend, step, self.price, site, self.turns))


def gridded(model: nn.Module) -> list[str]:
    """The layers whose only weight map is a grid."""
    return [
        site
        for site, layer in model.named_modules()
        if isinstance(layer, Mapped) and len(layer.weight_maps) == 1 and type(layer.weight_maps[0]) is Grid
    ]


def _norms(made: Sequence[Edit]) -> dict[str, str]:
    """The norm that these edits fold into each layer."""
    return {edit.site: edit.spec["norm"] for edit in made if isinstance(edit, Swap) and edit.layer == "folded"}


def round_layer(layer: Any, bend: Curvature, step: float, price: float, site: str, turns: bool = True) -> float:
    """Set the steps, the weight and the bias of one gridded layer, in place; returns the bits that its codes take, about."""
    with at(site), torch.no_grad():
        across, down = upper(bend.across, _ACROSS), upper(bend.down, _DOWN)
        grid: Grid = layer.weight_maps[0]
        _set_steps(grid, layer.weight, across, down, step / 2 if turns else step)
        bias_step = 0.0 if layer.bias is None else _bias_step(across, down, step)
        weights = layer.weight.detach().double().cpu().flatten(1)  # (rows, kernels·taps)
        if layer.bias is not None:
            weights = torch.cat([weights, layer.bias.detach().double().cpu()[:, None]], 1)
        steps = grid.spread().double().cpu().flatten(1)
        each, shape = len(weights) // len(across), (grid.kernels, grid.taps)
        total = 0.0
        for group, (a, g) in enumerate(zip(across, down, strict=True)):
            rows = slice(group * each, (group + 1) * each)
            total += _round_group(weights[rows], steps[rows], bias_step, a, g, price * step**2, shape, turns)
        _take_weights(layer, weights, steps)
    return total


def _round_group(
    weights: Tensor, steps: Tensor, bias_step: float, across: Tensor, down: Tensor, price: float, shape: tuple[int, int],
    turns: bool,
) -> float:  # fmt: skip
    """Round the rows of one group, in place."""
    made, *factors = (np.ascontiguousarray(each.numpy()) for each in (weights, steps, across, down))
    bits = kernels.round_weights(
        Job((len(made), *shape), made, factors[0], bias_step, factors[1], factors[2], price, HIGH, turns)
    )
    weights.copy_(torch.from_numpy(made))
    return bits


def _take_weights(layer: Any, weights: Tensor, steps: Tensor) -> None:
    """What was rounded in doubles, as the same codes times steps in floats."""
    numbers = weights[:, : steps.shape[1]]
    layer.weight.copy_(((numbers / steps).round().float() * steps.float()).view(layer.weight.shape))
    if layer.bias is not None:
        layer.bias.copy_(weights[:, -1] + 0.0)  # a negative zero is no whole number to a file


def _set_steps(grid: Grid, weight: Tensor, across: Tensor, down: Tensor, step: float) -> None:
    """The exponents nearest to `step` times the diagonals of the factors, (groups, d, d) and (groups, rows, rows).

    Larger ones for a row that would need codes in the upper half of what there are: its weights still move.
    """
    taps = across.diagonal(dim1=1, dim2=2)[:, : grid.kernels * grid.taps].log2().mean(0).view(grid.kernels, grid.taps)
    rows = down.diagonal(dim1=1, dim2=2).log2().flatten() + torch.tensor(step, dtype=torch.float64).log2()
    kernels_ = taps.mean(1)
    parts = 2 * kernels_, 2 * (taps - kernels_[:, None]).mean(0)
    grid.set(2 * rows, *parts)
    largest = (weight.detach().double().cpu().view(grid.spread().shape) / grid.spread().cpu()).abs().flatten(1).amax(1)
    over = (2 * (2 * largest / HIGH).clamp(min=1).log2()).ceil()
    if over.any():
        grid.set(2 * rows + over, *parts)


def _bias_step(across: Tensor, down: Tensor, step: float) -> float:
    """One power of two for all biases of a layer: what a store keeps as whole numbers."""
    logs = down.diagonal(dim1=1, dim2=2).log2().median() + across[:, -1, -1].log2().mean()
    exponent = (logs + torch.tensor(step, dtype=torch.float64).log2()).floor().clamp(-90, 20)
    return float(2.0**exponent)
