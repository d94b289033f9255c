"""Least-squares compensation: layers that lost inputs learn to say with the rest what they said with all.

Where channels were removed, the layers that read them get new weights for the channels that stay:

    min over D, d of  mean‖y − (W + D)·x − b − d‖² + λ‖D‖²

with y the layer's output in the network before, and x what it reads in the network after, whose earlier layers are
refitted already (so errors do not pile up), at random positions of calibration images. The ridge holds on to the weights
as they were, not to zero: the sum of squares is never larger than before, and what the images do not tell stays. It is as
strong as the noise: λ is a share of the mean square of an input, times the share of what is missing that no x explains. So
what the others can say exactly is recovered exactly, and chance correlations are not learned.

He, Zhang & Sun 2017, "Channel Pruning", arXiv:1707.06168 (least squares on sampled positions); Zhang et al. 2015,
arXiv:1505.06798, section 3.3 (asymmetric: y from the original network, x from the compressed one).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lilliput.core.edits import Resize
from lilliput.core.method import Batch
from lilliput.core.record import edits
from lilliput.core.watch import Graph, watch
from lilliput.data.seeds import generator
from lilliput.errors import DataError
from lilliput.prune.patches import groups, outputs, patches, positions, refusal, weight_rows

RIDGE = 1e-2
"""λ as a share of the mean square of an input, where nothing of what is missing can be told from the inputs."""

TRUST = 1e-6
"""The part of `RIDGE` that is left where all of it can be told."""

ROWS = 4096
"""How many positions are sampled at least; a layer with many inputs gets four for each of them."""

BLOCK = 1 << 22
"""How many numbers of a patch matrix are in double precision at a time."""


@dataclass(frozen=True)
class Fitted:
    """The error of a layer's output, mean‖y − ŷ‖² over mean‖y − mean y‖², with the weights that were left and refitted."""

    before: float
    after: float


@dataclass(frozen=True)
class Sample:
    """What a layer said in the network before: `wanted` (rows, outputs that stay) at the places `where` (n, each)."""

    where: Tensor
    wanted: Tensor


def compensate(
    before: nn.Module, after: nn.Module, batches: Iterable[Batch], *, seed: int = 0, ridge: float = RIDGE
) -> dict[str, Fitted]:
    """Refit, in place, every layer of `after` that lost inputs since `before`; the error of each, in order.

    The mean is corrected too: in the layer's bias, or else in the running mean of a batch norm behind it, where the next
    re-estimation of statistics finds the same. The variance is left to that re-estimation.
    Cost: one forward of each network. The forward of `after` takes all images of `batches` at once, so that each layer is
    refitted when the forward reaches it; the largest activations of all images have to fit into memory.
    Raises `DataError` where there are no images.
    """
    lost = consumers(before, after)
    if not lost:
        return {}
    images = _together(after, batches)
    graph = watch(after, images)
    ready = [site for site in lost if _why_not(after.get_submodule(site), site, graph) is None]
    samples = _listen(before, after, {site: lost[site] for site in ready}, images, seed)
    done: dict[str, Fitted] = {}

    def fit(site: str, layer: nn.Module, x: Tensor) -> None:
        done[site] = _fit(layer, _norm_behind(after, graph, site), x, samples[site], ridge)

    with torch.no_grad(), _hooked(after, samples, fit):
        after(images)
    return done


def uncompensated(before: nn.Module, after: nn.Module, example: Tensor) -> dict[str, str]:
    """The layers that lost inputs and that `compensate` leaves as they are, each with the reason."""
    graph = watch(after, example)
    reasons = {site: _why_not(after.get_submodule(site), site, graph) for site in consumers(before, after)}
    return {site: why for site, why in reasons.items() if why is not None}


