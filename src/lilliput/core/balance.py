"""Grouped convolutions shrink evenly: which channels leave a layer together so that its groups stay equally wide."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lilliput.core.names import Names

Kind = tuple[int, ...]  # how often a name stands in each group, beyond the least


def balance(names: Names, blocks: Tensor, why: str) -> None:
    """Join names until every name stands equally often in each row of `blocks`, (groups, channels of a group).

    Any channels may leave a group as long as each group loses as many, so names are joined into small balanced sets, in the
    order of their places. Joining balanced sets keeps them balanced: one pass a layer is enough. Names that stay anyway
    are left alone; a rest that cannot be balanced is pinned.
    """
    waiting = _by_kind(names, blocks)
    while waiting:
        first = next(iter(waiting))
        alike = {k: v for k, v in waiting.items() if sorted(k) == sorted(first)}  # what straddles goes with what straddles
        chosen = _complete(first, alike) or _complete(first, waiting)
        if chosen is None:
            names.pin(torch.tensor([name for members in waiting.values() for name in members]), why)
            return
        members = torch.tensor([waiting[kind].pop(0) for kind in chosen])
        names.join(members[:1], members)
        waiting = {kind: rest for kind, rest in waiting.items() if rest}


def _complete(first: Kind, waiting: dict[Kind, list[int]]) -> list[Kind] | None:
    """Kinds that together stand equally often in every row, `first` among them; each is used as often as it has names."""
    left = {kind: len(members) for kind, members in waiting.items()}
    left[first] -= 1
    chosen, total = [first], list(first)
    while len(set(total)) > 1:
        open_kinds = [kind for kind, count in left.items() if count]
        if not open_kinds:
            return None
        best = min(open_kinds, key=lambda kind: _spread([a + b for a, b in zip(total, kind, strict=True)]))
        chosen.append(best)
        left[best] -= 1
        total = [a + b for a, b in zip(total, best, strict=True)]
    return chosen


def _by_kind(names: Names, blocks: Tensor) -> dict[Kind, list[int]]:
    """The names that stand unequally often in the rows, by how often they stand in each, in the order of their places."""
    roots, stays = names.roots(blocks), names.pinned()
    every, where = torch.unique(roots, return_inverse=True)
    counts = torch.stack([torch.bincount(row, minlength=len(every)) for row in where], 1)  # (names, groups)
    place = torch.full((len(every),), blocks.shape[1]).scatter_reduce_(
        0, where.flatten(), torch.arange(blocks.shape[1]).repeat(len(blocks)), "amin"
    )
    kinds: dict[Kind, list[int]] = {}
    for i in torch.argsort(place, stable=True).tolist():
        root, kind = int(every[i]), tuple(counts[i].tolist())
        if root and root not in stays and len(set(kind)) > 1:
            kinds.setdefault(tuple(n - min(kind) for n in kind), []).append(root)
    return kinds


def _spread(counts: Sequence[int]) -> int:
    """How far counts are from being equal; 0 where they are."""
    return len(counts) * sum(n * n for n in counts) - sum(counts) ** 2
