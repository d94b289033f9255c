"""Criteria that ask what the next layer would miss: channels are ranked by how well it can do without them.

At a position of its output the next layer computes y = Σ_c z_c, with z_c what channel c contributes. All that both criteria
need are the products of contributions, Σ z_c·z_d over sampled positions and outputs: channels² numbers, however many
images are read. Layers that read a group count alike, each relative to the energy of its own output.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lilliput.core.channels import Group, Slot
from lilliput.core.layers import Mapped
from lilliput.data.seeds import generator
from lilliput.prune.criteria import criterion
from lilliput.prune.evidence import Evidence, View, kinds, places
from lilliput.prune.listen import Place, listening
from lilliput.prune.patches import groups, patches, positions_for, refusal
from lilliput.prune.slices import reads, slices

POSITIONS = 10
"""Places of the output that are sampled in an image."""

OUTPUTS = 16
"""Output channels that are sampled in a batch."""

PATH = np.geomspace(0.9, 1e-3, 30)
"""The penalties of the LASSO, as shares of the smallest at which every channel is off."""


@dataclass
class Contributions:
    """What a group's channels contribute to the layers that read them, in units of these layers' output energy.

    `products` (atoms, atoms): mean of z_c·z_d, summed over layers. `size` (atoms,): norm of the weights that read a channel.
    """

    products: Tensor
    size: Tensor


@criterion("thinet", "contributions", "none", whole=True)
def thinet(seen: Contributions) -> Tensor:
    """The error of the next layers' outputs, without refitting, when a channel leaves after all that leave before it:
    s = mean(Σ_{c∈T} z_c)² / mean y², T grown greedily by the channel that adds least.

    One forward an image and channels² numbers a layer. `compensate` is the paper's second step.
    Luo et al. 2017, "ThiNet", arXiv:1707.06342.
    """
    products = seen.products.numpy()
    count = len(products)
    scores, left = np.zeros(count), np.ones(count, dtype=bool)
    cross, error, last = np.zeros(count), 0.0, 0.0
    for _ in range(count):
        rise = np.where(left, products.diagonal() + 2 * cross, np.inf)
        chosen = int(rise.argmin())
        left[chosen], error = False, error + rise[chosen]
        last = scores[chosen] = max(error, math.nextafter(last, math.inf))  # an order, even where errors cancel or vanish
        cross += products[chosen]
    return torch.from_numpy(scores)


@criterion("lasso", "contributions", "none", whole=True)
def lasso(seen: Contributions) -> Tensor:
    """The penalty at which a channel is needed: s = the largest λ with β_c ≠ 0 in

    min over β  ½·mean(y − Σ_c β_c·z_c)² + λ·Σ_c ‖W_c‖·|β_c|

    by coordinate descent on the products of contributions, along falling λ; ties by |β|. The norms stand for the paper's
    rule that ‖W_c‖ = 1. One forward an image, channels² numbers a layer. The paper's second step, least squares for W, which
    it too takes once, is `compensate`.
    He, Zhang & Sun 2017, "Channel Pruning for Accelerating Very Deep Neural Networks", arXiv:1707.06168.
    """
    products, size = seen.products.numpy(), seen.size.numpy()
    able = (products.diagonal() > 0) & (size > 0)
    scores, beta, pull = np.zeros(len(size)), np.zeros(len(size)), products.sum(1)  # pull = products·(1 − β)
    weight = np.where(able, size, 1.0)
    largest = float((np.abs(pull) / weight)[able].max(initial=0.0))
    above = largest
    for penalty in largest * PATH:
        _descend(products, beta, pull, penalty * weight, able)
        new = (beta != 0) & (scores == 0)
        height = np.abs(beta * weight)[new]
        scores[new] = penalty + (above - penalty) * height / height.max(initial=1e-300)
        above = penalty
    late = able & (scores == 0)
    scores[late] = np.minimum(np.abs(pull[late]) / weight[late], above)
    return torch.from_numpy(scores)


def _descend(products: Any, beta: Any, pull: Any, penalty: Any, able: Any, sweeps: int = 50) -> None:
    """Coordinate descent, in place, until no coefficient moves by more than a ten-thousandth."""
    for _ in range(sweeps):
        moved = 0.0
        for c in np.flatnonzero(able & ((beta != 0) | (np.abs(pull) > penalty))):
            force = pull[c] + products[c, c] * beta[c]
            new = math.copysign(max(abs(force) - penalty[c], 0.0), force) / products[c, c]
            if new != beta[c]:
                pull -= products[c] * (new - beta[c])
                moved, beta[c] = max(moved, abs(new - beta[c])), new
        if moved < 1e-4:
            return


@kinds.register("contributions")
def contributions(evidence: Evidence, group: Group) -> list[View]:
    """What a group contributes to all layers that read it, as one `Contributions`."""
    found = [sums for sums in evidence.once(_gather).get(group.atoms[0], []) if sums.energy > 0]
    if not found:
        return []
    products = sum((s.products / s.energy for s in found), torch.zeros(()))
    size = sum((s.size.square() / s.size.square().mean().clamp(min=1e-300) for s in found), torch.zeros(())).sqrt()
    return [View(Contributions(products, size), torch.arange(len(group.atoms)))]


@dataclass
class _Sums:
    """Σ z·zᵀ of one group at one layer, and Σ y² of the layer."""

    places: Tensor  # the group's atom of each of the layer's inputs, or -1
    size: Tensor
    products: Tensor = field(init=False)
    energy: float = 0.0

    def __post_init__(self) -> None:
        self.products = torch.zeros(len(self.size), len(self.size), dtype=torch.double)

    def add(self, z: Tensor) -> None:
        """Contributions of all inputs, (samples, inputs)."""
        known = self.places >= 0
        own = z.new_zeros(len(z), len(self.size)).index_add(1, self.places[known].to(z.device), z[:, known.to(z.device)])
        self.products += (own.T @ own).double().cpu()
        self.energy += float(z.sum(1).double().square().sum())


def _gather(evidence: Evidence) -> dict[int, list[_Sums]]:
    """One pass over the images: the sums of every group (by its first atom) at every layer that reads it."""
    found: dict[Place, list[_Sums]] = {}
    by_group: dict[int, list[_Sums]] = {}
    for group in evidence.groups:
        for slot in group.slots:
            if reads(evidence.model, slot) and _is_product(evidence.model.get_submodule(slot.site)):
                sums = _Sums(places(slot, group), _size(evidence.model, slot, group))
                found.setdefault((slot.site, slot.axis), []).append(sums)
                by_group.setdefault(group.atoms[0], []).append(sums)
    draws = {place: generator("contributions", place[0], evidence.look.seed) for place in found}

    def hear(place: Place, layer: nn.Module, x: Tensor) -> None:
        z = _contributions(layer, x, draws[place])
        for sums in found[place]:
            sums.add(z)

    if found:
        with listening(evidence, found, hear) as runner, torch.no_grad():
            for x, _ in evidence.batches("the criterion"):
                runner(x)
    return by_group


def _is_product(layer: nn.Module) -> bool:
    """Whether a layer's work is a product of its weight, or of what maps make of it."""
    return isinstance(layer, Mapped) or refusal(layer) is None


