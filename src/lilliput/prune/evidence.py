"""What criteria are shown of a network: the kinds of evidence, and how scores of layers become scores of coupled channels.

A kind of evidence is a function from `Evidence` and a group to `View`s, one for every layer that has a say, or one for the
whole group. Whatever it takes a pass over images to learn is gathered for all groups at once (`Evidence.once`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lilliput.core.channels import Group, Slot
from lilliput.core.method import Look
from lilliput.data.seeds import generator
from lilliput.errors import ConfigError, DataError, ModelError
from lilliput.measure import profile
from lilliput.prune.criteria import Criterion
from lilliput.prune.slices import energies, makers, makes, reads, scales
from lilliput.registry import Registry

T = TypeVar("T")
JOIN: dict[str, Callable[[Tensor, int], Tensor]] = {"mean": torch.mean, "max": torch.amax, "sum": torch.sum}
PER = ("channel", "macs", "memory")
PIECE = 32
"""Images a forward: what a backward pass through a large network holds in memory."""


@dataclass(frozen=True)
class View:
    """What one layer shows of a group. A score computed from `shown` has an entry for each of `places`: the atom it is
    about, as its index in the group, or -1 for none."""

    shown: Any
    places: Tensor


Kind = Callable[["Evidence", Group], list[View]]
kinds: Registry[Kind] = Registry("kind of evidence")


class Evidence:
    """All that may be known about the channels of a model. Passes over images run on copies; the model is not touched."""

    def __init__(self, model: nn.Module, groups: Sequence[Group], look: Look, images: int = 512) -> None:
        self.model, self.groups, self.look, self.images = model, tuple(groups), look, images
        self._known: dict[Any, Any] = {}
        self.energies: dict[str, Tensor] = {}

    def scores(self, criterion: Criterion, couple: str = "mean", per: str = "channel") -> list[Tensor]:
        """The worth of every atom, (atoms,) a group, in double precision on the CPU.

        The scores of an atom's channels in one layer are added, those of several layers joined by `couple`; `per` divides
        by what the atom costs. Raises `ConfigError` where there is no evidence of the kind that the criterion needs.
        """
        if criterion.whole and couple != "mean":
            raise ConfigError(
                f"`couple` (={couple}) has nothing to join: `{criterion.name}` sees all layers at once. Leave it out."
            )
        return [self._score(group, criterion, couple, per) for group in self.groups]

    def batches(self, who: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Labelled images in pieces small enough for a backward pass, on the model's device."""
        like = next(self.model.parameters(), self.look.example)
        empty = True
        for x, y in self.look.need_batches(who, self.images):
            for piece, targets in zip(x.split(PIECE), y.split(PIECE), strict=True):
                yield piece.to(like), targets.to(like.device)
                empty = False
        if empty:
            raise DataError(f"{who} needs labelled images, and the batches of this look hold none")

    def once(self, gather: Callable[[Evidence], T]) -> T:
        """What `gather` finds, computed the first time somebody asks."""
        if gather not in self._known:
            self._known[gather] = gather(self)
        found: T = self._known[gather]
        return found

    @cached_property
    def columns(self) -> dict[int, int]:
        """A number for each atom of all groups, in order."""
        return {atom: i for i, atom in enumerate(a for group in self.groups for a in group.atoms)}

    @cached_property
    def costs(self) -> dict[str, tuple[int, int]]:
        """Of each layer, for one image: multiply-adds and numbers in its output."""
        rows = profile(self.model, self.look.example[:1]).layers
        return {row.name: (row.macs, torch.Size(row.output_shape or (0,)).numel()) for row in rows}

    def cost(self, group: Group, per: str) -> Tensor:
        """What leaves with each atom, (atoms,): multiply-adds of the layers that make and read it, or activations made."""
        total = torch.zeros(len(group.atoms), dtype=torch.double)
        for slot in group.slots:
            macs, memory = self.costs.get(slot.site, (0, 0))
            counted = makes(self.model, slot) or (per == "macs" and (reads(self.model, slot) or slot.axis == "out"))
            share = (macs if per == "macs" else memory) / len(slot.atoms) if counted else 0.0
            total += per_atom(torch.full((len(slot.atoms),), share), places(slot, group), len(group.atoms))
        return total.clamp(min=1.0)

    def _score(self, group: Group, criterion: Criterion, couple: str, per: str) -> Tensor:
        found = []
        for view in kinds[criterion.needs](self, group):
            values = criterion(view.shown).detach().double().cpu()
            values = _by_mean(values) if criterion.scale == "layer" else values
            found.append(per_atom(values, view.places, len(group.atoms)))
        if not found:
            raise ConfigError(
                f"`criterion` (={criterion.name}) needs {criterion.needs}, and no layer shows them for the channels of "
                f"`{group.name}`. `skip` that layer, or choose another criterion."
            )
        joined = JOIN[couple](torch.stack(found), 0)
        if not torch.isfinite(joined).all():
            raise ModelError(f"{group.name}: `{criterion.name}` is not a number; weights, images or loss are broken")
        joined = _by_mean(joined) if criterion.scale == "group" else joined
        return joined if per == "channel" else joined / self.cost(group, per)


def places(slot: Slot, group: Group) -> Tensor:
    """For each channel of a slot the index of its atom in the group, or -1, (channels,)."""
    order = group.order
    return torch.where(slot.atoms < len(order), order[slot.atoms.clamp(max=len(order) - 1)], -1)


def per_atom(values: Tensor, places: Tensor, atoms: int) -> Tensor:
    """Numbers of channels, summed into the atoms they belong to."""
    known = places >= 0
    return torch.zeros(atoms, dtype=torch.double).index_add(0, places[known], values[known].double())


def _by_mean(values: Tensor) -> Tensor:
    return values / values.mean().clamp(min=torch.finfo(torch.double).tiny)


@kinds.register("weights")
def weights(evidence: Evidence, group: Group) -> list[View]:
    """The weights that make a group's channels, (channels, rest) a layer."""
    return [View(w.detach(), places(slot, group)) for slot, w in makers(evidence.model, group)]


@kinds.register("energies")
def kernel_energies(evidence: Evidence, group: Group) -> list[View]:
    """The squared norms of all kernels that belong to a group's channels, (channels, kernels) a layer."""
    shown = [(slot, energies(evidence.model, slot, evidence.energies)) for slot in group.slots]
    return [View(squares, places(slot, group)) for slot, squares in shown if squares is not None]


@kinds.register("scales")
def norm_scales(evidence: Evidence, group: Group) -> list[View]:
    """The scale γ of every norm, (channels,)."""
    return [View(gamma.detach(), places(slot, group)) for slot, gamma in scales(evidence.model, group)]


@kinds.register("draws")
def draws(evidence: Evidence, group: Group) -> list[View]:
    """Uniform random numbers, (atoms,), by the look's seed and the place of the group in the network."""
    every = torch.rand(len(evidence.columns), generator=generator("draws", evidence.look.seed), dtype=torch.double)
    first = evidence.columns[group.atoms[0]]
    return [View(every[first : first + len(group.atoms)], torch.arange(len(group.atoms)))]
