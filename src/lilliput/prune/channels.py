"""Whole channels leave; what remains is an ordinary smaller network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lilliput.config import config
from lilliput.core.channels import Channels as ChannelNames
from lilliput.core.channels import Group, Slot, channels
from lilliput.core.edits import Edit
from lilliput.core.layers import Mapped, Resizable
from lilliput.core.method import Look, Method
from lilliput.errors import ConfigError
from lilliput.prune.criteria import criteria

JOIN: dict[str, Callable[[Tensor, int], Tensor]] = {"mean": torch.mean, "max": torch.amax, "sum": torch.sum}
SPREAD = ("uniform", "global")
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
        scores = [score(model, group, self.criterion, self.couple) for group in groups]
        gone: list[int] = []
        for group, worth, count in zip(groups, scores, self._counts(groups, scores), strict=True):
            order = torch.argsort(worth, descending=True, stable=True)
            gone += [group.atoms[i] for i in order[count:].tolist()]
        return list(found.remove(gone)) if gone else []

    def _stays(self, model: nn.Module, group: Group) -> bool:
        if self.scope == "inner" and sum(_makes(model, slot) for slot in group.slots) > 1:
            return True
        return any(fnmatchcase(slot.site, pattern) for pattern in self.skip for slot in group.slots)

    def _counts(self, groups: Sequence[Group], scores: Sequence[Tensor]) -> list[int]:
        """How many atoms each group keeps."""
        if isinstance(self.keep, dict):
            self._check_patterns(groups)
            shares = [next((s for p, s in self.keep.items() if fnmatchcase(g.name, p)), 1.0) for g in groups]
        elif self.allocate == "uniform" or not groups:
            shares = [self.keep] * len(groups)
        else:
            every = torch.cat(list(scores))
            cut = torch.quantile(every, 1 - self.keep) if self.keep < 1 else every.min()
            shares = [max(0.1, float((s >= cut).float().mean())) for s in scores]
        return [self._round(share, len(g.atoms)) for share, g in zip(shares, groups, strict=True)]

    def _check_patterns(self, groups: Sequence[Group]) -> None:
        assert isinstance(self.keep, dict)
        for pattern in self.keep:
            if not any(fnmatchcase(g.name, pattern) for g in groups):
                raise ConfigError(
                    f"`keep`: `{pattern}` matches no group of channels; they are {', '.join(g.name for g in groups)}"
                )

    def _round(self, share: float, size: int) -> int:
        if share >= 1:
            return size
        whole = max(1, round(share * size / self.multiple)) * self.multiple
        return min(whole, size)


@dataclass(frozen=True)
class Width:
    """A group of coupled channels as the report shows it."""

    name: str
    channels: int
    layers: int


def widths(found: ChannelNames) -> list[Width]:
    """The groups of a network with their sizes."""
    return [Width(g.name, len(g.atoms), len({s.site for s in g.slots})) for g in found.groups]


def score(model: nn.Module, group: Group, criterion: str, couple: str) -> Tensor:
    """The worth of each atom of a group, (atoms,), 1 on average in every layer before layers are joined."""
    measured = [_slot_score(view, slot, group, criterion) for slot in group.slots if (view := _view(model, slot)) is not None]
    if not measured:
        return torch.ones(len(group.atoms))
    return JOIN[couple](torch.stack(measured), 0)


def _slot_score(view: Tensor, slot: Slot, group: Group, criterion: str) -> Tensor:
    """Scores of a slot's channels, summed into the atoms they belong to."""
    values = criteria[criterion](view).double()
    values = values / values.mean().clamp(min=torch.finfo(torch.double).tiny)
    place = {atom: i for i, atom in enumerate(group.atoms)}
    where = torch.tensor([place.get(a, -1) for a in slot.atoms.tolist()])
    return torch.zeros(len(group.atoms), dtype=torch.double).index_add(0, where[where >= 0], values[where >= 0])


def _makes(model: nn.Module, slot: Slot) -> bool:
    """Whether a layer brings channels into being, as convolutions do and norms and depthwise convolutions do not."""
    layer = model.get_submodule(slot.site) if not slot.axis.isdigit() else None
    if isinstance(layer, nn.modules.conv._ConvNd):
        return slot.axis == "out" and not layer.groups == layer.in_channels > 1
    return slot.axis == "out" and isinstance(layer, nn.Linear | Resizable)


def _view(model: nn.Module, slot: Slot) -> Tensor | None:
    """The weight that makes a slot's channels as (channels, rest); None for axes that make none."""
    if slot.axis != "out":
        return None
    layer = model.get_submodule(slot.site)
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        weight = layer.weight.transpose(0, 1)
    elif isinstance(layer, nn.modules.conv._ConvNd | nn.Linear):
        weight = layer.mapped_weight() if isinstance(layer, Mapped) else layer.weight
    else:
        return None
    return weight.detach().flatten(1).cpu()
