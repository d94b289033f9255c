"""What single weights are worth. One function is one criterion: weights and their evidence in, a score for each out."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lilliput.core.layers import Mapped
from lilliput.core.method import Look
from lilliput.registry import Registry

Score = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Criterion:
    """How a weight's worth is computed: `score(weight, evidence)`, both of one shape; scores are never negative.

    `needs` is what the evidence is: "weight" (nothing more), "seed" (drawn numbers), "gradient" (∂L/∂w), "curvature"
    (the diagonal of the Hessian) or "inputs" (the layer's inputs; then the method itself computes the masks).
    `power`: the score grows with this power of the weight, which rates that compare layers take into account.
    """

    score: Score
    needs: str
    power: int

    @property
    def replays(self) -> bool:
        """Whether the weight and a seed alone decide, so that an edit can say how its mask is made."""
        return self.needs in ("weight", "seed")


saliencies: Registry[Criterion] = Registry("criterion for weights")


def saliency(name: str, needs: str = "weight", power: int = 2) -> Callable[[Score], Score]:
    """Register a criterion for single weights."""

    def decorate(score: Score) -> Score:
        saliencies.add(name, Criterion(score, needs, power))
        return score

    return decorate


@saliency("magnitude", power=1)
def magnitude(w: Tensor, _: Tensor) -> Tensor:
    """|w|, summed over groups: the L1 norm. Han et al. 2015, arXiv:1506.02626."""
    return w.abs()


@saliency("l2")
def l2(w: Tensor, _: Tensor) -> Tensor:
    """w², summed over groups: the squared L2 norm. The order of single weights is that of `magnitude`."""
    return w.square()


@saliency("random", needs="seed")
def random(w: Tensor, drawn: Tensor) -> Tensor:
    """Drawn by the seed, in (0, 1]; weights that are zero already go first. The control that every criterion must beat."""
    return drawn * (w != 0)


@saliency("gradient", needs="gradient", power=1)
def gradient(w: Tensor, g: Tensor) -> Tensor:
    """|w·∂L/∂w|, the first-order change of the loss. Mozer and Smolensky 1989; Molchanov et al. 2017, arXiv:1611.06440."""
    return (w * g).abs()


@saliency("obd", needs="curvature")
def obd(w: Tensor, h: Tensor) -> Tensor:
    """½·h·w², the change of the loss dE = Σ g·du + ½·Σ h·du² at du = -w, where training has brought g to zero.

    h, the diagonal of the Hessian, is taken as the mean of (∂L/∂w)² over single images (the Fisher information).
    LeCun, Denker, Solla 1990, "Optimal Brain Damage"; Theis et al. 2018, arXiv:1801.05787.
    """
    return h * w.square() / 2


@saliency("obs", needs="inputs")
def obs(w: Tensor, h: Tensor) -> Tensor:
    """w² / (2·[H⁻¹]ₚₚ): the rise of the layer's own squared error once its other weights have made up for the loss.

    `h` holds [H⁻¹]ₚₚ. This compares layers and groups; within a layer single weights and N:M go one after another, each
    with exact updates (prune/obs). Hassibi and Stork 1993; Frantar, Singh, Alistarh 2022, arXiv:2208.11580.
    """
    return w.square() / (2 * h)


def own_seed(seed: int, site: str) -> int:
    """The seed of one layer."""
    return zlib.crc32(f"{seed} {site}".encode())


def draw(shape: Sequence[int], seed: int) -> Tensor:
    """Numbers in (0, 1] that a seed decides, the same on every device."""
    return 1 - torch.rand(tuple(shape), generator=torch.Generator().manual_seed(seed))


def effective(layer: nn.Module) -> Tensor:
    """The weight that a layer computes with, detached."""
    weight = layer.mapped_weight() if isinstance(layer, Mapped) else layer.weight
    return weight.detach()  # type: ignore[no-any-return,operator,union-attr]


def gather(model: nn.Module, sites: Sequence[str], look: Look, needs: str, images: int, who: str) -> dict[str, Tensor]:
    """The evidence of each layer from so many images: mean gradients, or means of squared gradients of single images.

    Costs a forward and a backward an image, one image at a time for "curvature". The model is left as it is.
    """
    batches, loss = look.need_batches(who, images), look.need_loss(who)
    probe = copy.deepcopy(model).eval().requires_grad_(False)
    weights = {site: probe.get_submodule(site).weight for site in sites}
    for weight in weights.values():
        weight.requires_grad_(True)  # type: ignore[operator,union-attr]
    total = {site: torch.zeros_like(weight) for site, weight in weights.items()}  # type: ignore[arg-type]
    count, single = 0, needs == "curvature"
    for whole in batches:
        for x, y in zip(*(part.split(1 if single else len(part)) for part in whole), strict=True):
            value = loss(probe(x), y) * (1 if single else len(x))
            grads = torch.autograd.grad(value, list(weights.values()), allow_unused=True)  # type: ignore[arg-type]
            for site, grad in zip(weights, grads, strict=True):
                total[site] += 0 if grad is None else (grad.square() if single else grad)
            count += len(x)
    return {site: value.detach() / max(count, 1) for site, value in total.items()}
