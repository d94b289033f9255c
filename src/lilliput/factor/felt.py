"""How much a network's answers feel an error in each layer, from one pass back through it.

To second order an error e of a layer's output y changes the loss by about (∂L/∂y·e)² / 2, the Fisher information. Where e has
a share ε of the energy, ‖e‖² = ε·‖y‖², and no direction of its own, that is ε·F / 2 with F = E[‖∂L/∂y‖²·‖y‖²] / dim y. Labels
are drawn from the network's own answers: where it is sure and right, true labels have no gradient to tell layers apart by.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lilliput.core.copies import sharing
from lilliput.core.method import Batch
from lilliput.errors import DataError
from lilliput.factor.sites import Site

SURE = 1e-4  # what stays of a layer's energy at the least, so that losing all of it has a price


def felt(
    model: nn.Module, sites: Sequence[Site], batches: Iterable[Batch], loss: Callable[[Tensor, Tensor], Tensor], seed: int
) -> dict[str, float]:
    """√F of every layer: F = E[‖∂L/∂y‖²·‖y‖²] / dim y of its outputs y, over images and over labels drawn from the answers.

    The root, since errors of many layers at once are larger than F, which holds for small ones, foresees in layers that feel
    little. Outputs that are no (n, classes) are judged by `loss` and the labels there are. Costs a forward and a backward an
    image. Raises `DataError` where there is no image.
    """
    runner = sharing(model, model.parameters()).eval()
    seen: dict[str, list[Tensor]] = {site.name: [] for site in sites}
    for name in seen:
        runner.get_submodule(name).register_forward_hook(lambda _, args, out, name=name: _kept(seen[name], out))
    totals, images = dict.fromkeys(seen, 0.0), 0
    draw = torch.Generator().manual_seed(seed)
    place = next(runner.parameters()).device
    for x, y in batches:
        with torch.enable_grad():
            told = _told(runner(x.to(place).requires_grad_()), y.to(place), loss, draw)
            flat = [out for outs in seen.values() for out in outs]
            grads = iter(torch.autograd.grad(told * len(x), flat))
        for name, outs in seen.items():
            totals[name] += sum(_product(out.detach(), next(grads)) for out in outs)
            outs.clear()
        images += len(x)
    if not images:
        raise DataError("no image was given; what layers feel is measured on at least one")
    return {name: math.sqrt(total / images) for name, total in totals.items()}


def lost(error: float) -> float:
    """What a layer loses at a relative squared error e, -log(1 - e): a layer that loses all of itself costs without end."""
    return -math.log(max(1 - error, SURE))


def _kept(outs: list[Tensor], out: Tensor) -> Tensor:
    """Keep an output, and pass a copy on: what follows may write into it."""
    outs.append(out)
    return out.clone()


def _told(outputs: Tensor, targets: Tensor, loss: Callable[[Tensor, Tensor], Tensor], draw: torch.Generator) -> Tensor:
    """The loss of a batch on labels drawn from the answers themselves."""
    if outputs.dim() != 2 or outputs.shape[1] < 2:
        return loss(outputs, targets)
    drawn = torch.multinomial(outputs.detach().softmax(1).cpu(), 1, generator=draw)[:, 0]
    return F.cross_entropy(outputs, drawn.to(outputs.device))


def _product(out: Tensor, grad: Tensor) -> float:
    """Σ over images of ‖∂L/∂y‖²·‖y‖² / dim y."""
    both = grad.flatten(1).square().sum(1) * out.flatten(1).square().sum(1)
    return float(both.sum()) / out[0].numel()
