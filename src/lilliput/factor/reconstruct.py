"""Weights from data: each chain learns to give what the original layer gave, on the inputs it gets in the new network.

Layers are fitted in the order they run. The response y of layer l comes from the original network, the input from the
network fitted so far, so that errors of earlier layers are made good and not added up ("asymmetric"). With `relu`, what is
compared is the response behind the batch norm and ReLU that follow:
min Σ ‖r(y) − r(z)‖² + λ‖z − ŷ‖², z and ŷ in turn, λ growing to 1.
For `svd` the best mixture and filters of that rank follow in closed form; the other forms fit their last link, bias included.
Zhang, Zou, He, Sun 2015, arXiv:1505.06798, equations 8 to 16; for spatial kernels Jaderberg et al. 2014, arXiv:1405.3866.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lilliput.core.copies import sharing
from lilliput.core.method import Batch
from lilliput.core.watch import watch
from lilliput.factor.chain import Chain, kernel
from lilliput.factor.moments import run
from lilliput.factor.spectra import leading
from lilliput.factor.svd import SVD

PLACES = 12  # positions an image
LAMBDAS = (0.01, 0.03, 0.1, 0.3, 1.0)
RIDGE = 1e-4  # of the mean energy of a feature, towards the weights that are there


@dataclass(frozen=True)
class Behind:
    """The line a batch norm draws behind a layer, y·scale + shift, and whether a ReLU comes then."""

    scale: Tensor
    shift: Tensor
    relu: bool


class _Enough(Exception):
    """Raised inside a forward that has shown what was wanted of it."""


def reconstruct(
    before: nn.Module,
    after: nn.Module,
    names: Sequence[str],
    batches: Iterable[Batch],
    *,
    relu: bool,
    seed: int,
    example: Tensor,
) -> None:
    """Refit the chains `names` of `after`, in this order, on what the layers of `before` give."""
    original, fitted = (sharing(model, model.parameters()).eval() for model in (before, after))  # `after` itself is fitted
    behind = {name: _behind(original, example, name) if relu else None for name in names}
    wanted = _responses(original, names, batches, seed)
    for name in names:
        chain: Any = fitted.get_submodule(name)
        _refit(chain, original.get_submodule(name), fitted, wanted[name], behind[name], batches, seed)


def _refit(
    chain: Chain, dense: Any, fitted: nn.Module, y: Tensor, behind: Behind | None, batches: Iterable[Batch], seed: int
) -> None:
    scale = torch.ones(y.shape[1], dtype=torch.double) if behind is None else behind.scale
    shift = torch.zeros(y.shape[1], dtype=torch.double) if behind is None else behind.shift
    target = y * scale + shift
    fit: Callable[[Tensor], Tensor]
    if isinstance(chain, SVD):
        inputs = _collect(fitted, chain, lambda x: _apply(dense, x), batches, seed)
        fit = _Mixture(chain, dense, inputs, scale, shift)
    else:
        features = _collect(fitted, chain.last, lambda x: _patches(chain.last, x), batches, seed)
        beside = _collect(fitted, chain, chain.beside, batches, seed)
        fit = _Last(chain, features, scale, shift, beside * scale if len(beside) else torch.zeros((), dtype=torch.double))
    made = fit(target)
    if behind is not None and behind.relu:
        for strength in LAMBDAS:
            for _ in range(3):
                made = fit(_auxiliary(target, made, strength))


def _auxiliary(y: Tensor, made: Tensor, strength: float) -> Tensor:
    """The z between the response behind the ReLU and what is made, element by element: the better of both sides of 0."""
    low = made.clamp(max=0)
    high = ((strength * made + y.clamp(min=0)) / (strength + 1)).clamp(min=0)
    loss_low = y.clamp(min=0) ** 2 + strength * (low - made) ** 2
    loss_high = (high - y.clamp(min=0)) ** 2 + strength * (high - made) ** 2
    return torch.where(loss_low < loss_high, low, high)


class _Mixture:
    """The best rank-d map from the responses of the original filters on the new inputs to a target."""

    def __init__(self, chain: SVD, dense: Any, responses: Tensor, scale: Tensor, shift: Tensor) -> None:
        self.chain, self.scale, self.shift = chain, _safe(scale), shift
        self.weight = kernel(dense).detach().cpu().double().flatten(1)
        bias = dense.bias_now() if isinstance(dense, Chain) else dense.bias
        self.x = responses if bias is None else responses - bias.detach().cpu().double()
        self.has_bias = chain.last.bias is not None
        self.centre = self.x.mean(0) if self.has_bias else torch.zeros(self.x.shape[1], dtype=torch.double)
        wide = self.x - self.centre
        energy = wide.T @ wide
        self.square = energy + RIDGE * energy.diagonal().mean().clamp(min=1e-12) * torch.eye(len(energy), dtype=torch.double)

    def __call__(self, target: Tensor) -> Tensor:
        """Set filters, mixture and bias; return what they make of the inputs.

        M = Σ_yx·Σ_xx⁻¹, cut to the strongest `rank` directions of what it predicts.
        """
        x, rank = self.x - self.centre, self.chain.ranks_made[0]
        rank = min(rank, self.chain.last.weight.shape[1])
        mean = target.mean(0) if self.has_bias else self.shift
        whole = torch.linalg.solve(self.square, x.T @ (target - mean)).T  # (n, n): predicts the target from x
        basis, _ = leading(whole @ self.square @ whole.T, rank)
        first, last = basis.T @ whole @ self.weight, basis / self.scale[:, None]
        first_size, last_size = first.norm(dim=1).clamp(min=1e-12), last.norm(dim=0).clamp(min=1e-12)
        even = (last_size / first_size).sqrt()
        with torch.no_grad():
            filters, mix = self.chain.chain
            filters.weight.copy_((first * even[:, None]).reshape(filters.weight.shape))
            mix.weight.copy_((last / even).reshape(mix.weight.shape))
            if self.has_bias:
                offset = (mean - self.shift) / self.scale
                mix.bias.copy_(offset - last @ (basis.T @ whole @ self.centre))
        return x @ whole.T @ basis @ basis.T + mean


class _Last:
    """The best weights of a chain's last link, and its bias, from its inputs to a target."""

    def __init__(self, chain: Chain, features: Tensor, scale: Tensor, shift: Tensor, beside: Tensor) -> None:
        self.link, self.scale, self.shift, self.beside = chain.last, _safe(scale), shift, beside
        self.groups = getattr(self.link, "groups", 1)
        self.features = features.chunk(self.groups, 1)
        self.start = self.link.weight.detach().cpu().double().flatten(1).chunk(self.groups)

    def __call__(self, target: Tensor) -> Tensor:
        """Set the weights; return what they make of the inputs: ridge regression towards the weights that are there."""
        has_bias = self.link.bias is not None
        target = target - self.beside
        mean = target.mean(0) if has_bias else self.shift
        scales, wanted = self.scale.chunk(self.groups), (target - mean).chunk(self.groups, 1)
        weights, made, centres = [], [], []
        for x, y, w, s in zip(self.features, wanted, self.start, scales, strict=True):
            centre = x.mean(0) if has_bias else torch.zeros(x.shape[1], dtype=torch.double)
            x, w = x - centre, w * s[:, None]
            square = x.T @ x
            square += RIDGE * square.diagonal().mean().clamp(min=1e-12) * torch.eye(len(square), dtype=torch.double)
            new = w + torch.linalg.solve(square, x.T @ (y - x @ w.T)).T
            made.append(x @ new.T)
            weights.append(new / s[:, None])
            centres.append(weights[-1] @ centre)
        with torch.no_grad():
            self.link.weight.copy_(torch.cat(weights).reshape(self.link.weight.shape))
            if has_bias:
                self.link.bias.copy_((mean - self.shift) / self.scale - torch.cat(centres))
        return torch.cat(made, 1) + mean + self.beside


