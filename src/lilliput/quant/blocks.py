"""Rounding block by block: the weights of a residual block are rounded so that the block as a whole says what it said.

    min over V of  E‖B(x̃; Ŵ(V)) − B(x)‖² + ν·Σ (1 − |2h(V) − 1|^β)

with x̃ what the block reads in the quantized network, whose earlier blocks are done, and B(x) what it says in the float network;
Ŵ(V) as in AdaRound, activations quantized as they will be. Li et al. 2021, "BRECQ", arXiv:2102.05426, with every output
weighing the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lilliput.core.layers import Mapped
from lilliput.core.maps import Mapping
from lilliput.core.watch import watch
from lilliput.quant.integer import Affine
from lilliput.quant.scales import saturating

STEPS = 200
BATCH = 16
CHUNK = 64


class Soft(Mapping):
    """A quantizer of weights whose rounding is still open."""

    def __init__(self, affine: Affine, weight: Tensor) -> None:
        super().__init__()
        self.scale = affine._spread(weight)[0].detach()
        self.floor = (weight / self.scale).floor()
        self.span = (affine.low, affine.high)
        rest = (weight / self.scale - self.floor).clamp(0.01, 0.99)
        self.gate = nn.Parameter(-(1.2 / (rest + 0.1) - 1).log())

    def soft(self) -> Tensor:
        """How far up each weight is rounded, in [0, 1]."""
        return (1.2 * self.gate.sigmoid() - 0.1).clamp(0, 1)

    def forward(self, weight: Tensor) -> Tensor:
        return (self.floor + self.soft()).clamp(*self.span) * self.scale

    def hard(self) -> Tensor:
        """The codes it has come to."""
        return (self.floor + (self.gate.detach() > 0).float()).clamp(*self.span)


def blocks(model: nn.Module, example: Tensor, sites: Sequence[str]) -> dict[str, list[str]]:
    """The smallest modules that hold two or more of these layers, take one tensor and run once; with the layers in each."""
    graph = watch(model, example)
    found: dict[str, list[str]] = {}
    returns = {call.path for call in graph.calls if call.output is not None}
    for path, _ in sorted(model.named_modules(), key=lambda item: -item[0].count(".")):
        inside = [s for s in sites if path and s.startswith(f"{path}.")]
        taken = any(other.startswith(f"{path}.") for other in found)
        if len(inside) > 1 and path in returns and graph.times_called.get(path) == 1 and not taken:
            found[path] = inside
    order = [call.path for call in sorted(graph.calls, key=lambda call: call.start)]
    return {path: found[path] for path in sorted(found, key=order.index)}


def reconstruct_blocks(
    reference: nn.Module, model: nn.Module, found: dict[str, list[str]], images: Tensor, seed: int = 0, steps: int = STEPS
) -> None:
    """Round the weights of each block in turn, in place. Blocks that do not get better stay as they are."""
    draw = torch.Generator().manual_seed(seed)
    for path, sites in found.items():
        layers = [m for m in (model.get_submodule(s) for s in sites) if _is_open(m)]
        if layers:
            x = _passing(model, path, images, output=False)
            y = _passing(reference, path, images, output=True)
            _reconstruct(model.get_submodule(path), layers, x, y, draw, steps)


def _is_open(layer: nn.Module) -> bool:
    return isinstance(layer, Mapped) and len(layer.weight_maps) == 1 and isinstance(layer.weight_maps[0], Affine)


class _Reached(Exception):
    """The forward has come as far as it is needed."""


def _passing(model: nn.Module, path: str, images: Tensor, *, output: bool) -> Tensor:
    """What comes into or out of a module, over all images."""
    parts: list[Tensor] = []

    def stop(*seen: Any) -> None:
        parts.append((seen[2] if output else seen[1][0]).detach())
        raise _Reached

    module = model.eval().get_submodule(path)
    hook = module.register_forward_hook(stop) if output else module.register_forward_pre_hook(stop)
    with torch.no_grad():
        for part in images.split(CHUNK):
            try:
                model(part)
            except _Reached:
                pass
    hook.remove()
    return torch.cat(parts)


def _reconstruct(block: nn.Module, layers: list[Any], x: Tensor, y: Tensor, draw: torch.Generator, steps: int) -> None:
    with torch.no_grad():
        before = _error(block, x, y)
        kept = [(layer.weight.clone(), layer.weight_maps[0]) for layer in layers]
        gates = [Soft(layer.weight_maps[0], layer.weight) for layer in layers]
    for layer, gate in zip(layers, gates, strict=True):
        layer.weight_maps[0] = gate
    with torch.enable_grad():
        _learn(block, gates, x, y, draw, steps)
    with torch.no_grad():
        for layer, gate, (weight, affine) in zip(layers, gates, kept, strict=True):
            layer.weight_maps[0] = affine
            codes = gate.hard()
            if affine.pairs and bool((bad := saturating(codes)).any()):
                codes[bad] = affine.encode(weight).values[bad].to(codes.dtype)
            layer.weight.copy_(codes * gate.scale)
        if _error(block, x, y) > before:
            for layer, (weight, _) in zip(layers, kept, strict=True):
                layer.weight.copy_(weight)


def _learn(block: nn.Module, gates: list[Soft], x: Tensor, y: Tensor, draw: torch.Generator, steps: int) -> None:
    parameters = [gate.gate for gate in gates]
    optimizer = torch.optim.Adam(parameters, lr=8 / steps)  # gates start within 3 of the middle
    unit = y.var().clamp(min=1e-12)
    for step in range(steps):
        pick = torch.randperm(len(x), generator=draw)[:BATCH]
        loss = (block(x[pick]) - y[pick]).square().mean() / unit
        if step >= steps // 5:
            beta = 20 - 18 * (step - steps // 5) / (steps - steps // 5)
            loss = loss + 0.02 * sum((1 - (2 * g.soft() - 1).abs().clamp(min=1e-6).pow(beta)).mean() for g in gates)
        grads = torch.autograd.grad(loss, parameters)
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = grad
        optimizer.step()


def _error(block: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The mean squared error of a block's outputs."""
    parts = [(block(a) - b).square().sum() for a, b in zip(x.split(CHUNK), y.split(CHUNK), strict=True)]
    return torch.stack(parts).sum() / y.numel()
