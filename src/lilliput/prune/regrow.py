"""Masks that move while a network trains: the least weights go, and others grow where gradients are largest."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from lilliput.config import config
from lilliput.core.callback import Active, Callback
from lilliput.core.layers import Mapped
from lilliput.errors import ConfigError
from lilliput.prune.gradual import Masked, Narrowing, behind, check_choice, masked
from lilliput.prune.masks import Mask, settle
from lilliput.prune.patterns import pattern
from lilliput.prune.ramp import Ramp, check_ramp, ramp
from lilliput.prune.saliency import saliencies


@config("prune.regrow")
class Regrow(Callback):
    """Train a sparse network whose masks move: every so often each layer swaps its least weights for promising ones.

    At a change the layer drops the share d(t) = share/2·(1 + cos(π·t)) of its weights, t being the part of the ramp that
    is behind, and grows as many where |∂L/∂w| is largest among those that are zero; they begin at zero.
    With `start` = `rate` this is RigL. With `start` < `rate` the share of zeros rises by the cubic of `prune.gradual` at
    the same time: GraNet. The layers need masks, for RigL at once with the final share of zeros:
    `prune.weights(criterion=random, rate=0.9, allocate=erk)`.

    rate, start   share of zeros at the end, and at the beginning; share: of a layer's weights that move at first
    since, until  when, as shares of the training; every: steps between two changes; the gradients of one batch decide
    allocate      how the rising rate is shared (`start` < `rate` only): uniform, global, erk or lamp
    Evci et al. 2020, "Rigging the lottery", arXiv:1911.11134; Liu et al. 2021, "GraNet", arXiv:2106.10404.
    """

    rate: float = 0.9
    start: float = 0.9
    share: float = 0.3
    since: float = 0.0
    until: float = 0.75
    every: int = 100
    allocate: str = "global"

    def check(self) -> None:
        """Raise `ConfigError` for options that can never work."""
        check_ramp(self.start, self.rate, self.since, self.until, self.every)
        check_choice("magnitude", self.allocate)
        if not 0 < self.share <= 1:
            raise ConfigError(f"`share` (={self.share}) is the share of a layer's weights that move, above 0 and at most 1")

    def begin(self, model: nn.Module, steps: int, seed: int) -> Active:
        """Move the masks of this model."""
        self.check()
        found = masked(model, self.name)
        for site, (_, mask) in found.items():
            if pattern(mask.pattern).most:
                raise ConfigError(f"{site}: weights of an N:M mask (={mask.pattern}) cannot move freely")
        schedule = ramp(steps, (self.since, self.until), (self.start, self.rate), self.every)
        return Moving(found, schedule, self)


class Moving(Narrowing):
    """Masks in motion."""

    def __init__(self, found: Masked, schedule: Ramp, plan: Regrow) -> None:
        super().__init__(found, schedule, saliencies["magnitude"], plan.allocate)
        self.plan, self.next = plan, 0
        self.gradients: dict[str, Tensor] = {}
        self._open(0)

    def before_step(self, step: int) -> None:
        """Keep the gradients of weights that are zero, then hide them from the optimizer."""
        self.gradients.clear()
        for site, (layer, mask) in self.found.items():
            if mask.open and layer.weight.grad is not None:
                self.gradients[site] = layer.weight.grad.abs()
                layer.weight.grad.masked_fill_(~mask.kept, 0)

    def after_step(self, step: int) -> None:
        """Narrow where the rate rises, then move."""
        if self.ramp.low < self.ramp.high:
            super().after_step(step)
        if self.ramp.changes(step):
            share = self.plan.share / 2 * (1 + math.cos(math.pi * self.ramp.done(step)))
            for site, (layer, mask) in self.found.items():
                if site in self.gradients:
                    mask.kept = moved(layer, mask, self.gradients[site], share)
        for layer, mask in self.found.values():
            settle(layer, mask)
        self._open(step + 1)

    def end(self) -> None:
        """Close every mask."""
        for _, mask in self.found.values():
            mask.open = False

    def state(self) -> dict[str, Any]:
        """The step that comes next."""
        return {"next": self.next}

    def load_state(self, stored: dict[str, Any]) -> None:
        """Go on at that step."""
        self._open(int(stored["next"]))

    def _open(self, step: int) -> None:
        """Let gradients reach pruned weights in a step whose gradients decide."""
        self.next = step
        for _, mask in self.found.values():
            mask.open = self.ramp.changes(step)


def moved(layer: Mapped, mask: Mask, gradient: Tensor, share: float) -> Tensor:
    """The mask after the share `share` of its weights has moved; as many stay as before."""
    grain, shape = pattern(mask.pattern), mask.kept.shape
    kept = grain.pool(mask.kept.double()) > 0  # (groups,)
    worth = grain.pool(behind(layer, mask).abs().double())
    count = min(round(share * int(kept.sum())), int((~kept).sum()))
    drop = torch.argsort(worth.masked_fill(~kept, math.inf), stable=True)[:count]
    wanted = grain.pool(gradient.double()).masked_fill(kept, -1)
    grow = torch.argsort(wanted, descending=True, stable=True)[:count]
    kept[drop], kept[grow] = False, True
    return grain.spread(kept, shape)
