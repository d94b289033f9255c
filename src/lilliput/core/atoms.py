"""What naming finds: the slots of a network, the atoms that stand in them, and the groups whose widths can be chosen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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

    @cached_property
    def order(self) -> Tensor:
        """The place of each atom among this group's, by atom; -1 for others."""
        found = torch.full((max(self.atoms) + 1,), -1)
        found[list(self.atoms)] = torch.arange(len(self.atoms))
        return found


@dataclass(frozen=True, eq=False)
class Channels:
    """The channels of a network. An atom is a set of channels, across layers, that can only leave together."""

    slots: tuple[Slot, ...]
    pinned: dict[int, str] = field(default_factory=dict)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """All removable atoms by the slots they stand in, in the order of the network."""
        members: dict[tuple[int, ...], list[int]] = {}
        for atoms, numbers in self._alike():
            members.setdefault(numbers, []).extend(a for a in atoms if a and a not in self.pinned)
        order = sorted((item for item in members.items() if item[1]), key=lambda item: item[0])
        return tuple(Group(tuple(atoms), tuple(self.slots[i] for i in numbers)) for numbers, atoms in order)

    def _alike(self) -> Iterator[tuple[list[int], tuple[int, ...]]]:
        """Runs of atoms, ascending, with the slots they stand in."""
        if not self.slots:
            return
        atoms = torch.cat([slot.atoms for slot in self.slots])
        slots = torch.repeat_interleave(torch.tensor([len(slot.atoms) for slot in self.slots]))
        pairs = torch.unique(atoms * len(self.slots) + slots)  # sorted by atom, and within one by slot
        atoms, slots = pairs // len(self.slots), pairs % len(self.slots)
        atoms, counts = torch.unique_consecutive(atoms, return_counts=True)
        starts = counts.cumsum(0) - counts
        place = torch.arange(len(pairs)) - starts.repeat_interleave(counts)
        table = torch.full((len(atoms), int(counts.max())), -1)
        table[torch.arange(len(atoms)).repeat_interleave(counts), place] = slots
        breaks = 1 + (table[1:] != table[:-1]).any(1).nonzero().flatten()
        for run, rows in zip(atoms.tensor_split(breaks), table.tensor_split(breaks), strict=True):
            yield run.tolist(), tuple(n for n in rows[0].tolist() if n >= 0)

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
        leaves = torch.zeros(1 + max([*gone, *(int(s.atoms.max()) for s in self.slots)], default=0), dtype=torch.bool)
        leaves[list(gone)] = True
        edits = []
        for slot in self.slots:
            keep = (~leaves[slot.atoms]).nonzero().flatten().tolist()
            if not keep:
                raise EditError(f"{slot.site}: all {len(slot.atoms)} channels of `{slot.axis}` would go; keep at least one")
            if len(keep) < len(slot.atoms):
                edits.append(Resize(slot.site, slot.axis, tuple(keep)))
        return edits
