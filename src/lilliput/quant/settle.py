"""From layers that were trained with quantizers to layers that integer runtimes take: norms folded, scales plain numbers.

With y = g·(Ŵ·x + b − μ) + β and Ŵ = s·q:   scale |g|·s, codes sign(g)·q,   bias g·(b − μ) + β
The codes stay but for their signs, so the network computes what it did, up to float rounding. DoReFa's 2^k levels become odd
integers of k + 1 bits. Quantizers on gradients go. Weights that are no integers times a scale a channel, as SYQ's by pixel,
become floats. Grids that were trained on (quant/held) become grids for files, and biases beside them multiples of what
rounding made them once. Jacob et al. 2018, arXiv:1712.05877, section 3.2.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lilliput.core.edits import Edit, Swap
from lilliput.core.fold import line, only_normalizes
from lilliput.core.layers import Compressed, Mapped, MappedConv2d, MappedLinear, swaps
from lilliput.core.watch import Graph, Op, watch
from lilliput.errors import EditError
from lilliput.quant.dorefa import Gradient, Squashed
from lilliput.quant.freeze import carry
from lilliput.quant.held import LEAST, FineGrid, HeldGrid
from lilliput.quant.integer import Affine
from lilliput.quant.syq import Symmetric


def settle(model: nn.Module, example: Tensor, skip: Callable[[str], bool], zone: float = 0.0) -> list[Edit]:
    """The edits that settle each quantized layer, with the norm behind it unless `skip(norm)`.

    Layers that are settled already, as those of `quant.Quantize` are, stay. A `zone` is the least that grids shall have.
    """
    graph, made = watch(model, example), list[Edit]()
    norms = {op.site: norm for op in graph.ops if (norm := _norm_behind(model, graph, op)) is not None and not skip(norm)}
    for site, layer in model.named_modules():
        if isinstance(layer, Mapped) and layer.weight_maps and _is_settled(layer.weight_maps[-1]) is not None:
            norm = norms.get(site)
            grid = layer.weight_maps[-1] if isinstance(layer.weight_maps[-1], HeldGrid) else None
            spec: dict[str, Any] = {"zone": zone} if zone and grid is not None else {}
            if norm is not None:
                made += [Swap(site, "settled", {"norm": norm, **spec}), Swap(norm, "passed")]
            elif grid is not None and not (grid.slopes == 1).all():
                continue  # its steps are those behind a norm that stays
            elif not _is_settled(layer.weight_maps[-1]) and not skip(site):
                made.append(Swap(site, "settled", spec))
    return made


def _is_settled(quantizer: nn.Module) -> bool | None:
    """Whether a quantizer is a plain one; None for those that this module knows nothing of."""
    return type(quantizer) is Affine if isinstance(quantizer, Affine | Squashed | Symmetric | HeldGrid) else None


def _norm_behind(model: nn.Module, graph: Graph, op: Op) -> str | None:
    """The batch norm that alone reads a layer's output."""
    if op.kind not in ("conv", "linear") or graph.times_called[op.site] > 1:
        return None
    layer, reader = model.get_submodule(op.site), graph.only_reader(op.outputs[0])
    if reader is None or reader.kind != "batch_norm" or graph.times_called[reader.site] > 1:
        return None
    if not only_normalizes(model.get_submodule(reader.site)):
        return None
    maps = layer._modules.get("output_maps") or ()
    return reader.site if all(isinstance(m, Gradient) for m in maps) else None  # type: ignore[union-attr]


