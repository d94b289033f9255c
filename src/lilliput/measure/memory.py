"""Peak activation memory: which storages are alive while a network runs.

A storage is alive from the operation that makes it until the last tensor on it is gone, which Python and PyTorch decide
between them: whatever the network's own code still refers to stays. Views and in-place operations make no storage.
Weights and buffers are not activations; the input is one, and lives throughout, because the caller holds it. Scratch
memory inside an operation is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable

import torch
from torch import Tensor

_Key = int


def key(tensor: Tensor) -> _Key:
    """Which storage a tensor lies on; valid while that storage lives."""
    return int(tensor.untyped_storage()._cdata)


def has_storage(tensor: Tensor) -> bool:
    """Sparse and opaque tensors have no storage to watch."""
    return tensor.layout is torch.strided


class Keys:
    """A set of storages that forgets those that die, so that an address used again is not mistaken for them."""

    def __init__(self, tensors: Iterable[Tensor] = ()) -> None:
        self._refs: dict[_Key, weakref.ref[torch.UntypedStorage]] = {}
        for tensor in tensors:
            self.add(tensor)

    def add(self, tensor: Tensor) -> None:
        k = key(tensor)
        self._refs[k] = weakref.ref(tensor.untyped_storage(), lambda _: self._refs.pop(k, None))

    def __contains__(self, tensor: Tensor) -> bool:
        return has_storage(tensor) and key(tensor) in self._refs


class Live:
    """Bytes alive now and at most."""

    def __init__(self) -> None:
        self.now = self.peak = 0
        self._sizes: dict[_Key, int] = {}
        self._refs: dict[_Key, weakref.ref[torch.UntypedStorage]] = {}

    def hold(self, tensor: Tensor) -> None:
        """Count a tensor that somebody else keeps: only its own bytes, as it may be a slice of a whole data set."""
        self._grow(tensor.numel() * tensor.element_size())

    def add(self, tensor: Tensor) -> None:
        """Count the tensor's storage until it dies; one that is counted already may have been resized."""
        storage, k = tensor.untyped_storage(), key(tensor)
        if k not in self._refs:
            self._refs[k] = weakref.ref(storage, lambda _: self._drop(k))
        grown = storage.nbytes() - self._sizes.get(k, 0)
        self._sizes[k] = storage.nbytes()
        self._grow(grown)

    def __contains__(self, tensor: Tensor) -> bool:
        return key(tensor) in self._refs

    def _grow(self, size: int) -> None:
        self.now += size
        self.peak = max(self.peak, self.now)

    def _drop(self, k: _Key) -> None:
        self._refs.pop(k, None)
        self.now -= self._sizes.pop(k, 0)
