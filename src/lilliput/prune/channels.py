"""Whole channels leave; what remains is an ordinary smaller network."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar

from torch import nn

from lilliput.config import config
from lilliput.core.channels import Channels as ChannelNames
from lilliput.core.channels import Group, planned
from lilliput.core.edits import Edit, Resize
from lilliput.core.method import Look, Method
from lilliput.errors import ConfigError, ModelError
from lilliput.prune.amounts import Amount, counts
from lilliput.prune.criteria import criteria
from lilliput.prune.evidence import JOIN, PER, Evidence
from lilliput.prune.reconstruct import compensate, consumers
from lilliput.prune.slices import makes
from lilliput.prune.thinning import Thinning

SCOPES = ("all", "inner")


@config("prune.channels")
class Channels(Method):
    """Remove the channels that matter least, together with everything that is coupled to them.

    Each atom of coupled channels gets the criterion's score: one in every layer that shows it, joined over layers, or one
    in all its layers together, as the criterion says. `keep` is the share of atoms that stays, in every group alike
    (`uniform`) or over the whole network (`global`). Cost: one forward, and what the criterion costs: a pass over the
    weights, or one over `images` images.

    keep       share of channels in (0, 1]; or shares by group name pattern, `{"layer1.*": 0.5}`, others staying whole
    macs, params, bytes, latency   instead of `keep`: the share of the network's cost that may stay, in (0, 1]; the gentlest
               thinning that reaches it. Counts are exact; latency is measured against the given network, and met within 5 %
    criterion  l1, l2, group_norm, fpgm, bn_scale, random from the weights; activation, apoz, pca from what layers read;
               taylor, fisher, hessian, dcp from the loss; thinet, lasso from what the next layers would miss
               (prune/criteria, prune/activity, prune/losses, prune/next_layer)
    allocate   uniform, global (scores compared across layers; no group falls below a tenth of its channels), or latency:
               the widths that save most time for the worth lost, by a table of layer times measured on this machine
    couple     mean, max or sum of an atom's scores over the layers that show it
    per        channel, macs or memory: scores are divided by what leaves with the channel, so that `global` weighs worth
               against cost
    images     how many training images a criterion that needs data, or `compensate`, looks at
    compensate refit the layers that lost inputs by least squares on what they read (prune/reconstruct)
    multiple   kept widths are rounded to multiples of this, which is what blocked kernels run fast on
    scope      all groups, or only the inner ones: channels that a single layer makes, so no shortcut changes its width
    skip       patterns of layers whose channels all stay

    Li et al. 2017, arXiv:1608.08710; coupling through additions as in Fang et al. 2023, "DepGraph", arXiv:2301.12900.
    """

    identity: ClassVar[dict[str, Any]] = {"keep": 1.0, "macs": None, "params": None, "bytes": None, "latency": None}

    keep: float | dict[str, float] = 1.0
    criterion: str = "l1"
    allocate: str = "uniform"
    couple: str = "mean"
    per: str = "channel"
    images: int = 512
    compensate: bool = False
    macs: float | None = None
    params: float | None = None
    bytes: float | None = None
    latency: float | None = None
    multiple: int = 1
    scope: str = "all"
    skip: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise `ConfigError` for options that can never work."""
        criteria[self.criterion]
        self._amount.check()
        for option, value, known in (
            ("couple", self.couple, JOIN), ("scope", self.scope, SCOPES), ("per", self.per, PER),
        ):  # fmt: skip
            if value not in known:
                raise ConfigError(f"`{option}` (={value}) is one of {', '.join(known)}")
        if self.images < 1:
            raise ConfigError(f"`images` (={self.images}) is at least 1")

    def plan(self, model: nn.Module, look: Look) -> list[Edit]:
        """One `Resize` for every layer axis that loses channels.

        Raises `ModelError` where channels should leave and none of the model can, and for a plan that, tried out, is not the
        same as silencing.
        """
        self.check()
        self._check_skipped(model)
        return list(planned(model, look.example, lambda found: self.choose(model, look, found)))

    def choose(self, model: nn.Module, look: Look, found: ChannelNames) -> list[Resize]:
        """The edits by the names that were found, not tried out; `plan` tries them."""
        groups = [g for g in found.groups if not self._stays(model, g)]
        if self._amount.asks and not groups:
            raise ModelError(_nothing(found))
        if not self._amount.asks:
            return []
        scores = Evidence(model, groups, look, self.images).scores(criteria[self.criterion], self.couple, self.per)
        thinning = Thinning(model, look.example, found, groups, scores)
        edits = thinning.edits(counts(thinning, self._amount, look))
        if not edits:
            sizes = ", ".join(str(n) for n in sorted({len(g.atoms) for g in groups}))
            raise ConfigError(
                f"`keep` (={self.keep}) leaves every group whole at `multiple` (={self.multiple}): they have {sizes} channels. "
                "Keep fewer, or lower `multiple`."
            )
        return edits

    def refit(self, before: nn.Module, after: nn.Module, look: Look) -> None:
        """Least-squares compensation, if it is asked for."""
        if self.compensate and consumers(before, after):
            compensate(before, after, look.need_batches("`compensate`", self.images), seed=look.seed)

    @property
    def _amount(self) -> Amount:
        return Amount(self.keep, self.macs, self.params, self.bytes, self.latency, self.allocate, self.multiple)

    def _check_skipped(self, model: nn.Module) -> None:
        names = [name for name, _ in (*model.named_modules(), *model.named_parameters())]
        for pattern in self.skip:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ConfigError(f"`skip`: `{pattern}` matches no layer of the network")

    def _stays(self, model: nn.Module, group: Group) -> bool:
        if self.scope == "inner" and sum(makes(model, slot) for slot in group.slots) > 1:
            return True
        return any(fnmatchcase(slot.site, pattern) for pattern in self.skip for slot in group.slots)


@dataclass(frozen=True)
class Width:
    """A group of coupled channels as the report shows it."""

    name: str
    channels: int
    layers: int


def widths(found: ChannelNames) -> list[Width]:
    """The groups of a network with their sizes."""
    return [Width(g.name, len(g.atoms), len({s.site for s in g.slots})) for g in found.groups]


def _nothing(found: ChannelNames) -> str:
    """Why no channel can leave, with the layers that each reason holds."""
    held = [f"{why}: {', '.join(sites[:3])}{', …' if len(sites) > 3 else ''}" for why, sites in found.reasons().items()]
    if found.groups:
        return "no channel may leave: `scope` and `skip` hold every group. Widen `scope`, or skip less."
    return f"no channel can leave: {'; '.join(held) or 'the network has no layer with channels'}"
