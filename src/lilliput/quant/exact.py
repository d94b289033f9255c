"""A quantized network as integer kernels compute it: sums in integers, one multiplication in single precision, one rounding.

    ŷ = s_y·round( fl₃₂(Σ q_x·q_w + q_b) · fl₃₂(fl₃₂(s_x·s_w) / s_y) )

A quantized network in PyTorch adds up products of floats. Their sum is off by some units in the last place, and where it lies
that close to the middle between two levels it falls to the other side: in one or two of a million values. Every such value is
a whole level off, and moves others in the layers behind it, so that before a deep network ends one value in twenty differs.
Sums of integers have no such error, and what lies between layers (additions, means) has none to speak of in double precision.
ONNX Runtime's convolutions, additions and average pools give these integers bit for bit.
Jacob et al. 2018, arXiv:1712.05877, section 2.2 (where the multiplier is an integer and a shift).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lilliput.core.layers import Mapped, MappedConv2d, through
from lilliput.core.watch import Graph, Op, watch
from lilliput.quant.integer import Affine


def integers(model: nn.Module, example: Tensor) -> nn.Module:
    """A copy in eval mode whose layers compute as integer kernels do, wherever weight and input are integers of 8 bits or less.

    It is for inference alone, and slower: everything between the one multiplication of a layer and the next is in double
    precision, which holds every integer below 2⁵³.
    """
    new = copy.deepcopy(model).eval().requires_grad_(False)
    graph = watch(new, example)
    for op in graph.ops:
        layer = new.get_submodule(op.site) if op.kind in ("conv", "linear") else None
        if isinstance(layer, Mapped) and graph.times_called[op.site] == 1 and _is_integer(layer):
            before = _shared(new, _before(graph, op.inputs[0]))
            if before is not None:
                _replace(new, op.site, Exact(layer, before, _quantizer(new, _behind(graph, op))))
    for op in graph.ops:
        if op.inputs[:1] == graph.inputs and (entry := _quantizer(model, op)) is not None:
            host, _, place = op.site.rpartition(".input_maps.")
            inside = isinstance(new.get_submodule(host), Exact) and bool(place)
            _replace(new, f"{host}.layer.input_maps.{place}" if inside else op.site, Entry(entry))
    return Doubled(new.double())


class Doubled(nn.Module):
    """A network in double precision between inputs and outputs in single precision."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.double()).float()  # type: ignore[no-any-return]


class Entry(nn.Module):
    """The quantizer of the network's input, which divides floats in single precision, as runtimes do."""

    def __init__(self, affine: Affine) -> None:
        super().__init__()
        self.affine = [copy.deepcopy(affine)]  # in a list, so that it stays in single precision

    def forward(self, x: Tensor) -> Tensor:
        codes = self.affine[0].encode(x.float()).values.double()
        scale, zero = self.affine[0].settled()
        return (codes - zero) * scale.double()


class Exact(nn.Module):
    """A layer on integers. Its output lies on the grid that the quantizer behind it has, so that this one changes nothing."""

    def __init__(self, layer: Any, before: Affine, behind: Affine | None) -> None:
        super().__init__()
        self.layer, self.before = layer, before
        affine = layer.weight_maps[-1]
        codes = affine.encode(through(layer.weight_maps[:-1], layer.weight)).values
        self.codes = codes.double() - affine._spread(codes)[1].double()
        scale = affine.settled()[0].expand(len(codes))
        self.unit = (scale * before.settled()[0]).float()  # (out,)
        bias = torch.zeros_like(self.unit) if layer.bias is None else layer.bias.detach()
        self.bias = (bias.double() / self.unit.double()).round()
        self.step = None if behind is None else behind.settled()[0]
        if "output_maps" in layer._modules:
            self.output_maps = layer.output_maps
            self._forward_hooks = layer._forward_hooks.copy()
            layer._forward_hooks.clear()

    def forward(self, x: Tensor) -> Tensor:
        scale = self.before.settled()[0]
        whole = torch.round(through(self.layer.input_maps, x) / scale.double())
        conv = isinstance(self.layer, MappedConv2d)
        total = self.layer._conv_forward(whole, self.codes, self.bias) if conv else F.linear(whole, self.codes, self.bias)
        total, shape = total.float(), (-1, 1, 1) if conv else (-1,)
        if self.step is None:
            return (total * self.unit.view(shape)).double()
        return torch.round(total * (self.unit / self.step).view(shape)).double() * self.step.double()


def _is_integer(layer: Any) -> bool:
    last = layer.weight_maps[-1] if len(layer.weight_maps) else None
    return isinstance(last, Affine) and last.bits <= 8 and last.axis in (None, 0)


def _quantizer(model: nn.Module, op: Op | None) -> Affine | None:
    """The quantizer of at most 8 bits whose operation this is."""
    found = model.get_submodule(op.site) if op is not None else None
    return found if isinstance(found, Affine) and found.bits <= 8 and found.axis is None else None


def _shared(model: nn.Module, ops: list[Op | None]) -> Affine | None:
    """The quantizer whose operations these are, or one of several with the same step."""
    found = [_quantizer(model, op) for op in ops]
    first = found[0]
    if first is None or any(each is None or not torch.equal(each.scale, first.scale) for each in found):
        return None
    return first


def _before(graph: Graph, value: int) -> list[Op | None]:
    """What made a value, behind ReLUs, joins and whatever only moves values: none of them leaves the grid."""
    made = graph.makers.get(value)
    if made is None or made.kind not in ("move", "relu", "cat") or made.others:
        return [made]
    return [op for each in made.inputs for op in _before(graph, each)]


def _behind(graph: Graph, op: Op) -> Op | None:
    """What reads a layer's output, behind ReLUs and whatever only moves values; None where several do."""
    reader = graph.only_reader(op.outputs[0])
    while reader is not None and reader.kind in ("relu", "move"):
        reader = graph.only_reader(reader.outputs[0]) if len(reader.outputs) == 1 else None
    return reader


def _replace(model: nn.Module, site: str, layer: nn.Module) -> None:
    parent, _, name = site.rpartition(".")
    model.get_submodule(parent)._modules[name] = layer
