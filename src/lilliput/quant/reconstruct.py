"""What a quantized layer should say, layer by layer: corrected biases and better roundings.

One forward of the quantized network takes all images at once; when it reaches a layer, the layers before it are done, so errors
do not pile up. With x̃ what the layer reads there and y what the same layer says in the float network:

    bias       b ← b + E[y − ŷ], at all positions (Nagel et al. 2019, arXiv:1906.04721, section 4.2, with images)
    rounding   min over codes of E‖(Ŵ·x̃ + b̂) − y‖², at random positions and with the best b̂; see quant/rounding

The quadratic form is all that a rounding sees: H = Cov(x̃) and C = Cov(y, x̃).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lilliput.core.layers import through
from lilliput.core.maps import Quantizer
from lilliput.quant.integer import Affine
from lilliput.quant.rounding import Quadratic, roundings
from lilliput.quant.scales import saturating

ROWS = 8192
"""How many positions are sampled at least; a layer with many inputs gets sixteen for each of them."""

CHUNK = 64
DAMP = 1e-2
"""The pull towards the float weight, as a share of the mean square of an input: what images do not tell stays as it was."""


@dataclass(frozen=True)
class Wanted:
    """What a layer says in the float network: the mean of each output, and outputs (rows, out) at the places `where`."""

    mean: Tensor
    rows: Tensor
    where: Tensor


def reconstruct(
    reference: nn.Module, model: nn.Module, sites: dict[str, float | None], images: Tensor, *, round: str, seed: int = 0
) -> None:
    """Set biases, and codes by the rounding called `round`, of the layers at `sites` in `model`; in place.

    `sites`: the scale of each layer's input where biases are whole multiples of a unit (quant/bias), else None.
    Layers without a bias get no correction. Raises nothing of its own: what does not get better stays.
    """
    wanted = _listen(reference, sites, images, seed)

    def reach(site: str, layer: Any, x: Tensor) -> None:
        with torch.no_grad():
            if round != "nearest":
                _round(layer, x, wanted[site], round)
            if layer.bias is not None:
                correct(layer, x, wanted[site].mean, sites[site])

    with torch.no_grad():
        _visit(model, list(sites), reach, images)


def correct(layer: Any, x: Tensor, mean: Tensor, step: float | None) -> None:
    """Shift a layer's bias so that each output has this mean; in whole units where the layer has a unit."""
    # `forward`, so that what stands on the output does not take part
    found = _mean(torch.cat([layer.forward(part) for part in x.split(CHUNK)]))
    bias = layer.bias.double() + mean.double() - found.double()
    if step is not None:
        unit = (layer.weight_maps[-1].scale * torch.tensor(step, device=bias.device)).double()
        dead = (layer.mapped_weight().flatten(1) == 0).all(1)
        bias = torch.where(dead, bias, (bias / unit).round() * unit)
    layer.bias.copy_(bias)


def _visit(model: nn.Module, sites: list[str], reach: Callable[[str, Any, Tensor], None], images: Tensor) -> None:
    """Call `reach` with every layer and its input, just before it runs."""
    hooks = [model.get_submodule(s).register_forward_pre_hook(lambda layer, args, s=s: reach(s, layer, args[0])) for s in sites]
    try:
        model.eval()(images)
    finally:
        for hook in hooks:
            hook.remove()