def consumers(before: nn.Module, after: nn.Module) -> dict[str, Tensor]:
    """The layers that lost inputs by the edits between two networks, each with the outputs it kept, as before."""
    new = edits(after)[len(edits(before)) :]
    found: dict[str, Tensor] = {}
    for edit in new:
        layer = before.get_submodule(edit.site) if isinstance(edit, Resize) and edit.axis == "in" else None
        if isinstance(layer, nn.Linear | _ConvNd):
            found.setdefault(edit.site, torch.arange(_width(layer)))
    for edit in new:
        if isinstance(edit, Resize) and edit.axis == "out" and edit.site in found:
            found[edit.site] = found[edit.site][list(edit.keep)]
    return found


def _width(layer: nn.Linear | _ConvNd) -> int:
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def _why_not(layer: nn.Module, site: str, graph: Graph) -> str | None:
    why = refusal(layer)
    if why is None and graph.times_called.get(site, 0) != 1:
        return f"it runs {graph.times_called.get(site, 0)} times in a forward"
    return why


def _together(model: nn.Module, batches: Iterable[Batch]) -> Tensor:
    """All images in one batch, on the model's device and of its precision."""
    images = [x for x, _ in batches]
    if not images:
        raise DataError("no calibration image was given; least squares need some")
    return torch.cat(images).to(next(model.parameters()))


def _listen(before: nn.Module, after: nn.Module, kept: dict[str, Tensor], images: Tensor, seed: int) -> dict[str, Sample]:
    """One pass of the network before: what the layers say at random places."""
    runner = copy.deepcopy(before).eval()
    heard: dict[str, list[tuple[Tensor, Tensor]]] = {site: [] for site in kept}
    for site in kept:
        layer, draw = runner.get_submodule(site), generator("compensate", site, seed)
        inputs = weight_rows(after.get_submodule(site), 0)[0].numel()
        each = math.ceil(max(ROWS, 4 * inputs) / len(images))

        def hear(layer: nn.Module, _: Any, y: Tensor, site: str = site, each: int = each, draw: Any = draw) -> None:
            where = positions(layer, y, each, draw)
            heard[site].append((where, outputs(layer, y, where)[:, kept[site].to(y.device)]))

        layer.register_forward_hook(hear)
    with torch.no_grad():
        for part in images.split(32):
            runner(part)
    return {site: Sample(*(torch.cat(each) for each in zip(*parts, strict=True))) for site, parts in heard.items()}


