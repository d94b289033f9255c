"""Names of channels, and which of them are one: a union-find over integers, whole tensors at a time.

Name 0 means "no channel of anybody": constants, inputs, and whatever stays when channels go.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Names:
    """Integers that can be declared equal (`join`) or untouchable (`pin`)."""

    def __init__(self) -> None:
        self._parent = torch.zeros(1, dtype=torch.long)
        self.reasons: dict[int, str] = {}

    @property
    def count(self) -> int:
        """How many names there are, name 0 included."""
        return len(self._parent)

    def fresh(self, count: int) -> Tensor:
        """`count` new names, (count,)."""
        start = len(self._parent)
        new = torch.arange(start, start + count)
        self._parent = torch.cat([self._parent, new])
        return new

    def roots(self, names: Tensor) -> Tensor:
        """The representative of each name."""
        found: Tensor = self._parent[names]
        while True:
            above = self._parent[found]
            if torch.equal(above, found):
                return found
            found = above

    def join(self, first: Tensor, second: Tensor) -> None:
        """Declare names equal, position by position (shapes broadcast). Name 0 constrains nothing."""
        a, b = torch.broadcast_tensors(*(thin(t) for t in (first, second)))
        a, b = self.roots(a.reshape(-1)), self.roots(b.reshape(-1))
        while (odd := (a != b) & (a != 0) & (b != 0)).any():
            low, high = torch.minimum(a[odd], b[odd]), torch.maximum(a[odd], b[odd])
            # Of several wishes for one name the smallest is granted; what that leaves open the next round finds.
            self._parent.scatter_reduce_(0, high, low, "amin")
            self._shorten()
            a, b = self._parent[low], self._parent[high]

    def _shorten(self) -> None:
        """Point every name at its representative, so that chains never grow."""
        while not torch.equal(above := self._parent[self._parent], self._parent):
            self._parent = above

    def join_along(self, names: Tensor, dim: int) -> None:
        """Declare equal all names that differ only in their index on `dim`."""
        if names.shape[dim] > 1:
            self.join(names.narrow(dim, 0, 1), names)
            # A zero in front would hide the others from each other, so neighbours are joined as well.
            self.join(names.narrow(dim, 0, names.shape[dim] - 1), names.narrow(dim, 1, names.shape[dim] - 1))

    def pin(self, names: Tensor, reason: str) -> None:
        """Declare that these names must stay, and why. The first reason is kept."""
        for root in torch.unique(self.roots(thin(names).reshape(-1))).tolist():
            if root:
                self.reasons.setdefault(root, reason)

    def pinned(self) -> dict[int, str]:
        """The representatives of all names that must stay, with the first reason given."""
        roots = self.roots(torch.tensor(list(self.reasons), dtype=torch.long)).tolist()
        found: dict[int, str] = {}
        for root, reason in zip(roots, self.reasons.values(), strict=True):
            found.setdefault(root, reason)
        return found


def thin(names: Tensor) -> Tensor:
    """The same names without the copies that expanding made (dimensions of stride 0), broadcast-compatible."""
    for dim, stride in enumerate(names.stride()):
        if stride == 0 and names.shape[dim] > 1:
            names = names.narrow(dim, 0, 1)
    return names


def varies(names: Tensor, dim: int) -> bool:
    """Whether names differ along a dimension."""
    if names.shape[dim] <= 1 or names.stride(dim) == 0:
        return False
    seen = thin(names)
    return bool((seen != seen.narrow(dim, 0, 1)).any())


def spread(vector: Tensor, shape: torch.Size, dim: int) -> Tensor:
    """One name an index of `dim`, expanded to `shape` without memory."""
    view = [1] * len(shape)
    view[dim] = -1
    return vector.view(view).expand(shape)