def _listen(reference: nn.Module, sites: dict[str, float | None], images: Tensor, seed: int) -> dict[str, Wanted]:
    """One forward of the float network."""
    found: dict[str, Wanted] = {}
    draw = torch.Generator().manual_seed(seed)

    def heard(site: str, layer: Any, out: Tensor) -> None:
        inputs = layer.weight[0].numel()
        spots = out.flatten(2).shape[2] if out.dim() > 2 else 1
        each = min(spots, max(1, -(-max(ROWS, 16 * inputs) // len(out))))
        where = torch.rand(len(out), spots, generator=draw).argsort(1)[:, :each].to(out.device)  # (n, each)
        found[site] = Wanted(_mean(out), _rows(out.detach(), where), where)

    hooks = [
        reference.get_submodule(s).register_forward_hook(lambda m, _, out, s=s: heard(s, m, out), prepend=True) for s in sites
    ]
    try:
        with torch.no_grad():
            reference.eval()(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _rows(out: Tensor, where: Tensor) -> Tensor:
    """Values (n, c, ...) at places (n, each), as (n·each, c)."""
    flat = out.flatten(2) if out.dim() > 2 else out[:, :, None]  # (n, c, places)
    return flat.gather(2, where[:, None].expand(-1, flat.shape[1], -1)).movedim(1, 2).flatten(0, 1)


def _mean(out: Tensor) -> Tensor:
    return out.mean([d for d in range(out.dim()) if d != 1])


def _round(layer: Any, x: Tensor, wanted: Wanted, round: str) -> None:
    """New codes for a layer; filters that could saturate with them keep the old ones, and so do those that got worse."""
    *earlier, quantizer = layer.weight_maps
    if not isinstance(quantizer, Affine) or any(isinstance(each, Quantizer) for each in earlier):
        return  # what is rounded for the file already cannot take other codes
    before = through(layer.weight_maps[:-1], layer.weight)
    codes = quantizer.encode(before).values
    problem = _quadratic(layer, x, wanted, before)
    scale = quantizer._spread(before)[0].expand_as(before)
    span = (quantizer.low, quantizer.high)
    made = roundings[round](problem, problem.split(before), problem.split(codes.float()), problem.split(scale), span)
    worse = problem.loss(made * problem.split(scale)) > problem.loss(problem.split(codes.float() * scale))  # (groups, out)
    made = made.masked_fill(problem.split(before) == 0, 0) if len(layer.weight_maps) > 1 else made  # what is masked stays zero
    new = torch.where(worse.flatten()[:, None], codes.flatten(1).float(), made.flatten(0, 1)).view_as(before)
    if quantizer.pairs:
        bad = saturating(new.to(torch.int32))
        new[bad] = codes[bad].float()
    layer.weight.copy_(new * scale)


def _quadratic(layer: Any, x: Tensor, wanted: Wanted, weight: Tensor) -> Quadratic:
    """The error of a layer's outputs as a function of its weight."""
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    inputs, outputs = weight[0].numel(), len(weight) // groups
    n, parts = 0, zip(x.split(CHUNK), wanted.where.split(CHUNK), strict=True)
    hh, hy = x.new_zeros(groups, inputs, inputs), x.new_zeros(groups, outputs, inputs)
    sx, sy = x.new_zeros(groups, inputs), wanted.rows.mean(0).view(groups, outputs)
    for part, where in parts:
        rows = _rows(_patches(layer, through(layer.input_maps, part)), where).unflatten(1, (groups, -1))  # (rows, g, inputs)
        y = wanted.rows[n : n + len(rows)].unflatten(1, (groups, -1)) - sy  # (rows, g, out)
        hh += torch.einsum("ngi,ngj->gij", rows, rows) if groups > 1 else (rows[:, 0].T @ rows[:, 0])[None]
        hy += torch.einsum("ngo,ngi->goi", y, rows)
        sx += rows.sum(0)
        n += len(rows)
    mean = sx / n
    h = hh / n - mean[:, :, None] * mean[:, None, :]
    return Quadratic(h, hy / n, weight.view(groups, outputs, inputs), DAMP)


def _patches(layer: Any, x: Tensor) -> Tensor:
    """What each output position reads: (n, c·k·k, positions) for convolutions, channel first; (n, in, 1) for linear layers."""
    if not isinstance(layer, nn.Conv2d):
        return x[:, :, None]
    if layer.padding_mode != "zeros":
        x = F.pad(x, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
        return F.unfold(x, layer.kernel_size, layer.dilation, 0, layer.stride)
    if isinstance(layer.padding, str):
        x = F.pad(x, layer._reversed_padding_repeated_twice)
        return F.unfold(x, layer.kernel_size, layer.dilation, 0, layer.stride)
    return F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
