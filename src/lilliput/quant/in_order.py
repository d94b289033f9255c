"""Layer after layer on what the rounded layers before it return: each makes up for their errors before it makes its own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lilliput.core.layers import Mapped, through
from lilliput.core.method import Batch
from lilliput.errors import DataError, at
from lilliput.quant.curvature import Curvature, columns, curvature, with_ones

RIDGE = 1e-2  # of the mean second moment of inputs: how little a direction may vary that weights are corrected in
PIXELS = 1 << 22  # of images that go through the network at once
_POSITIONS = 64  # of an image


class Seen(NamedTuple):
    """What rounding needs to know of a float network: its curvature, images, and what its layers return for them.

    outputs: for each layer some positions, or none where it has none, and (groups, rows, images·positions) at these.
    """

    bends: dict[str, Curvature]
    images: Tensor
    outputs: dict[str, tuple[Tensor | None, Tensor]]


def see(model: nn.Module, sites: Sequence[str], batches: Iterable[Batch], seed: int, temperature: float) -> Seen:
    """Curvature over all images; outputs for as many of them as have four million pixels together."""
    probe = copy.deepcopy(model).eval()
    for site in sites:
        layer = probe.get_submodule(site)
        if isinstance(layer, Mapped):
            layer.weight_maps = nn.ModuleList()
    batches = list(batches)
    bends = curvature(probe, sites, batches, seed, temperature)
    images = torch.cat([x for x, _ in batches]).to(next(model.parameters()).device)
    images = images[: max(1, PIXELS // max(1, images[0, 0].numel()))]
    outputs: dict[str, tuple[Tensor | None, Tensor]] = {}
    draw = torch.Generator().manual_seed(seed)

    def leave(site: str, layer: Any, out: Tensor) -> None:
        if site not in outputs:
            spots = _spots(out, draw)
            outputs[site] = (spots, _picked(out, spots, getattr(layer, "groups", 1)))

    for site in sites:
        probe.get_submodule(site).register_forward_hook(lambda layer, _, out, site=site: leave(site, layer, out))
    with torch.no_grad():
        probe(images)
    return Seen(bends, images, outputs)


def in_order(model: nn.Module, seen: Seen, work: Callable[[str, Any, Curvature], float]) -> float:
    """Do `work` on every layer of a network when its inputs come, and let them go on through what it made of the layer.

    Before it, weights and biases that are not zero take the least-squares step that brings what the layer returns for these
    inputs closest to what it returned in the float network. The curvature it is given is that of these inputs. Returns the sum.
    """
    found: dict[str, float] = {}

    def arrive(site: str, layer: Any, x: Tensor) -> None:
        if site not in found:
            with at(site):
                across = _catch_up(layer, through(layer.input_maps, x) if isinstance(layer, Mapped) else x, *seen.outputs[site])
                found[site] = work(site, layer, Curvature(across, seen.bends[site].down))

    training = model.training
    handles = [
        model.get_submodule(site).register_forward_pre_hook(lambda layer, args, site=site: arrive(site, layer, args[0]))
        for site in seen.bends
    ]
    try:
        with torch.no_grad():
            model.eval()(seen.images)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return sum(found.values())


def _catch_up(layer: Any, x: Tensor, spots: Tensor | None, target: Tensor) -> Tensor:
    """Correct a layer, in place; the second moments of its inputs, (groups, d, d)."""
    x = columns(layer, x, spots)  # (groups, d, n)
    x = x if layer.bias is None else with_ones(x)
    weights = layer.weight.detach().flatten(1).view(len(x), -1, layer.weight[0].numel())  # (groups, rows, d)
    if layer.bias is not None:
        weights = torch.cat([weights, layer.bias.detach().view(len(x), -1, 1)], 2)
    across = (x @ x.transpose(1, 2)).double().cpu() / x.shape[2]
    missed = ((target - weights @ x) @ x.transpose(1, 2)).double().cpu() / x.shape[2]
    ridge = RIDGE * across.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)
    step = torch.linalg.solve(
        across + ridge.view(-1, 1, 1) * torch.eye(across.shape[1], dtype=across.dtype), missed, left=False
    )
    if not torch.isfinite(step).all():
        raise DataError("an input of the layer holds NaN or infinity")
    _move(layer, step.flatten(0, 1).to(weights))
    return across


def _move(layer: Any, step: Tensor) -> None:
    """A zero stays one: it may be a mask's."""
    size = layer.weight[0].numel()
    layer.weight.add_(step[:, :size].view_as(layer.weight) * (layer.weight != 0))
    if layer.bias is not None:
        layer.bias.add_(step[:, size])


def _spots(out: Tensor, draw: torch.Generator) -> Tensor | None:
    if out.dim() != 4:
        return None
    return torch.randperm(out[0, 0].numel(), generator=draw)[:_POSITIONS].to(out.device)


def _picked(out: Tensor, spots: Tensor | None, groups: int) -> Tensor:
    """(groups, rows, images·positions)."""
    if spots is None:
        return out.reshape(-1, out.shape[-1]).T.reshape(groups, -1, out.numel() // out.shape[-1])
    picked = out.flatten(2)[:, :, spots].transpose(0, 1)  # (rows, images, positions)
    return picked.reshape(groups, len(picked) // groups, -1)