def _safe(scale: Tensor) -> Tensor:
    """Scales by which can be divided: a channel that the norm silences is fitted as it is."""
    return torch.where(scale.abs() < 1e-6, torch.ones_like(scale), scale)


def _responses(model: nn.Module, names: Sequence[str], batches: Iterable[Batch], seed: int) -> dict[str, Tensor]:
    """What each layer gives at the chosen positions, (samples, n) in doubles."""
    kept: dict[str, list[Tensor]] = {name: [] for name in names}
    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: kept[name].append(_chosen(out, len(kept[name]), seed))
        )
        for name in names
    ]
    run(model, batches)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(parts) for name, parts in kept.items()}


def _collect(
    model: nn.Module, layer: nn.Module, use: Callable[[Tensor], Tensor | None], batches: Iterable[Batch], seed: int
) -> Tensor:
    """`use` of a layer's inputs at the chosen positions, (samples, features), empty if it is None; the forward stops there."""
    kept: list[Tensor] = []

    def see(_: nn.Module, args: Any) -> None:
        found = use(args[0])
        kept.append(torch.empty(0) if found is None else _chosen(found, len(kept), seed))
        raise _Enough

    hook = layer.register_forward_pre_hook(see)
    device = next(model.parameters()).device
    with torch.no_grad():
        for x, _ in batches:
            try:
                model(x.to(device))
            except _Enough:
                continue
    hook.remove()
    return torch.cat(kept)


