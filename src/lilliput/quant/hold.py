"""Training with the codes that a file will hold, and with as many bytes as it has room for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor, nn

from lilliput import kernels
from lilliput.config import config
from lilliput.core.callback import Active, Callback
from lilliput.errors import ConfigError
from lilliput.quant.held import ZONE, held
from lilliput.quant.rate_penalty import RatePenalty

GAIN = 0.2  # of a step, for e times as many bytes as there may be: a small part of what would do, each time
NARROWEST, WIDEST = 0.5, 1.0  # dead zones, in steps; a wider one would leave no code of one


@config("quant.hold_bits")
class HoldBits(Callback):
    r"""Train weights that are rounded for a file (`held_grid`), with codes that take the bytes they may.

    zone ← zone + 0.2·ln(B / `bytes`) within [0.5, 1] after `every` steps, one for all layers
    adds `strength`·min(1, (zone − 0.5) / 0.1) times the penalty of `quant.rate_penalty` of strength 1
    B is what the context coder takes for the codes of all layers.

    Both make codes cheaper: the zone at once, by zeros near zero, and the penalty by moving weights there for less of the loss.
    They share one number, since a penalty alone would go on to shrink weights beside steps that stay: where codes have become
    cheap enough, it fades to zero. It never exceeds `strength`: what it moved does not come back, what a zone makes zero does.
    Put `quant.rate: {norms: keep, turns: false}` before the training, and `fold` behind it, which keeps the codes.
    costs one pass over the weights a step, and the coder's when it is time (some ten million codes a second).
    bytes: 0 for what they take when training begins. Needs the native core. Widening dead zones as a control of the rate:
    Sullivan 1996, "Efficient scalar quantization of exponential and Laplacian random variables".
    """

    bytes: int = 0
    every: int = 10
    strength: float = 2.0

    def check(self) -> None:
        """Raise `ConfigError` for what can never work."""
        if self.every < 1 or self.bytes < 0:
            raise ConfigError(f"`every` (={self.every}) is at least 1, and `bytes` (={self.bytes}) at least 0")
        RatePenalty(self.strength).check()

    def begin(self, model: nn.Module, steps: int, seed: int) -> Active:
        """Count the bytes there are; raises `ConfigError` for a network without such grids."""
        self.check()
        if not held(model):
            raise ConfigError(
                f"{self.name}: no layer has a `held_grid`. Put `quant.rate: {{norms: keep, turns: false}}` before the training."
            )
        return _Held(model, self, RatePenalty(self.strength).begin(model, steps, seed))


class _Held(Active):
    """How many bytes there may be."""

    def __init__(self, model: nn.Module, asked: HoldBits, penalty: Active) -> None:
        self.model, self.every, self.penalty = model, asked.every, penalty
        self.grids = [grid for _, grid in held(model)]
        self.wanted = asked.bytes or coded(model)

    def loss(self, x: Tensor, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """The penalty, less of it the nearer the zone is to the narrowest."""
        added = self.penalty.loss(x, outputs, targets)
        return None if added is None else added * ((self.grids[0].zone - NARROWEST) / (ZONE - NARROWEST)).clamp(max=1)

    def after_step(self, step: int) -> None:
        """Move the zone if it is time."""
        if (step + 1) % self.every == 0:
            moved = GAIN * math.log(coded(self.model) / self.wanted)
            for grid in self.grids:
                grid.zone.add_(moved).clamp_(NARROWEST, WIDEST)

    def state(self) -> dict[str, Any]:
        return {"wanted": self.wanted}

    def load_state(self, stored: dict[str, Any]) -> None:
        self.wanted = int(stored["wanted"])


def coded(model: nn.Module) -> int:
    """The bytes that the context coder takes for the codes of all held grids. Raises `WorkError` without the native core."""
    layouts, arrays = [], []
    for layer, grid in held(model):
        codes = grid.encode(layer.weight)
        layouts.append(kernels.Layout(grid.rows, grid.kernels, grid.taps, codes.low, codes.high, 2, 0))
        arrays.append(np.ascontiguousarray(codes.values.cpu().numpy()))
    return len(kernels.encode(layouts, arrays))
