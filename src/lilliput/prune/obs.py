"""Exact second order, layer by layer: the layer's own squared error, and weights that make up for those that go.

For a layer y = W·x the error of other weights W' is tr((W' - W)·H·(W' - W)ᵀ) with H = mean of x·xᵀ over all positions of
the images, so rows of W are problems of their own with one H. Removing weight p of a row raises the error by
w_p² / [H⁻¹]_pp once the others have moved by -(w_p / [H⁻¹]_pp)·H⁻¹[:, p]; H⁻¹ then loses that row and column.

Hassibi and Stork 1993, "Optimal Brain Surgeon"; Frantar, Singh, Alistarh 2022, "Optimal Brain Compression",
arXiv:2208.11580. Here many rows go at once, and H⁻¹ is updated in blocks of removals, as one matrix product.
Costs about (in·kh·kw)³ multiply-adds a row: seconds for 64 rows of 576 weights, hours for 512 rows of 4608.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lilliput.core.layers import Mapped, through
from lilliput.core.method import Look
from lilliput.errors import DataError, at
from lilliput.prune.patterns import Pattern

BLOCK = 32
_ELEMENTS = 1 << 25  # of the inverses that are worked on at once: 256 MB
_DAMPING = 1e-4  # of the mean diagonal, so that inputs that never vary have an inverse


def moments(model: nn.Module, sites: Sequence[str], look: Look, images: int, who: str) -> dict[str, Tensor]:
    """H of each layer, (groups, in·kh·kw, in·kh·kw) doubles, damped; from the inputs that the model itself sees."""
    probe = copy.deepcopy(model).eval()
    sums: dict[str, Tensor] = {}
    counts = dict.fromkeys(sites, 0)

    def see(site: str, layer: Any, x: Tensor) -> None:
        x = columns(layer, through(layer.input_maps, x) if isinstance(layer, Mapped) else x)
        sums[site] = sums.get(site, 0) + torch.einsum("gdl,gel->gde", x, x).double()
        counts[site] += x.shape[-1]

    for site in sites:
        layer = probe.get_submodule(site)
        layer.register_forward_pre_hook(lambda layer, args, site=site: see(site, layer, args[0]))
    with torch.no_grad():
        for x, _ in look.need_batches(who, images):
            for part in x.split(32):
                probe(part)
    if not sums:
        raise DataError(f"{who}: no calibration image was given; the inputs of layers need at least one")
    return {site: _damped(total / counts[site]) for site, total in sums.items()}


def columns(layer: nn.Module, x: Tensor) -> Tensor:
    """What a layer's weights are multiplied with, (groups, in·kh·kw, images·positions)."""
    if not isinstance(layer, nn.Conv2d):
        return x.reshape(-1, x.shape[-1]).T.unsqueeze(0)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode)
    kernel: Any = layer.kernel_size
    x = F.unfold(x, kernel, dilation=layer.dilation, stride=layer.stride)  # type: ignore[arg-type]  # (n, in·kh·kw, l)
    n, rows, spots = x.shape
    return x.view(n, layer.groups, rows // layer.groups, spots).permute(1, 2, 0, 3).reshape(layer.groups, -1, n * spots)


def inverse_diagonal(h: Tensor, shape: Sequence[int]) -> Tensor:
    """[H⁻¹]_pp for every weight of a layer, in the weight's shape."""
    diagonal = torch.linalg.inv(h).diagonal(dim1=1, dim2=2)  # (groups, d)
    return diagonal.repeat_interleave(shape[0] // len(h), 0).reshape(tuple(shape))


def compensated(weight: Tensor, h: Tensor, zeros: int, grain: Pattern) -> tuple[Tensor, Tensor]:
    """The mask of a layer that loses `zeros` weights, and its weights moved to make up for them.

    Single weights and N:M go greedily, the least rise of the error first; other patterns by the scores of their groups.
    Then every row gets the weights of the least error that its mask allows.
    """
    rows = weight.detach().double().flatten(1)
    if grain.name == "weight":
        kept = _greedy(rows, h, zeros).view(weight.shape)
    elif grain.most:
        kept = _per_run(rows, h, grain, weight[0, 0].numel()).view(weight.shape)
    else:
        kept = grain.mask(weight.double().square() / inverse_diagonal(h, weight.shape), zeros)
    each = len(rows) // len(h)
    moved = torch.stack([_solve(rows[r], h[r // each], kept.view(rows.shape)[r]) for r in range(len(rows))])
    return kept, moved.view(weight.shape).to(weight.dtype)


def _greedy(rows: Tensor, h: Tensor, zeros: int) -> Tensor:
    """Which weights stay when the `zeros` cheapest removals of all rows are made."""
    d = rows.shape[1]
    steps = min(d, max(1, -(-zeros // len(rows)) + d) // 2 + 1) if zeros else 0
    orders, rises = _by_group(rows, h, steps, None)
    while steps * len(rows) < zeros:  # only where nearly everything goes
        steps = d
        orders, rises = _by_group(rows, h, steps, None)
    keys = rises.cummax(1).values.flatten()  # in a row, removals come in their order
    first = torch.argsort(keys, stable=True)[:zeros]
    counts = torch.bincount(first // max(steps, 1), minlength=len(rows))
    gone = torch.arange(steps) < counts[:, None]
    return torch.ones_like(rows, dtype=torch.bool).scatter(1, orders, ~gone)


def _per_run(rows: Tensor, h: Tensor, grain: Pattern, taps: int) -> Tensor:
    """Which weights stay when every run of M input channels loses its M - N cheapest, each removal made up for."""
    channel, tap = torch.arange(rows.shape[1]) // taps, torch.arange(rows.shape[1]) % taps
    run = (channel // grain.among) * taps + tap
    lost = grain.among - grain.most
    orders, _ = _by_group(rows, h, rows.shape[1] // grain.among * lost, (run, lost))
    return torch.ones_like(rows, dtype=torch.bool).scatter(1, orders, False)


def _by_group(rows: Tensor, h: Tensor, steps: int, runs: tuple[Tensor, int] | None) -> tuple[Tensor, Tensor]:
    """`removals` for the rows of every group of the layer, so many at a time as memory allows."""
    found = []
    at_once = max(1, _ELEMENTS // rows.shape[1] ** 2)
    for part, inverse in zip(rows.chunk(len(h)), torch.linalg.inv(h), strict=True):
        found += [removals(some, inverse, steps, runs) for some in part.split(at_once)]
    return torch.cat([order for order, _ in found]), torch.cat([rise for _, rise in found])


def removals(rows: Tensor, inverse: Tensor, steps: int, runs: tuple[Tensor, int] | None = None) -> tuple[Tensor, Tensor]:
    """The order in which each row loses weights, and the rise of its error at each, both (rows, steps).

    `runs`: which run each weight belongs to, and how many weights a run may lose.
    """
    count, every = len(rows), torch.arange(len(rows))
    w, left = rows.clone(), inverse.expand(count, -1, -1).clone()
    diagonal = left.diagonal(dim1=1, dim2=2).clone()
    barred = torch.zeros_like(rows, dtype=torch.bool)
    orders, rises = [], []
    for start in range(0, steps, BLOCK):
        moved = rows.new_zeros(count, rows.shape[1], min(BLOCK, steps - start))
        for k in range(moved.shape[2]):
            rise, p = (w.square() / diagonal).masked_fill(barred, float("inf")).min(1)
            column = left[every, p] - (moved[:, :, :k] @ moved[every, p, :k, None]).squeeze(2)
            pivot = column[every, p].unsqueeze(1)
            w = w - w[every, p].unsqueeze(1) / pivot * column
            w[every, p] = 0
            moved[:, :, k] = column / pivot.sqrt()
            diagonal = diagonal - moved[:, :, k].square()
            orders.append(p)
            rises.append(rise)
            barred[every, p] = True
            if runs is not None:
                _bar_full(barred, p, runs, torch.stack(orders, 1))
        left.baddbmm_(moved, moved.transpose(1, 2), alpha=-1)
    none = rows.new_zeros(count, 0)
    return (torch.stack(orders, 1), torch.stack(rises, 1)) if steps else (none.long(), none)


def _bar_full(barred: Tensor, p: Tensor, runs: tuple[Tensor, int], orders: Tensor) -> None:
    """Bar the rest of the run that weight `p` of each row left, where it has lost all it may."""
    run, most = runs
    own = run[p].unsqueeze(1)  # (rows, 1)
    full = (run[orders] == own).sum(1) >= most
    barred |= (run == own) & full.unsqueeze(1)


def _solve(row: Tensor, h: Tensor, kept: Tensor) -> Tensor:
    """The weights of least error with zeros where not kept: w_K + H_KK⁻¹·H_KG·w_G."""
    new = torch.zeros_like(row)
    if bool(kept.any()):
        rest = h[kept][:, ~kept] @ row[~kept]
        factor = torch.linalg.cholesky(h[kept][:, kept])
        new[kept] = row[kept] + torch.cholesky_solve(rest.unsqueeze(1), factor).squeeze(1)
    return new


def _damped(h: Tensor) -> Tensor:
    with at("calibration"):
        if not torch.isfinite(h).all():
            raise DataError("an input of a layer holds NaN or infinity")
    mean = h.diagonal(dim1=1, dim2=2).mean(1).clamp(min=torch.finfo(torch.float).tiny)
    return h + _DAMPING * mean.view(-1, 1, 1) * torch.eye(h.shape[1], dtype=h.dtype)