def _chosen(x: Tensor, number: int, seed: int) -> Tensor:
    """The same random positions of every image for all layers of that size, (samples, channels) in doubles on the CPU."""
    rows = x.flatten(2).transpose(1, 2) if x.dim() == 4 else x.reshape(len(x), -1, x.shape[-1])  # (images, places, c)
    draw = torch.Generator().manual_seed(seed * 100_003 + number)
    where = torch.randint(rows.shape[1], (len(rows), min(PLACES, rows.shape[1])), generator=draw).to(rows.device)
    picked = rows.gather(1, where[:, :, None].expand(-1, -1, rows.shape[2]))
    return picked.flatten(0, 1).to("cpu", torch.double)


def _apply(dense: Any, x: Tensor) -> Tensor:
    """The response of the original layer."""
    made: Tensor = dense(x)
    return made


def _patches(link: Any, x: Tensor) -> Tensor:
    """What a link multiplies its weights with at each output position, as (images, features, height, width)."""
    if isinstance(link, nn.Linear):
        return x
    around = link._reversed_padding_repeated_twice
    x = F.pad(x, around, mode="constant" if link.padding_mode == "zeros" else link.padding_mode)
    kh, kw = link.kernel_size
    rows = (x.shape[2] - link.dilation[0] * (kh - 1) - 1) // link.stride[0] + 1
    found = F.unfold(x, (kh, kw), dilation=link.dilation, stride=link.stride)
    return found.view(len(x), found.shape[1], rows, -1)


def _behind(model: nn.Module, example: Tensor, name: str) -> Behind | None:
    """The norm and ReLU that alone read a layer's output."""
    graph = watch(model, example)
    made = [call.output for call in graph.calls if call.path == name]
    if len(made) != 1 or made[0] is None:
        return None
    reader = graph.only_reader(made[0])
    layer: Any = None
    if reader is not None and reader.kind == "batch_norm" and len(reader.outputs) and reader.site:
        layer = model.get_submodule(reader.site)
        reader = graph.only_reader(reader.outputs[0])
    relu = reader is not None and reader.kind == "relu"
    if not isinstance(layer, nn.BatchNorm2d) or layer.running_var is None or layer.running_mean is None:
        outputs = len(kernel(model.get_submodule(name)))
        return Behind(torch.ones(outputs, dtype=torch.double), torch.zeros(outputs, dtype=torch.double), relu)
    scale = (layer.running_var.double().cpu() + layer.eps).rsqrt()
    scale = scale if layer.weight is None else scale * layer.weight.detach().double().cpu()
    shift = -layer.running_mean.double().cpu() * scale
    return Behind(scale, shift if layer.bias is None else shift + layer.bias.detach().double().cpu(), relu)