@contextmanager
def _hooked(model: nn.Module, sites: Iterable[str], act: Callable[[str, nn.Module, Tensor], None]) -> Iterator[None]:
    """The model in eval mode, with `act` called on each site and its input before it runs; as it was afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    hooks = [
        model.get_submodule(site).register_forward_pre_hook(lambda layer, args, site=site: act(site, layer, args[0]))
        for site in sites
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode


def _norm_behind(model: nn.Module, graph: Graph, site: str) -> Any:
    """The batch norm with running statistics that alone reads what a layer returns."""
    op = next((op for op in graph.ops if op.site == site and op.kind in ("conv", "linear")), None)
    reader = None if op is None else graph.only_reader(op.outputs[0])
    if reader is None or reader.kind != "batch_norm" or graph.times_called[reader.site] > 1:
        return None
    norm = model.get_submodule(reader.site)
    return norm if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.running_mean is not None else None


def _fit(layer: Any, norm: Any, x: Tensor, sample: Sample, ridge: float) -> Fitted:
    """Refit one layer, group by group."""
    read = patches(layer, x, sample.where)
    parts = groups(layer)
    shift = layer.bias if layer.bias is not None else None if norm is None else norm.running_mean
    sign = 1 if layer.bias is not None else -1  # a norm subtracts its mean
    found = []
    for part, (inputs, wanted) in enumerate(zip(read.chunk(parts, 1), sample.wanted.chunk(parts, 1), strict=True)):
        inputs = inputs.flatten(1)
        gap = _gap(inputs, wanted, weight_rows(layer, part), None if layer.bias is None else layer.bias.chunk(parts)[part])
        change, offset = least_squares(inputs, gap, ridge, centred=shift is not None, noise=True)
        left = gap - _times(inputs, change) - offset
        if _is_noise(gap, wanted, layer.weight.dtype) or left.square().sum() > gap.square().sum():
            left = gap
        else:
            own = layer.weight.detach().chunk(parts)[part]
            own.add_(change.T.reshape(own.shape).to(own))
            if shift is not None:
                shift.detach().chunk(parts)[part].add_(sign * offset.to(shift))
        found.append(torch.stack([gap.square().sum(), left.square().sum(), _spread(wanted)]))
    first, last, whole = torch.stack(found).sum(0).tolist()
    return Fitted(first / max(whole, 1e-300), last / max(whole, 1e-300))


def _gap(inputs: Tensor, wanted: Tensor, rows: Tensor, bias: Tensor | None) -> Tensor:
    """What the layer lacks as it is, (n, outputs), in double precision."""
    missing = wanted.double().cpu() - _times(inputs, rows.flatten(1).double().cpu().T)
    return missing if bias is None else missing - bias.detach().double().cpu()


def _spread(wanted: Tensor) -> Tensor:
    y = wanted.double().cpu()
    return (y - y.mean(0)).square().sum()


def _is_noise(gap: Tensor, wanted: Tensor, dtype: torch.dtype) -> bool:
    """Whether nothing is missing but what rounding took: then the weights stay bit for bit."""
    return bool(gap.square().mean() <= (64 * torch.finfo(dtype).eps) ** 2 * wanted.double().square().mean())


def _blocks(x: Tensor) -> Sequence[Tensor]:
    return x.split(max(1, BLOCK // max(1, x.shape[1])))


def _times(x: Tensor, matrix: Tensor) -> Tensor:
    return torch.cat([block.double().cpu() @ matrix for block in _blocks(x)])


def least_squares(x: Tensor, y: Tensor, ridge: float, *, centred: bool, noise: bool = False) -> tuple[Tensor, Tensor]:
    """The D (inputs, outputs) and d (outputs,) that minimise mean‖y − x·D − d‖² + λ‖D‖², in double precision.

    `x` (n, inputs), `y` (n, outputs); λ is `ridge` times the mean square of an input, with `noise` times the share of y
    that x leaves unexplained as well. With `centred` false d is zero.
    Costs n·inputs² by the normal equations, or n²·inputs where there are fewer rows than inputs.
    """
    middle = x.double().mean(0).cpu() if centred else x.new_zeros(x.shape[1], dtype=torch.double, device="cpu")
    base = y.mean(0) if centred else torch.zeros_like(y[0])
    wanted = y - base
    blocks = (block.double().cpu() - middle for block in _blocks(x))
    if len(x) <= x.shape[1]:
        centre = torch.cat(list(blocks))
        change = centre.T @ _solve(centre @ centre.T, wanted, ridge / x.shape[1])
        return change, base - middle @ change
    gram = torch.zeros(x.shape[1], x.shape[1], dtype=torch.double)
    cross = torch.zeros(x.shape[1], y.shape[1], dtype=torch.double)
    for block, part in zip(blocks, wanted.split(len(_blocks(x)[0])), strict=True):
        gram.addmm_(block.T, block)
        cross.addmm_(block.T, part)
    change = _solve(gram, cross, (TRUST if noise else 1) * ridge / x.shape[1])
    if noise:
        left = 1 - float((change * (2 * cross - gram @ change)).sum() / wanted.square().sum().clamp(min=1e-300))
        share = min(1.0, max(TRUST, left * len(x) / (len(x) - x.shape[1])))  # n rows leave n − inputs to tell the noise by
        change = _solve(gram, cross, share * ridge / x.shape[1])
    return change, base - middle @ change


def _solve(gram: Tensor, right: Tensor, share: float) -> Tensor:
    """(gram + share·trace(gram)·I)⁻¹·right; a gram of zeros changes nothing."""
    trace = float(gram.diagonal().sum())
    if trace == 0:
        return torch.zeros_like(right)
    firm = gram + max(share, 1e-15) * trace * torch.eye(len(gram), dtype=gram.dtype)
    return torch.cholesky_solve(right, torch.linalg.cholesky(firm))
