"""Which channels belong together: run the network once on the names of its channels instead of their values.

A convolution makes new names, batch norm and depthwise convolutions keep them, addition joins them, and cat, split, view,
permute, flatten and channel shuffle are executed on the names, so that no index arithmetic is written by hand (core/rules,
core/moves). Names joined together live and die together. An operation without a rule pins the names that reach it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lilliput.core import moves, rules  # noqa: F401 - they register what operations do to names
from lilliput.core.edits import Resize
from lilliput.core.follow import Follow
from lilliput.core.names import Names
from lilliput.errors import EditError


@dataclass(frozen=True, eq=False)
class Slot:
    """One axis of one layer, with the atom each of its channels belongs to (0: none, the channel always stays)."""

    site: str
    axis: str
    atoms: Tensor  # (channels,)


@dataclass(frozen=True, eq=False)
class Group:
    """Atoms that stand in the same slots: the unit in which widths are chosen."""

    atoms: tuple[int, ...]
    slots: tuple[Slot, ...]

    @property
    def name(self) -> str:
        """The first layer that makes these channels."""
        return next((s.site for s in self.slots if s.axis != "in"), self.slots[0].site)


@dataclass(frozen=True, eq=False)
class Channels:
    """The channels of a network. An atom is a set of channels, across layers, that can only leave together."""

    slots: tuple[Slot, ...]
    pinned: dict[int, str] = field(default_factory=dict)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """All removable atoms by the slots they stand in, in the order of the network."""
        where: dict[int, list[int]] = {}
        for number, slot in enumerate(self.slots):
            for atom in torch.unique(slot.atoms).tolist():
                where.setdefault(atom, []).append(number)
        emptied = {int(s.atoms[0]) for s in self.slots if len(torch.unique(s.atoms)) == 1}
        members: dict[tuple[int, ...], list[int]] = {}
        for atom, numbers in sorted(where.items()):
            if atom and atom not in self.pinned and atom not in emptied:
                members.setdefault(tuple(numbers), []).append(atom)
        order = sorted(members.items(), key=lambda item: item[0])
        return tuple(Group(tuple(atoms), tuple(self.slots[i] for i in numbers)) for numbers, atoms in order)

    @cached_property
    def atoms(self) -> frozenset[int]:
        """All removable atoms."""
        return frozenset(atom for group in self.groups for atom in group.atoms)

    def reasons(self) -> dict[str, list[str]]:
        """Why channels stay: each reason with the layers it holds."""
        held: dict[str, list[str]] = {}
        for slot in self.slots:
            for atom in torch.unique(slot.atoms).tolist():
                if atom in self.pinned and slot.axis != "in":
                    sites = held.setdefault(self.pinned[atom], [])
                    if slot.site not in sites:
                        sites.append(slot.site)
        return held

    def remove(self, atoms: Iterable[int]) -> list[Resize]:
        """The edits that take these atoms out of every layer they stand in.

        Raises `EditError` for an atom that must stay and for a layer that would be left without channels.
        """
        gone = set(atoms)
        for atom in gone - self.atoms:
            raise EditError(f"channels of atom {atom} cannot be removed: {self.pinned.get(atom, 'nothing would be left')}")
        index = torch.tensor(sorted(gone), dtype=torch.long)
        edits = []
        for slot in self.slots:
            keep = torch.nonzero(~torch.isin(slot.atoms, index)).flatten().tolist()
            if not keep:
                raise EditError(f"{slot.site}: all {len(slot.atoms)} channels of `{slot.axis}` would go; keep at least one")
            if len(keep) < len(slot.atoms):
                edits.append(Resize(slot.site, slot.axis, tuple(keep)))
        return edits


def channels(model: nn.Module, example: Tensor) -> Channels:
    """Name the channels of a network by one eager forward on `example`, (n, c, h, w).

    The model is not touched (a copy runs, in eval mode). Cost: one forward plus a few microseconds an operation.
    """
    runner = copy.deepcopy(model).eval()
    follow = Follow(runner)
    example = (example[:1] if example.dim() > 1 else example).detach().to(next(runner.parameters(), example))
    follow.give(example, follow.solid(example.shape, "it is the input of the network"))
    with torch.no_grad(), follow:
        outputs = runner(example)
    for output in _tensors(outputs):
        follow.names.pin(follow.of(output), "it is an output of the network")
    follow.finish()
    made = torch.cat([follow.names.roots(m) for m in follow.makers]) if follow.makers else torch.zeros(0, dtype=torch.long)
    for _, _, vector in follow.slots:
        follow.names.pin(vector[~torch.isin(follow.names.roots(vector), made)], "no layer makes it")
    return _collect(follow.names, follow.slots)


def _tensors(value: Any) -> list[Tensor]:
    """The tensors in what a network returns: nested lists and dicts, and objects that hold them as attributes."""
    found = []
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif hasattr(leaf, "__dict__"):
            found += _tensors(vars(leaf))
    return found


def _collect(names: Names, slots: Sequence[tuple[str, str, Tensor]]) -> Channels:
    rooted = tuple(Slot(site, axis, names.roots(vector)) for site, axis, vector in slots)
    roots = names.roots(torch.tensor(list(names.reasons), dtype=torch.long)).tolist()
    reasons = dict(zip(roots, names.reasons.values(), strict=True))
    return Channels(rooted, reasons)
