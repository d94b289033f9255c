"""What criteria are shown of a network: one `View` of every layer that has a say about a group of coupled channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lilliput.core.channels import Group, Slot
from lilliput.core.layers import Mapped


@dataclass(frozen=True)
class View:
    """One layer's evidence about a group.

    `values` is what the criterion is called with; its answer has one entry for each of `places`, which says which atom of
    the group (its index, or -1) that entry is about.
    """

    values: Tensor
    places: Tensor


class Evidence:
    """All that is known about the channels of a model; nothing of it is touched."""

    def __init__(self, model: nn.Module, groups: Sequence[Group]) -> None:
        self.model, self.groups = model, groups

    def weights(self, group: Group) -> list[View]:
        """The weights that make a group's channels, (channels, rest) a layer."""
        shown = [(slot, made(self.model, slot)) for slot in group.slots]
        return [View(weight, places(slot, group)) for slot, weight in shown if weight is not None]


def places(slot: Slot, group: Group) -> Tensor:
    """For each channel of a slot the index of its atom in the group, or -1, (channels,)."""
    index = {atom: i for i, atom in enumerate(group.atoms)}
    return torch.tensor([index.get(atom, -1) for atom in slot.atoms.tolist()])


def made(model: nn.Module, slot: Slot) -> Tensor | None:
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


def score(
    evidence: Evidence, group: Group, criterion: Callable[[Tensor], Tensor], join: Callable[[Tensor, int], Tensor]
) -> Tensor:
    """The worth of each atom of a group, (atoms,), 1 on average in every layer before layers are joined."""
    shown = [_per_atom(criterion(view.values), view.places, len(group.atoms)) for view in evidence.weights(group)]
    return join(torch.stack(shown), 0) if shown else torch.ones(len(group.atoms))


def _per_atom(values: Tensor, places: Tensor, atoms: int) -> Tensor:
    """Scores of a layer's channels, summed into the atoms they belong to."""
    values = values.double()
    values = values / values.mean().clamp(min=torch.finfo(torch.double).tiny)
    known = places >= 0
    return torch.zeros(atoms, dtype=torch.double).index_add(0, places[known], values[known])
