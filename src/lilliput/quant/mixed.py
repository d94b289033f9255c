"""Mixed precision: the widths of layers, shared out by what each layer is measured to lose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lilliput.config import config
from lilliput.core.edits import Edit, Map
from lilliput.core.method import Look, Method
from lilliput.core.perform import perform
from lilliput.errors import BudgetError, ConfigError, at
from lilliput.quant.calibrate import first
from lilliput.quant.quantize import Quantize


@config("quant.mixed")
class Mixed(Method):
    """Quantize each layer's weight to a width of its own, so that the network fits and loses least.

    The sensitivity of a layer at a width is measured: the mean of ‖f(x) − f̂(x)‖² / ‖f(x)‖² over `images` calibration images,
    with that layer alone at that width. Their sum is what is made small: from the widest on, the narrowing that loses least for
    the bits it saves comes next, until the weights fit.
    size: weights as a share of their float bytes (0.15 is 4.8 bits on average). latency: a share of the network's
    milliseconds on the clock of the run: as many of the most sensitive layers stay in floats as fit into it.
    widths: the widths there are. method: how the chosen widths are quantized, and everything else `quant.Quantize` has.
    Wang et al. 2019, arXiv:1811.08886 (budgets from hardware); Dong et al. 2019, arXiv:1905.03696 (sensitivity).
    """

    identity: ClassVar[dict[str, Any]] = {"size": 1.0, "latency": None}

    size: float | None = 0.15
    latency: float | None = None
    widths: tuple[int, ...] = (2, 3, 4, 5, 6, 8)
    images: int = 128
    method: Quantize = field(default_factory=Quantize)

    def check(self) -> None:
        """Shares and widths that can be."""
        for option, share in (("size", self.size), ("latency", self.latency)):
            if share is not None and not 0 < share <= 1:
                raise ConfigError(f"`{option}` (={share}) is a share, above 0 and at most 1")
        if self.size is None and self.latency is None:
            raise ConfigError("say what to aim at: `size` or `latency`")
        if not self.widths or any(b not in range(2, 9) for b in self.widths):
            raise ConfigError(f"`widths` (={list(self.widths)}) are from 2 to 8")
        if self.images < 1:
            raise ConfigError(f"`images` (={self.images}) must be at least 1")
        self.method.check()

    def plan(self, model: nn.Module, look: Look) -> list[Edit]:
        """The edits of `Quantize` with the widths that were found."""
        if self.size == 1 and self.latency is None:
            return []
        with at(self.name):
            self.check()
            return self.chosen(model, look).plan(model, look)

    def refit(self, before: nn.Module, after: nn.Module, look: Look) -> None:
        """What the quantization itself refits."""
        self.method.refit(before, after, look)

    def chosen(self, model: nn.Module, look: Look) -> Quantize:
        """The quantization with a width for each layer. Measures every layer at every width, in the order of `widths`."""
        costs = self._costs(model, look)
        if not costs:
            return self.method
        method = self.method
        if self.size is not None:
            method = replace(method, widths={**method.widths, **fit_size(costs, self.size)})
        if self.latency is not None:
            method = self._fit_latency(method, costs, model, look)
        return method

    def _costs(self, model: nn.Module, look: Look) -> dict[str, Cost]:
        images = list(first(look.need_batches(self.name), self.images))
        plan = replace(self.method, widths={}, bits=max(self.widths), activations=32).plan(model, look)
        bare = perform(model, [e for e in plan if not isinstance(e, Map)])
        wanted, found = _outputs(bare, images), {}
        for edit in (e for e in plan if isinstance(e, Map)):
            losses = {}
            for bits in sorted(set(self.widths)):
                spec = {k: v for k, v in edit.spec.items() if k != "pairs"} | {"bits": bits}
                losses[bits] = _loss(wanted, _outputs(perform(bare, [replace(edit, spec=spec)]), images))
            weight: Any = bare.get_submodule(edit.site).weight
            found[edit.site] = Cost(weight.numel(), losses)
        return found

    def _fit_latency(self, method: Quantize, costs: dict[str, Cost], model: nn.Module, look: Look) -> Quantize:
        """As many of the most sensitive layers in floats as the clock allows, by halving."""
        clock = look.need_clock(self.name)
        assert self.latency is not None
        limit = clock(model) * self.latency
        order = sorted(costs, key=lambda site: -max(costs[site].losses.values()))
        sparing = [replace(method, skip=(*method.skip, *order[:n])) for n in range(len(order) + 1)]
        fits = lambda n: clock(perform(model, sparing[n].plan(model, look))) <= limit  # noqa: E731
        if not fits(0):
            raise BudgetError(f"all in integers the network takes more than `latency` (={self.latency:g}) of its time")
        low, high = 0, len(order)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return sparing[low]


@dataclass(frozen=True)
class Cost:
    """The weights of a layer, and what it loses at each width."""

    weights: int
    losses: Mapping[int, float]


def fit_size(costs: Mapping[str, Cost], share: float) -> dict[str, int]:
    """A width for each layer, so that all weights together take at most a share of their float bytes.

    Greedy along the lower hull of each layer's losses: optimal but for the last step. Raises `BudgetError` with the floor.
    """
    widths = {site: max(cost.losses) for site, cost in costs.items()}
    total, limit = sum(c.weights * widths[s] for s, c in costs.items()), 32 * share * sum(c.weights for c in costs.values())
    floor = sum(c.weights * min(c.losses) for c in costs.values())
    if floor > limit:
        raise BudgetError(f"`size` (={share:g}) is below the floor: {floor / limit * share:.3g} at the narrowest of `widths`")
    while total > limit:
        steps = [_narrower(site, costs[site], widths[site]) for site in costs if widths[site] > min(costs[site].losses)]
        _, site, bits = min(steps)
        total -= costs[site].weights * (widths[site] - bits)
        widths[site] = bits
    return widths


def _narrower(site: str, cost: Cost, width: int) -> tuple[float, str, int]:
    """The step down with the least loss for a bit saved."""
    options = [b for b in cost.losses if b < width]
    price = {b: (cost.losses[b] - cost.losses[width]) / (cost.weights * (width - b)) for b in options}
    best = min(options, key=lambda b: (price[b], -b))
    return price[best], site, best


def _outputs(model: nn.Module, images: list[Tensor]) -> Tensor:
    with torch.no_grad():
        return torch.cat([model.eval()(x) for x in images])


def _loss(wanted: Tensor, found: Tensor) -> float:
    return float((found - wanted).square().sum() / wanted.square().sum().clamp(min=1e-30))
