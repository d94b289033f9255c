"""How the loss bends where a layer's weights move: a second-order model with one factor for inputs and one for outputs.

For a layer y = W·x the loss rises by tr(G·E·A·Eᵀ) / 2 when W changes by E, where A is the mean of x·xᵀ over images and
positions and G the mean, over images, of the outer products of the gradient at y, summed over positions. The gradient is
that of the Gauss-Newton matrix of the divergence from the network's own answers: a random direction of the logits whose
covariance is diag(p) - p·pᵀ goes backward, p = softmax(z / T). T > 1 lets images count that the network is sure of; without
that, a network that knows its training images by heart would have hardly any gradient.

Martens and Grosse 2015, arXiv:1503.05671; Grosse and Martens 2016, arXiv:1602.01407 (convolutions).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lilliput.core.layers import Mapped, through
from lilliput.core.method import Batch
from lilliput.errors import DataError, at

TEMPERATURE = 4.0
_PART = 64  # images at a time
_POSITIONS = 64  # of an image that are looked at, drawn at random
_TINY = 1e-12


class Curvature(NamedTuple):
    """A, (groups, d, d), with a last row and column for the bias where there is one, and G, (groups, rows, rows)."""

    across: Tensor
    down: Tensor


def curvature(
    model: nn.Module, sites: Sequence[str], batches: Iterable[Batch], seed: int, temperature: float = TEMPERATURE
) -> dict[str, Curvature]:
    """The factors of these layers, in doubles. Raises `DataError` without an image and for outputs that are no logits."""
    listener = _Listener(model, sites, torch.Generator().manual_seed(seed))
    device = next(model.parameters()).device
    for x, _ in batches:
        for part in x.split(_PART):
            listener.listen(part.to(device), temperature)
    if not listener.images:
        raise DataError("no calibration image was given; the curvature of a loss needs at least one")
    return {site: listener.found(site) for site in sites}


def upper(h: Tensor, damping: float) -> Tensor:
    """U with UᵀU = (H + damping · mean diagonal)⁻¹, upper triangular, for each of (groups, d, d)."""
    mean = h.diagonal(dim1=1, dim2=2).mean(1).clamp(min=_TINY)
    damped = h + damping * mean.view(-1, 1, 1) * torch.eye(h.shape[1], dtype=h.dtype)
    return torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)


class _Listener:
    """A copy of the network that adds up what its layers see."""

    def __init__(self, model: nn.Module, sites: Sequence[str], draw: torch.Generator) -> None:
        self.probe, self.draw = copy.deepcopy(model).eval().requires_grad_(True), draw
        self.across: dict[str, Tensor] = {}
        self.down: dict[str, Tensor] = {}
        self.counts = dict.fromkeys(sites, 0)
        self.images = 0
        for site in sites:
            layer = self.probe.get_submodule(site)
            layer.register_forward_hook(lambda layer, args, out, site=site: self._see(site, layer, args[0], out))

    def listen(self, x: Tensor, temperature: float) -> None:
        """One forward and one backward."""
        with torch.enable_grad():
            outputs = self.probe(x)
            if not isinstance(outputs, Tensor) or outputs.dim() != 2:
                raise DataError("curvature is that of a classifier: the network must return logits, (images, classes)")
            p = (outputs.detach() / temperature).softmax(1)
            noise = p.sqrt() * torch.randn(p.shape, generator=self.draw).to(p.device)
            outputs.backward(noise - p * noise.sum(1, keepdim=True))
        self.probe.zero_grad(set_to_none=True)
        self.images += len(x)

    def found(self, site: str) -> Curvature:
        """The means over what was seen; a layer that never ran has no curvature."""
        if site not in self.across or site not in self.down:
            raise DataError(f"{site}: the layer does not run, or nothing comes of what it returns")
        made = Curvature(self.across[site] / self.counts[site], self.down[site] / self.images)
        with at(site):
            if not all(torch.isfinite(factor).all() for factor in made):
                raise DataError("an input of the layer, or a gradient, holds NaN or infinity")
        return made

    def _see(self, site: str, layer: Any, x: Tensor, out: Tensor) -> None:
        with torch.no_grad():
            x = columns(layer, through(layer.input_maps, x) if isinstance(layer, Mapped) else x, self._spots(out))
            x = x if layer.bias is None else with_ones(x)
            self.across[site] = self.across.get(site, 0) + (x @ x.transpose(1, 2)).double().cpu()
            self.counts[site] += x.shape[2]
        groups = getattr(layer, "groups", 1)
        out.register_hook(lambda grad: self._felt(site, grad, groups))

    def _felt(self, site: str, grad: Tensor, groups: int) -> None:
        g = (grad.flatten(2) if grad.dim() == 4 else grad.reshape(-1, grad.shape[-1], 1)).transpose(0, 1)  # (rows, n, l)
        g = g.reshape(groups, len(g) // groups, -1)
        self.down[site] = self.down.get(site, 0) + (g @ g.transpose(1, 2)).double().cpu()

    def _spots(self, out: Tensor) -> Tensor | None:
        if out.dim() != 4 or out[0, 0].numel() <= _POSITIONS:
            return None
        return torch.randperm(out[0, 0].numel(), generator=self.draw)[:_POSITIONS].to(out.device)


def columns(layer: nn.Module, x: Tensor, spots: Tensor | None = None) -> Tensor:
    """What weights are multiplied with, (groups, in·kh·kw, images·positions), at all positions or at some."""
    if not isinstance(layer, nn.Conv2d):
        return x.reshape(-1, x.shape[-1]).T.unsqueeze(0)
    windows = _windows(layer, x)  # (n, in, oh, ow, kh, kw)
    wide = windows.shape[3]
    spots = torch.arange(windows.shape[2] * wide, device=x.device) if spots is None else spots
    picked = windows[:, :, spots // wide, spots % wide]  # (n, in, positions, kh, kw)
    n, count = len(picked), len(spots)
    return picked.view(n, layer.groups, -1, *picked.shape[2:]).permute(1, 2, 4, 5, 0, 3).reshape(layer.groups, -1, n * count)


def _windows(layer: nn.Conv2d, x: Tensor) -> Tensor:
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode).contiguous()
    places = zip(x.shape[2:], layer.kernel_size, layer.stride, layer.dilation, strict=True)
    counts = [(size - dilation * (kernel - 1) - 1) // stride + 1 for size, kernel, stride, dilation in places]
    (n, c, _, _), (a, b, down, right) = x.shape, x.stride()
    strides = (a, b, down * layer.stride[0], right * layer.stride[1], down * layer.dilation[0], right * layer.dilation[1])
    return x.as_strided((n, c, *counts, *layer.kernel_size), strides)


def with_ones(x: Tensor) -> Tensor:
    """The same with a last row that a bias is multiplied with."""
    return torch.cat([x, x.new_ones(len(x), 1, x.shape[2])], 1)
