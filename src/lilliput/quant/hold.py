"""Training with the codes a file will hold, and with as many bits as it has room for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lilliput.config import config
from lilliput.core.callback import Active, Callback
from lilliput.errors import ConfigError
from lilliput.quant.held import held

GAIN = 0.2  # of a step, for e times as many bits as there may be
NARROWEST, WIDEST = 0.5, 4.0  # dead zones, in steps


@config("quant.hold_bits")
class HoldBits(Callback):
    r"""Train weights that are rounded for a file (`held_grid`), with codes that take as many bits as when training began.

    zone ← zone + 0.2·ln(H / H₀) within [0.5, 4] after `every` steps, one for all layers
    H = Σ_l Σ_q −n_lq·log₂(n_lq / n_l)     with n_lq how often layer l holds the code q; H₀ is that of the start

    Weights within zone·step of zero become zero, and what they did the others learn. The context coder takes a few percent less
    than H. Put `quant.rate: {norms: keep, turns: false}` before the training, and `fold` behind it, which keeps the codes.
    One pass over the weights when it is time. Widening dead zones as a control of the rate: Sullivan 1996, "Efficient scalar
    quantization of exponential and Laplacian random variables".
    """

    every: int = 10

    def check(self) -> None:
        """Raise `ConfigError` for an interval that is none."""
        if self.every < 1:
            raise ConfigError(f"`every` (={self.every}) is at least 1")

    def begin(self, model: nn.Module, steps: int, seed: int) -> Active:
        """Count the bits there are; raises `ConfigError` for a network without such grids."""
        self.check()
        if not held(model):
            raise ConfigError(
                f"{self.name}: no layer has a `held_grid`. Put `quant.rate` with `norms: keep` before the training."
            )
        return _Held(model, self.every)


class _Held(Active):
    """How many bits there may be."""

    def __init__(self, model: nn.Module, every: int) -> None:
        self.every = every
        self.found = held(model)
        self.wanted = self._bits()

    def after_step(self, step: int) -> None:
        """Move the zone if it is time."""
        if (step + 1) % self.every == 0 and self.wanted > 0:
            moved = GAIN * math.log(max(self._bits(), 1.0) / self.wanted)
            for _, grid in self.found:
                grid.zone.add_(moved).clamp_(NARROWEST, WIDEST)

    def state(self) -> dict[str, Any]:
        return {"wanted": self.wanted}

    def load_state(self, stored: dict[str, Any]) -> None:
        self.wanted = float(stored["wanted"])

    def _bits(self) -> float:
        return entropy(grid.encode(layer.weight).values for layer, grid in self.found)


def entropy(codes: Iterable[Tensor]) -> float:
    """The bits of whole numbers by how often each comes in its tensor: the order-0 entropy, times their number.

    >>> entropy([torch.tensor([0, 0, 1, 1]), torch.tensor([3, 3])])
    4.0
    """
    total = 0.0
    for each in codes:
        if each.numel():
            often = torch.bincount((each - each.min()).flatten().long()).double()
            often = often[often > 0]
            total -= float((often * (often / each.numel()).log2()).sum())
    return total
