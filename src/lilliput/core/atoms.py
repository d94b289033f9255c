"""What naming finds: the slots of a network, the atoms that stand in them, and the groups whose widths can be chosen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from lilliput.core.edits import Resize
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
            for atom in set(slot.atoms.tolist()):
                where.setdefault(atom, []).append(number)
        members: dict[tuple[int, ...], list[int]] = {}
        for atom, numbers in sorted(where.items()):
            if atom and atom not in self.pinned:
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
        edits = []
        for slot in self.slots:
            keep = [i for i, atom in enumerate(slot.atoms.tolist()) if atom not in gone]
            if not keep:
                raise EditError(f"{slot.site}: all {len(slot.atoms)} channels of `{slot.axis}` would go; keep at least one")
            if len(keep) < len(slot.atoms):
                edits.append(Resize(slot.site, slot.axis, tuple(keep)))
        return edits
