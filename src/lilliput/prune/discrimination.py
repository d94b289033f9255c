"""Discrimination-aware channel pruning: channels that tell classes apart, and that the next layer's output is made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lilliput.core.channels import Group
from lilliput.data.seeds import generator
from lilliput.errors import ConfigError
from lilliput.prune.criteria import criterion
from lilliput.prune.evidence import Evidence, View, kinds, places
from lilliput.prune.listen import Place, heard, listening
from lilliput.prune.patches import groups, outputs, patches, positions, refusal

WHO = "a criterion that looks at classes"
EACH = 8
"""Positions sampled from each image."""

RIDGE = 1e-3
"""Of the auxiliary classifier, as a share of the mean variance of a feature."""


@dataclass(frozen=True)
class Reading:
    """What a layer with k outputs makes of its inputs, y = W·x, at sampled positions.

    `products` mean of y·xᵀ over positions, (k, channels, elements of the kernel); `inputs` the mean x of each image,
    (images, channels, elements); `outputs` its mean y, (images, k); `labels` (images,). `connected` says which outputs read
    which channels, (k, channels): all, but in grouped convolutions.
    """

    products: Tensor
    inputs: Tensor
    outputs: Tensor
    labels: Tensor
    connected: Tensor


@criterion("dcp", "readings")
def dcp(seen: Reading) -> Tensor:
    """How steeply two losses fall when the next layer begins to read the channel: s_c = ‖∂(L_M + L_S)/∂W_c‖ at W = 0.

    L_M = ‖y − W·x‖²/2k is the error of the layer's k outputs; L_S the cross-entropy of an auxiliary classifier on the mean of
    W·x over the image, which least squares fit to the means of y. This is the first step of the paper's greedy choice, for all
    channels at once. One forward an image, 8 positions each; one linear system a layer.
    Zhuang et al. 2018, "Discrimination-aware Channel Pruning", arXiv:1810.11809.
    """
    slope = -seen.products / len(seen.products)
    head, error = _classifier(seen)
    slope = slope + torch.einsum("nk,nce->kce", error @ head, seen.inputs) / len(error)
    return (slope * seen.connected[:, :, None]).square().sum((0, 2)).sqrt()


def _classifier(seen: Reading) -> tuple[Tensor, Tensor]:
    """The auxiliary classifier, (classes, k), and the slope of its cross-entropy by its outputs at W = 0, (images, classes)."""
    means = seen.outputs.double()
    wanted = F.one_hot(seen.labels).to(means)
    centred = means - means.mean(0)
    square = centred.mT @ centred / len(centred)
    ridge = RIDGE * square.diagonal().mean().clamp(min=torch.finfo(square.dtype).tiny)
    error = wanted.mean(0) - wanted  # without inputs, the bias alone says how frequent each class is
    head = torch.linalg.solve(square + ridge * torch.eye(len(square)).to(square), centred.mT @ -error / len(centred)).mT
    return head.to(seen.inputs), error.to(seen.inputs)


@kinds.register("readings")
def readings(evidence: Evidence, group: Group) -> list[View]:
    """What every layer that reads a group makes of it, as `Reading`."""
    found = evidence.once(_listen)
    return [View(found[s.site, s.axis], places(s, group)) for s in group.slots if (s.site, s.axis) in found]


class _Sums:
    """A `Reading` in the making."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self.x = torch.empty(0)
        self.products: Tensor | float = 0.0
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.labels: list[Tensor] = []

    def add(self, output: Tensor, labels: Tensor, draw: torch.Generator) -> None:
        where = positions(self.layer, output, EACH, draw)
        x = patches(self.layer, self.x, where).cpu()  # (images · each, channels, elements)
        y = outputs(self.layer, output, where).cpu()
        if getattr(self.layer, "bias", None) is not None:
            y = y - self.layer.bias.cpu()  # type: ignore[union-attr, operator]
        self.products = self.products + torch.einsum("rk,rce->kce", y, x) / where.shape[1]
        self.inputs.append(x.unflatten(0, where.shape).mean(1))
        self.outputs.append(y.unflatten(0, where.shape).mean(1))
        self.labels.append(labels)

    def reading(self) -> Reading:
        inputs, said = torch.cat(self.inputs), torch.cat(self.outputs)
        parts = groups(self.layer)
        same = torch.arange(parts).repeat_interleave(said.shape[1] // parts)[:, None]
        connected = same == torch.arange(parts).repeat_interleave(inputs.shape[1] // parts)
        return Reading(torch.as_tensor(self.products) / len(inputs), inputs, said, torch.cat(self.labels), connected)


def _listen(evidence: Evidence) -> dict[Place, Reading]:
    """What every layer that reads prunable channels makes of them, in one pass."""
    sites = {(s.site, s.axis): None for g in evidence.groups for s in heard(evidence.model, g) if s.axis == "in"}
    ready = [place for place in sites if refusal(evidence.model.get_submodule(place[0])) is None]
    sums: dict[Place, _Sums] = {}
    draw = generator("readings", evidence.look.seed)
    now: list[Tensor] = []

    def hear(place: Place, layer: nn.Module, x: Tensor) -> None:
        if place[1] == "in":
            sums.setdefault(place, _Sums(layer)).x = x
        else:
            sums[place[0], "in"].add(x, now[0], draw)

    with torch.no_grad(), listening(evidence, [(site, axis) for site, _ in ready for axis in ("in", "out")], hear) as runner:
        for x, y in evidence.batches(WHO):
            if y.dim() != 1 or y.is_floating_point():
                raise ConfigError(f"{WHO} needs one label an image, and the targets are {tuple(y.shape)} of {y.dtype}")
            now[:] = [y.cpu()]
            runner(x)
    return {place: seen.reading() for place, seen in sums.items()}
