"""Whole blocks leave: the network becomes shallower."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lilliput.config import config
from lilliput.core.edits import Edit, Swap
from lilliput.core.method import Batch, Look, Method
from lilliput.core.perform import perform
from lilliput.errors import BudgetError, ConfigError, at
from lilliput.measure import profile
from lilliput.prune.blocks import Blocks, blocks

CRITERIA = ("loss", "kl", "distance")


@config("prune.layers")
class Layers(Method):
    """Remove the residual blocks whose removal hurts least: the identity takes their place.

    Greedy: each candidate is taken out in turn, the one that hurts least leaves, and the rest are tried again without it.
    Costs one pass over the images for every candidate and every block removed. Channels stay as they are.

    remove, keep   how many blocks leave; or the share of removable blocks in (0, 1] that stays
    macs, latency  or: blocks leave until this share in (0, 1] of multiply-adds, or of the clock's milliseconds, is reached
    criterion      loss (of the task), kl (of class probabilities to those of the whole network), or distance (of outputs,
                   ‖f − f'‖² / ‖f‖²); the last two read no labels, and where a look has no batches, its example
    images         how many images of the training split are looked at
    skip           patterns of blocks that stay

    Blocks whose removal hurts little: Veit et al. 2016, arXiv:1605.06431. Greedy by measured loss: Wang et al. 2019,
    "DBP: Discrimination Based Block-Level Pruning", arXiv:1912.10178; Elkerdawy et al. 2020, arXiv:2007.05667.
    """

    identity: ClassVar[dict[str, Any]] = {"remove": 0, "keep": None, "macs": None, "latency": None}

    remove: int = 0
    keep: float | None = None
    macs: float | None = None
    latency: float | None = None
    criterion: str = "loss"
    images: int = 256
    skip: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise `ConfigError` for options that can never work."""
        amounts = {"keep": self.keep, "macs": self.macs, "latency": self.latency}
        given = [name for name, value in amounts.items() if value is not None] + ["remove"] * (self.remove != 0)
        if len(given) > 1:
            raise ConfigError(f"`{given[0]}` and `{given[1]}` both say how much leaves; give one of them")
        for name, share in amounts.items():
            if share is not None and not 0 < share <= 1:
                raise ConfigError(f"`{name}` (={share}) is the share that stays, above 0 and at most 1")
        if self.remove < 0 or self.images < 1:
            raise ConfigError(f"`remove` (={self.remove}) is at least 0, and `images` (={self.images}) at least 1")
        if self.criterion not in CRITERIA:
            raise ConfigError(f"`criterion` (={self.criterion}) is one of {', '.join(CRITERIA)}")

    def plan(self, model: nn.Module, look: Look) -> list[Edit]:
        """One `Swap` for the identity a block, in the order in which they leave."""
        with at(self.name):
            self.check()
            if self.remove == 0 and (self.keep, self.macs, self.latency) == (None, None, None):
                return []
            found = self._candidates(model, look.example)
            enough = self._enough(model, look, found)
            hurt = _Hurt(model, self._batches(look), self.criterion, look)
            left, gone = list(found.sites), list[Edit]()
            while not enough(gone):
                scores = {site: hurt(perform(model, [*gone, _without(site)])) for site in left}
                least = min(left, key=scores.__getitem__)
                left.remove(least)
                gone.append(_without(least))
            return gone

    def explain(self, model: nn.Module, look: Look) -> dict[str, str]:
        """The containers of layers that cannot be removed, each with the reason."""
        return blocks(model, look.example).reasons

    def _candidates(self, model: nn.Module, example: Tensor) -> Blocks:
        for pattern in self.skip:
            if not any(fnmatchcase(site, pattern) for site, _ in model.named_modules()):
                raise ConfigError(f"`skip`: no layer is called `{pattern}`")
        found = blocks(model, example)
        return Blocks(tuple(s for s in found.sites if not any(fnmatchcase(s, p) for p in self.skip)), found.reasons)

    def _enough(self, model: nn.Module, look: Look, found: Blocks) -> Callable[[list[Edit]], bool]:
        """Whether enough blocks have left."""
        if self.macs is not None:
            return _target("macs", self.macs, lambda m: float(profile(m, look.example[:1]).macs), model, found)
        if self.latency is not None:
            return _target("latency", self.latency, look.need_clock(self.name), model, found)
        count = self.remove if self.keep is None else round((1 - self.keep) * len(found.sites))
        if count > len(found.sites):
            raise ConfigError(f"`remove` (={count}) exceeds the blocks that can go (={len(found.sites)}){_said(found)}")
        if self.keep is not None and self.keep < 1 and not found.sites:
            raise ConfigError(f"`keep` (={self.keep}): no block can go{_said(found)}")
        return lambda gone: len(gone) >= count

    def _batches(self, look: Look) -> Iterable[Batch]:
        if self.criterion != "loss" and look.batches is None:
            return [(look.example, look.example.new_zeros(len(look.example)))]
        return look.need_batches(f"the criterion `{self.criterion}`", self.images)


class _Hurt:
    """How much worse than the whole network another one is."""

    def __init__(self, whole: nn.Module, batches: Iterable[Batch], criterion: str, look: Look) -> None:
        self.batches, self.criterion, self.whole = batches, criterion, list[Tensor]()
        if criterion == "loss":
            self.loss = look.need_loss("the criterion `loss`")
        else:
            self.whole = [y for _, y in self._outputs(perform(whole, []))]

    def __call__(self, model: nn.Module) -> float:
        """The mean over images; a value that is not finite counts as the worst."""
        total, images = 0.0, 0
        for number, (targets, outputs) in enumerate(self._outputs(model)):
            wanted = targets if self.criterion == "loss" else self.whole[number]
            total += float(self._measure(outputs, wanted)) * len(targets)
            images += len(targets)
        if not images:
            raise ConfigError("there is no image to look at")
        return total / images if math.isfinite(total) else math.inf

    def _measure(self, outputs: Tensor, wanted: Tensor) -> Tensor:
        if self.criterion == "loss":
            return self.loss(outputs, wanted)
        if self.criterion == "kl":
            return F.kl_div(outputs.log_softmax(1), wanted.log_softmax(1), reduction="batchmean", log_target=True)
        return (outputs - wanted).square().sum() / wanted.square().sum().clamp(min=torch.finfo(wanted.dtype).tiny)

    def _outputs(self, model: nn.Module) -> Iterable[tuple[Tensor, Tensor]]:
        """(targets, outputs) a batch."""
        model.eval()
        place = next(model.parameters())
        for x, y in self.batches:
            with torch.no_grad():
                outputs = model(x.to(place))
            yield y.to(place.device), outputs


def _without(site: str) -> Edit:
    return Swap(site, "identity")


def _target(
    option: str, share: float, cost: Callable[[nn.Module], float], model: nn.Module, found: Blocks
) -> Callable[[list[Edit]], bool]:
    """Whether the cost has fallen to a share of what it was. Raises `BudgetError` with the smallest share there is."""
    whole = cost(model)
    least = cost(perform(model, [_without(site) for site in found.sites])) / whole
    if least > share:
        raise BudgetError(
            f"`{option}` (={share}) cannot be reached: without every block that can go (={len(found.sites)})"
            f" `{least:.3f}` is left{_said(found)}. Ask for that, or remove channels as well"
        )

    def enough(gone: list[Edit]) -> bool:
        return len(gone) == len(found.sites) or cost(perform(model, gone)) <= share * whole

    return enough


def _said(found: Blocks, most: int = 3) -> str:
    """Why other blocks stay, a few of them."""
    some = [f"`{site}`: {why}" for site, why in list(found.reasons.items())[:most]]
    return f" ({'; '.join(some)}{'; …' if len(found.reasons) > most else ''})" if some else ""
