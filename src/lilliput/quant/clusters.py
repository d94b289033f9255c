"""K-means: on a line exactly and fast by sorting, and for vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from lilliput.errors import EditError

STARTS = ("linear", "density", "random")


def line(values: Tensor, count: int, start: str = "linear", seed: int = 0, rounds: int = 100) -> Tensor:
    """`count` centroids of numbers, ascending: Lloyd's rounds from a start until nothing moves; a cluster that empties stays.

    start: linear (evenly between the ends), density (evenly in the distribution) or random (numbers drawn by the seed).
    """
    ascending = values.detach().flatten().double().sort().values
    if len(ascending) < count:
        raise EditError(f"there are {len(ascending)} weights to share `{count}` values; take at most {len(ascending)}")
    centroids = _start(ascending, count, start, seed)
    sums = torch.cat([ascending.new_zeros(1), ascending.cumsum(0)])
    for _ in range(rounds):
        inner = torch.searchsorted(ascending, (centroids[1:] + centroids[:-1]) / 2)
        edges = torch.cat([inner.new_zeros(1), inner, inner.new_full((1,), len(ascending))])
        sizes = edges.diff()
        means = (sums[edges[1:]] - sums[edges[:-1]]) / sizes.clamp(min=1)
        moved = torch.where(sizes > 0, means, centroids)
        if torch.equal(moved, centroids):
            break
        centroids = moved
    return centroids.to(values.dtype)


def vectors(points: Tensor, count: int, seed: int = 0, rounds: int = 25) -> Tensor:
    """`count` centroids of the rows of `points`, from rows drawn by the seed; a cluster that empties stays."""
    if len(points) < count:
        raise EditError(f"there are {len(points)} vectors to share `{count}`; take at most {len(points)}")
    points = points.detach()
    centroids = points[_draw(len(points), count, seed).to(points.device)].clone()
    for _ in range(rounds):
        owners = nearest(points, centroids)
        sizes = torch.bincount(owners, minlength=count)[:, None]
        means = torch.zeros_like(centroids).index_add_(0, owners, points) / sizes.clamp(min=1)
        moved = torch.where(sizes > 0, means, centroids)
        if torch.equal(moved, centroids):
            break
        centroids = moved
    return centroids


def nearest(points: Tensor, centroids: Tensor) -> Tensor:
    """The nearest row of `centroids` to each row. Distances are summed, not expanded, so that a centroid finds itself."""
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cat([torch.cdist(part, centroids, compute_mode=exact).argmin(1) for part in points.split(1 << 14)])


def _start(ascending: Tensor, count: int, start: str, seed: int) -> Tensor:
    if start not in STARTS:
        raise EditError(f"`start` (={start}) is one of {', '.join(STARTS)}")
    if start == "linear":
        return torch.linspace(float(ascending[0]), float(ascending[-1]), count, dtype=ascending.dtype, device=ascending.device)
    if start == "density":
        places = (torch.arange(count, device=ascending.device) + 0.5) / count * len(ascending)
        return ascending[places.long()]
    return ascending[_draw(len(ascending), count, seed).to(ascending.device)].sort().values


def _draw(length: int, count: int, seed: int) -> Tensor:
    """Different places, by a seed of their own."""
    return torch.randperm(length, generator=torch.Generator().manual_seed(seed))[:count]
