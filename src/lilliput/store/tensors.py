"""Tensors as whole numbers and back: codes and masks by their values, everything else by its bit patterns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from lilliput.errors import FormatError, ModelError
from lilliput.store.codec import Array, Piece
from lilliput.store.header import DTYPES, Entry

_TYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPES}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}
_PATTERNS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Stored:
    """A tensor to be stored, with the bounds of its whole numbers if it holds such."""

    tensor: Tensor
    bounds: tuple[int, int] | None = None

    @property
    def dtype(self) -> str:
        """The name of its type in the file."""
        return _NAMES[self.tensor.dtype]

    def entry(self, name: str) -> Entry:
        """Its row in the tensor table."""
        return Entry(name, tuple(self.tensor.shape), self.bounds)

    def array(self) -> Array:
        """Its whole numbers, or its bit patterns as signed integers."""
        tensor = self.tensor.contiguous()
        if self.bounds is None:
            numbers = _view(tensor, _PATTERNS[tensor.element_size()])
        else:
            numbers = tensor if not (tensor.is_floating_point() or tensor.dtype == torch.bool) else tensor.to(torch.int8)
        array: Array = numbers.numpy()
        return array


def stored(name: str, tensor: Tensor) -> Stored:
    """A tensor as it will be stored: one of only zeros and ones as one bit an element, every other as its patterns.

    Raises `ModelError` for a tensor that the format has no place for.
    """
    if is_lazy(tensor):
        raise ModelError(f"{name}: this tensor has no shape yet; run the network once on an example")
    if tensor.is_meta or tensor.layout != torch.strided or tensor.dtype not in _NAMES:
        kind = "has no numbers (it is on the meta device)" if tensor.is_meta else f"is {tensor.dtype}, {tensor.layout}"
        raise ModelError(f"{name}: this tensor {kind}; a .lil file holds dense tensors of {', '.join(DTYPES)}")
    plain = tensor.detach().cpu().contiguous()
    return Stored(plain, (0, 1) if _is_flags(plain) else None)


def piece(entry: Entry, dtype: str) -> Piece:
    """The tensor as its encoding sees it."""
    bits = 8 * DTYPES[dtype]
    low, high = entry.bounds or (-(1 << bits - 1), (1 << bits - 1) - 1)
    return Piece(entry.shape, low, high)


def tensor(array: Array, entry: Entry, dtype: str) -> Tensor:
    """The tensor that an array stands for; the inverse of `Stored.array`."""
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    numbers = torch.from_numpy(np.require(native, requirements=["C", "W"]))
    if entry.bounds is None:
        return _view(numbers, _TYPES[dtype])
    return numbers.to(_TYPES[dtype])


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are one in type, shape and every bit."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    pattern = _PATTERNS[a.element_size()]
    return torch.equal(_view(a.contiguous(), pattern), _view(b.contiguous(), pattern))


def check_kind(name: str, found: Tensor, wanted: Tensor) -> None:
    """Raise `FormatError` where a whole number stands for a real one, or the other way round."""
    if found.is_floating_point() != wanted.is_floating_point():
        raise FormatError(f"{name}: the file has {found.dtype} where the model has {wanted.dtype}")


def _is_flags(tensor: Tensor) -> bool:
    """Zeros and ones only, and no negative zero among them."""
    if tensor.dtype == torch.bool:
        return True
    ones = tensor == 1
    return tensor.numel() > 0 and bool((ones | (tensor == 0)).all()) and same(tensor, ones.to(tensor.dtype))


def _view(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Bit patterns read as another type of the same size; a lone number has no dimension to view, so it gets one."""
    return tensor.reshape(tensor.shape or (1,)).view(dtype).reshape(tensor.shape)
