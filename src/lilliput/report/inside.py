"""What only the networks and their files can tell: weights, ranks, kernels and their times, and where the bytes go.

A run writes it into `details.json` when it ends, so that a report can be made again from its folder alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lilliput.core.layers import Mapped
from lilliput.factor.chain import Chain
from lilliput.store import account

BINS = 64
Networks = Mapping[str, tuple[nn.Module, Path]]


def inside(networks: Networks, example: Tensor, threads: int = 1) -> dict[str, Any]:
    """Of each network, by its side (`baseline`, `compressed`): what stands in it, in plain JSON values.

    A network comes with its `.onnx`; a `.lil` of the same name beside it is accounted for. `weights`, `ranks` and `times`
    are by layer (ranks only where one of the networks has factors), `contents` by kind of byte.
    """
    factors = any(isinstance(module, Chain) for model, _ in networks.values() for module in model.modules())
    return {
        "weights": {side: weights(model) for side, (model, _) in networks.items()},
        "ranks": {side: ranks(model) if factors else {} for side, (model, _) in networks.items()},
        "times": {side: times(path, example, threads) for side, (_, path) in networks.items()},
        "contents": {side: contents(path.with_suffix(".lil")) for side, (_, path) in networks.items()},
    }


def answers(before: Tensor, after: Tensor) -> dict[str, int]:
    """How many answers became wrong and how many right, from both networks' hits on the same images, (n,)."""
    if before.shape != after.shape:
        return {}
    return {"total": len(before), "lost": int((before & ~after).sum()), "gained": int((after & ~before).sum())}


def weights(model: nn.Module) -> dict[str, dict[str, Any]]:
    """A histogram of every weight of at least two dimensions as its layer uses it, through masks and quantizers."""
    with torch.no_grad():
        return {name: histogram(weight) for name, weight in _weights(model).items() if not weight.is_meta}


def histogram(weight: Tensor) -> dict[str, Any]:
    """Counts of what is not zero, in `BINS` equal bins from -edge to edge, edge being the largest magnitude.

    >>> histogram(torch.tensor([0.0, -1.0, 0.5, 1.0]))["counts"][-1]
    1
    """
    values = weight.detach().cpu().double().flatten()
    other = values[values.isfinite() & (values != 0)]
    edge = float(other.abs().max()) if len(other) else 0.0
    places = ((other / (edge or 1.0) + 1) * (BINS / 2)).long().clamp(0, BINS - 1)
    counts = torch.bincount(places, minlength=BINS).tolist() if edge else []
    return {"elements": values.numel(), "zeros": int((values == 0).sum()), "edge": edge, "counts": counts}


def ranks(model: nn.Module) -> dict[str, int]:
    """The most that the rank of each layer's matrix, outputs by inputs, can be.

    Of a dense layer the smaller of its sides, of a chain of factors the width of its narrowest point.
    """
    chains = {name: module for name, module in model.named_modules() if isinstance(module, Chain)}
    links = tuple(f"{name}." for name in chains)
    dense = {n: min(len(w), w.numel() // len(w)) for n, w in _weights(model).items() if len(w) and not n.startswith(links)}
    return {**dense, **{name: min(len(link.weight) for link in chain.chain) for name, chain in chains.items()}}


def times(path: Path, example: Tensor, threads: int) -> dict[str, Any]:
    """Milliseconds of every layer of the file as ONNX Runtime runs it, whose kernel that is, and of everything else."""
    from lilliput.export.running import running

    found, other = running(path, example, threads)
    layers: dict[str, dict[str, Any]] = {}
    for each in found:
        row = layers.setdefault(each.name, {"ms": 0.0, "kernel": f"{each.kernel} ({each.runner})"})
        row["ms"] += each.median_ms
    return {"layers": layers, "other": other}


def contents(path: Path) -> dict[str, int]:
    """Bytes of a `.lil` by kind, none left over; nothing where there is no such file."""
    found: Counter[str] = Counter()
    for row in account(path) if path.is_file() else ():
        found[row.kind] += row.bytes
    return dict(found)


def _weights(model: nn.Module) -> dict[str, Tensor]:
    found = {}
    for name, module in model.named_modules():
        weight = module.mapped_weight() if isinstance(module, Mapped) else module._parameters.get("weight")
        if isinstance(weight, Tensor) and weight.dim() > 1:
            found[name] = weight
    return found
