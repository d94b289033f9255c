"""Whole channels leave; what remains is an ordinary smaller network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lilliput.config import config
from lilliput.core.channels import Channels as ChannelNames
from lilliput.core.channels import Group, Slot, channels
from lilliput.core.edits import Edit
from lilliput.core.layers import Resizable
from lilliput.core.method import Look, Method
from lilliput.errors import ConfigError
from lilliput.prune.amounts import SPREAD, counts
from lilliput.prune.criteria import criteria
from lilliput.prune.evidence import Evidence, score

JOIN: dict[str, Callable[[Tensor, int], Tensor]] = {"mean": torch.mean, "max": torch.amax, "sum": torch.sum}
SCOPES = ("all", "inner")


@config("prune.channels")
class Channels(Method):
    """Remove the channels that matter least, together with everything that is coupled to them.

    Each atom of coupled channels gets the criterion's score in every layer it is made by, divided by the layer's mean
    and joined over layers; `keep` is the share of atoms that stays, in every group alike (`uniform`) or over the whole
    network (`global`). Cost: one forward and one pass over the weights.

    keep       share of channels in (0, 1]; or shares by group name pattern, `{"layer1.*": 0.5}`, others staying whole
    criterion  a name from `lilliput methods`: l1, l2, …
    allocate   uniform, or global (scores compared across layers; no group falls below a tenth of its channels)
    couple     mean, max or sum of an atom's scores over the layers it stands in
    multiple   kept widths are rounded to multiples of this, which is what blocked kernels run fast on
    scope      all groups, or only the inner ones: channels that a single layer makes, so no shortcut changes its width
    skip       patterns of layers whose channels all stay

    Li et al. 2017, arXiv:1608.08710; coupling through additions as in Fang et al. 2023, "DepGraph", arXiv:2301.12900.
    """

    identity: ClassVar[dict[str, Any]] = {"keep": 1.0}

    keep: float | dict[str, float] = 1.0
    criterion: str = "l1"
    allocate: str = "uniform"
    couple: str = "mean"
    multiple: int = 1
    scope: str = "all"
    skip: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise `ConfigError` for options that can never work."""
        criteria[self.criterion]
        for share in self.keep.values() if isinstance(self.keep, dict) else (self.keep,):
            if not 0 < share <= 1:
                raise ConfigError(f"`keep` (={share}) is the share of channels that stays, above 0 and at most 1")
        for option, value, known in (
            ("allocate", self.allocate, SPREAD), ("couple", self.couple, JOIN), ("scope", self.scope, SCOPES),
        ):  # fmt: skip
            if value not in known:
                raise ConfigError(f"`{option}` (={value}) is one of {', '.join(known)}")
        if self.multiple < 1:
            raise ConfigError(f"`multiple` (={self.multiple}) is at least 1")

    def plan(self, model: nn.Module, look: Look) -> list[Edit]:
        """One `Resize` for every layer axis that loses channels."""
        self.check()
        found = channels(model, look.example)
        groups = [g for g in found.groups if not self._stays(model, g)]
        evidence = Evidence(model, groups)
        scores = [score(evidence, group, criteria[self.criterion], JOIN[self.couple]) for group in groups]
        kept = counts(model, look, groups, scores, keep=self.keep, allocate=self.allocate, multiple=self.multiple)
        gone: list[int] = []
        for group, worth, count in zip(groups, scores, kept, strict=True):
            order = torch.argsort(worth, descending=True, stable=True)
            gone += [group.atoms[i] for i in order[count:].tolist()]
        return list(found.remove(gone)) if gone else []

    def _stays(self, model: nn.Module, group: Group) -> bool:
        if self.scope == "inner" and sum(_makes(model, slot) for slot in group.slots) > 1:
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


def _makes(model: nn.Module, slot: Slot) -> bool:
    """Whether a layer brings channels into being, as convolutions do and norms and depthwise convolutions do not."""
    layer = model.get_submodule(slot.site) if not slot.axis.isdigit() else None
    if isinstance(layer, nn.modules.conv._ConvNd):
        return slot.axis == "out" and not layer.groups == layer.in_channels > 1
    return slot.axis == "out" and isinstance(layer, nn.Linear | Resizable)