def _size(model: nn.Module, slot: Slot, group: Group) -> Tensor:
    """The norm of the weights that read each atom, (atoms,)."""
    weight = slices(model, slot)
    assert weight is not None
    where = places(slot, group)
    squares = weight.detach().double().cpu().square().sum(1)[where >= 0]
    return torch.zeros(len(group.atoms), dtype=torch.double).index_add(0, where[where >= 0], squares).sqrt()


def _contributions(layer: Any, x: Tensor, draw: torch.Generator) -> Tensor:
    """What each input says at random places to random outputs, (samples, inputs)."""
    where = positions_for(layer, x, POSITIONS, draw)
    weight = layer.mapped_weight() if isinstance(layer, Mapped) else layer.weight
    chosen = torch.randperm(len(weight), generator=draw)[:OUTPUTS].to(weight.device)
    rows = weight.detach()[chosen]
    rows = rows.flatten(2) if rows.dim() > 2 else rows.unsqueeze(2)  # (outputs, inputs of a group, kernel)
    read = patches(layer, x, where)  # (places, inputs, kernel)
    parts = groups(layer)
    if parts == 1:
        return torch.einsum("pck,sck->psc", read, rows).flatten(0, 1)
    each, part = rows.shape[1], chosen // (len(weight) // parts)
    made = read.new_zeros(len(read), len(rows), read.shape[1])
    for s, g in enumerate(part.tolist()):
        made[:, s, g * each : (g + 1) * each] = (read[:, g * each : (g + 1) * each] * rows[s]).sum(2)
    return made.flatten(0, 1)
