"""Masks that narrow while a network trains."""

from __future__ import annotations

from torch import Tensor, nn

from lilliput.config import config
from lilliput.core.callback import Active, Callback
from lilliput.core.layers import Mapped
from lilliput.errors import ConfigError
from lilliput.prune.masks import Mask, masks, settle
from lilliput.prune.patterns import pattern
from lilliput.prune.ramp import Ramp, check_ramp, ramp
from lilliput.prune.rates import Part, groups_lost, shares
from lilliput.prune.saliency import Criterion, saliencies

Masked = dict[str, tuple[Mapped, Mask]]


@config("prune.gradual")
class Gradual(Callback):
    """Raise the share of zeros during a training, fast at first and slowly at the end.

    s(t) = rate + (start - rate)·(1 - (t - since) / (until - since))³, the masks being chosen anew every `every` steps from
    the weights as they are; a weight that went stays away. The layers need masks: `prune.weights(rate=0)` puts them.

    rate, start   share of zeros at the end, and at the beginning, of all weights behind masks
    since, until  when, as shares of the training; what is left after `until` trains the network as it will stay
    every         steps between two narrowings
    criterion     magnitude or l2
    allocate      uniform, global, erk or lamp (prune/rates)
    Zhu and Gupta 2017, "To prune, or not to prune", arXiv:1710.01878.
    """

    rate: float = 0.9
    start: float = 0.0
    since: float = 0.0
    until: float = 0.75
    every: int = 50
    criterion: str = "magnitude"
    allocate: str = "global"

    def check(self) -> None:
        """Raise `ConfigError` for options that can never work."""
        check_ramp(self.start, self.rate, self.since, self.until, self.every)
        check_choice(self.criterion, self.allocate)

    def begin(self, model: nn.Module, steps: int, seed: int) -> Active:
        """Narrow the masks of this model."""
        self.check()
        found = masked(model, self.name)
        schedule = ramp(steps, (self.since, self.until), (self.start, self.rate), self.every)
        return Narrowing(found, schedule, saliencies[self.criterion], self.allocate)


class Narrowing(Active):
    """Masks that narrow by a ramp, and hold in between."""

    def __init__(self, found: Masked, schedule: Ramp, criterion: Criterion, allocate: str) -> None:
        self.found, self.ramp, self.criterion, self.allocate = found, schedule, criterion, allocate

    def after_step(self, step: int) -> None:
        """Narrow if it is time. Momentum still moves weights behind a new mask, so zeros are set at every step."""
        if self.ramp.changes(step):
            narrow(self.found, self.ramp.rate(step), self.criterion, self.allocate)
        for layer, mask in self.found.values():
            settle(layer, mask)


def masked(model: nn.Module, who: str) -> Masked:
    """The masked layers, or an error that names who asked."""
    found = masks(model)
    if not found:
        raise ConfigError(f"{who}: no layer has a mask to change. Put `prune.weights(rate=0)` before the training.")
    return found


def check_choice(criterion: str, allocate: str) -> None:
    """Raise `ConfigError` for what needs more than the weights."""
    if saliencies[criterion].needs != "weight":
        raise ConfigError(f"`criterion` (={criterion}) needs more than the weights; in a training there are magnitude and l2")
    shares[allocate]
    if allocate == "sensitivity":
        raise ConfigError("`allocate` (=sensitivity) measures, which a training has no time for; take lamp or global")


def behind(layer: Mapped, mask: Mask) -> Tensor:
    """The weight as its mask leaves it, before any map that comes after the mask; detached."""
    weight = layer.weight.detach()
    for each in layer.weight_maps:
        weight = each(weight)
        if each is mask:
            break
    return weight.detach()


def narrow(found: Masked, rate: float, criterion: Criterion, allocate: str) -> None:
    """Choose masks anew, within those there are, so that the share `rate` of all weights behind masks is zero."""
    scores, parts = {}, []
    for site, (layer, mask) in found.items():
        weight = behind(layer, mask)
        scores[site] = criterion.score(weight, weight)
        grain, shape = pattern(mask.pattern), tuple(weight.shape)
        parts.append(Part(site, grain.pool(scores[site]), grain.size(shape), shape, criterion.power))
    lost = groups_lost(allocate, parts, rate, _no_trial)
    for part, groups in zip(parts, lost, strict=True):
        mask = found[part.site][1]
        mask.kept &= pattern(mask.pattern).mask(scores[part.site], groups * part.size)


def _no_trial(part: Part, groups: int) -> float:
    raise NotImplementedError