@swaps.register("settled")
class Settled(Compressed):
    """A quantized layer whose weight is codes times one scale for each output channel, a norm included."""

    name = "settled"

    @classmethod
    def like(  # type: ignore[override] # its own spec
        cls, dense: nn.Module, norm: str | None = None, zone: float = 0.0
    ) -> nn.Module:
        """The layer with room for a bias, and a plain quantizer."""
        if not isinstance(dense, Mapped) or not len(dense.weight_maps):
            raise EditError("only a layer whose weight passes through a quantizer can be settled")
        kind: Any = MappedConv2d if isinstance(dense, MappedConv2d) else MappedLinear
        layer = kind.__new__(kind)
        layer.__dict__ = {k: v.copy() if isinstance(v, dict) else v for k, v in dense.__dict__.items()}
        layer._modules.pop("output_maps", None)
        layer._forward_hooks = type(dense._forward_hooks)()
        layer.weight = nn.Parameter(dense.weight.detach().clone(), dense.weight.requires_grad)
        if dense.bias is not None or norm is not None:
            bias = dense.weight.new_zeros(len(dense.weight)) if dense.bias is None else dense.bias.detach().clone()
            layer.bias = nn.Parameter(bias, dense.weight.requires_grad)
        layer.weight_maps = nn.ModuleList(_plain(dense.weight_maps[-1], dense.weight))
        return carry(layer, dense, (Gradient,))

    @classmethod
    def absorb_into(  # type: ignore[override] # its own spec
        cls, layer: Any, model: nn.Module, dense: Any, norm: str | None = None, zone: float = 0.0
    ) -> None:
        """Compute weight, scales and bias."""
        if zone:
            dense = copy.deepcopy(dense)
            dense.weight_maps[-1].zone.clamp_(min=zone)
        weight = dense.mapped_weight().detach().double()
        slope, mean = weight.new_ones(len(weight)), weight.new_zeros(len(weight))
        if norm is not None:
            slope, shift = line(model, norm)
            mean = model.get_submodule(norm).running_mean.double() - layer.bias.double()  # type: ignore[operator,union-attr]
            layer.bias.copy_(layer.bias.double() * slope + shift)
        layer.weight.copy_(weight * slope.view(-1, *[1] * (weight.dim() - 1)))
        for quantizer in layer.weight_maps:
            if isinstance(quantizer, FineGrid):
                _on_grid(layer, quantizer, dense, slope, mean)
                continue
            unit = _unit(dense.weight_maps[-1], dense.weight).double() * slope.abs()
            quantizer.scale.copy_(torch.where(unit > 0, unit, 1.0))


@swaps.register("passed")
class PassedOn(Compressed):
    """Nothing, with the maps that stood on the output of what was there."""

    name = "passed"

    @classmethod
    def like(cls, dense: nn.Module) -> nn.Module:  # type: ignore[override] # its own spec
        """`nn.Identity`, and the maps."""
        return carry(nn.Identity(), dense)

    @classmethod
    def absorb_into(cls, layer: Any, model: nn.Module, dense: nn.Module) -> None:  # type: ignore[override]
        """There is nothing to compute."""


def _plain(quantizer: nn.Module, weight: Tensor) -> list[Affine] | list[FineGrid]:
    """The quantizer that holds the same codes, with one scale a channel or steps for files; none where there is no such."""
    if isinstance(quantizer, HeldGrid):
        return [FineGrid.like(weight)]
    if isinstance(quantizer, Affine) and quantizer.signed and quantizer.axis in (None, 0):
        bits = int(quantizer.bits)
    elif isinstance(quantizer, Squashed):
        bits = int(quantizer.bits) + 1
    else:
        return []
    return [Affine.like(weight, bits, axis=0, scale=[1.0] * len(weight))]


def _on_grid(layer: Any, grid: FineGrid, dense: Any, slope: Tensor, mean: Tensor) -> None:
    """The codes of before on steps a norm behind, and the bias as whole multiples of its own.

    Rows that are scaled by f to fit return f·slope·mean instead of slope·mean of what comes in: the bias adds the difference.
    """
    held: HeldGrid = dense.weight_maps[-1]
    grid.take_over(held, slope)
    codes = (dense.mapped_weight() / held.spread().view(dense.weight.shape)).round()
    codes = codes * slope.sign().to(codes).view(-1, *[1] * (codes.dim() - 1))
    layer.weight.copy_(codes * grid.spread().view(codes.shape))
    if layer.bias is not None:
        scaled = (grid.spread()[:, 0, 0] / held.spread()[:, 0, 0]).double() / slope.abs().clamp(min=LEAST)
        bias = layer.bias.double() + (1 - scaled) * slope * mean
        unit = held.bias_step
        layer.bias.copy_((bias / unit).round() * unit + 0.0 if unit > 0 else bias)  # a negative zero is no whole number


def _unit(quantizer: Any, weight: Tensor) -> Tensor:
    """The step between codes, (out,)."""
    if isinstance(quantizer, Squashed):
        one = weight.detach().abs().mean() if quantizer.bits == 1 else weight.new_ones(()) / quantizer.last
        return one.expand(len(weight))
    scale: Tensor = quantizer.settled()[0]
    return scale.expand(len(weight))
