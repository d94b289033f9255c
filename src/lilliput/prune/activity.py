"""Criteria that look at what the next layers are told: sizes, zeros and principal components of their inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lilliput.core.channels import Group, Slot
from lilliput.prune.criteria import criterion
from lilliput.prune.evidence import Evidence, View, kinds, places
from lilliput.prune.listen import Place, by_channel, listening, stage

Heard = dict[Place, dict[int, "Activity"]]  # by the first atom of a group
ENERGY = 0.95
"""The share of the variance that counts as signal to `pca`."""


@dataclass
class Activity:
    """Sums over all positions of all images, of the activations a of one group at one place."""

    count: int
    size: Tensor  # Σ|a|, (atoms,)
    active: Tensor  # how often a ≠ 0, (atoms,)
    total: Tensor  # Σa, (atoms,)
    products: Tensor  # Σaaᵀ, (atoms, atoms)

    @property
    def covariance(self) -> Tensor:
        """(atoms, atoms)."""
        mean = self.total / self.count
        return self.products / self.count - mean[:, None] * mean


@criterion("activation", "activity")
def activation(seen: Activity) -> Tensor:
    """Mean size of what the next layer reads: s = mean|a| over images and positions.

    One forward an image. Molchanov et al. 2017, "Pruning for Resource Efficient Inference", arXiv:1611.06440.
    """
    return seen.size / seen.count


@criterion("apoz", "activity")
def apoz(seen: Activity) -> Tensor:
    """How often the next layer reads something other than zero: s = 1 − APoZ, the average percentage of zeros.

    One forward an image. Says nothing of channels that no ReLU cuts off.
    Hu et al. 2016, "Network Trimming", arXiv:1607.03250.
    """
    return seen.active / seen.count


@criterion("pca", "activity")
def pca(seen: Activity) -> Tensor:
    """What a channel contributes to the leading principal components: s_c = Σ_j λ_j·u_cj², over the fewest j that hold 95 %
    of the variance.

    λ and u are the eigenvalues and eigenvectors of the covariance of what the next layer reads. One forward an image,
    channels² numbers a layer, one eigenvalue decomposition a layer.
    Garg, Panda & Roy 2020, arXiv:1812.06224 (the components); the channels by their weight in them, as the leverage scores
    of Mahoney & Drineas 2009, doi:10.1073/pnas.0803205106.
    """
    values, vectors = torch.linalg.eigh(seen.covariance)
    values = values.flip(0).clamp(min=0)  # descending
    leading = int((values.cumsum(0) < ENERGY * values.sum()).sum()) + 1
    return vectors.flip(1)[:, :leading].square() @ values[:leading]


@kinds.register("activity")
def activity(evidence: Evidence, group: Group) -> list[View]:
    """What every layer that reads a group is told, as `Activity`."""
    found = evidence.once(_listen)
    first, everything = group.atoms[0], torch.arange(len(group.atoms))
    return [View(groups[first], everything) for groups in found.values() if first in groups]


def samples(x: Tensor, index: Tensor) -> Tensor:
    """Activations with the channels last as (rows, atoms); what an atom has more of at one position are more rows."""
    return x.flatten(0, -2)[:, index].flatten(0, 1)


def columns(slot: Slot, group: Group) -> Tensor:
    """Which channels of a slot are the first, second, … of each atom of a group, (each, atoms)."""
    where = places(slot, group)
    order = torch.argsort(where, stable=True)[int((where < 0).sum()) :]
    sizes = torch.bincount(where[where >= 0], minlength=len(group.atoms))
    starts = sizes.cumsum(0) - sizes
    return order[starts + torch.arange(int(sizes.min()))[:, None]]


def _listen(evidence: Evidence) -> Heard:
    """The activity of all groups, in one pass."""
    who = "a criterion that looks at activations"
    stand = stage(evidence)
    index = {place: [(group.atoms[0], columns(slot, group)) for group, slot in groups] for place, groups in stand.items()}
    found: Heard = {place: {} for place in stand}

    def hear(place: Place, layer: nn.Module, x: Tensor) -> None:
        for first, which in index[place]:
            _add(found[place], first, samples(by_channel(layer, x), which.to(x.device)))

    with torch.no_grad(), listening(evidence, stand, hear) as runner:
        for x, _ in evidence.batches(who):
            runner(x)
    return found


def _add(found: dict[int, Activity], first: int, a: Tensor) -> None:
    """Add rows of activations, (rows, atoms), to what was seen."""
    size, active, total = a.abs().sum(0).double(), (a != 0).sum(0).double(), a.sum(0).double()
    products = (a.mT @ a).double()
    if first not in found:
        found[first] = Activity(len(a), size, active, total, products)
        return
    seen = found[first]
    seen.count += len(a)
    for sums, more in ((seen.size, size), (seen.active, active), (seen.total, total), (seen.products, products)):
        sums += more
