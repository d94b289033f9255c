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
WIDEST_STEPS = 15
_PATTERNS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Stored:
    """A tensor to be stored, with the bounds of its whole numbers if it holds such, or such times a step."""

    tensor: Tensor
    bounds: tuple[int, int] | None = None
    step: float | None = None

    @property
    def dtype(self) -> str:
        """The name of its type in the file."""
        return _NAMES[self.tensor.dtype]

    def entry(self, name: str) -> Entry:
        """Its row in the tensor table."""
        return Entry(name, tuple(self.tensor.shape), self.bounds, self.step)

    def array(self) -> Array:
        """Its whole numbers, or its bit patterns as signed integers."""
        tensor = self.tensor.contiguous()
        if self.step is not None:
            numbers = (tensor.double() / self.step).round().to(torch.int32)
        elif self.bounds is None:
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
    made = numbers.to(_TYPES[dtype])
    return made if entry.step is None else made * torch.tensor(entry.step, dtype=torch.float32)


def stepped(held: Stored) -> Stored:
    """The same tensor as whole numbers times a step, where it is that: the step divides every element exactly.

    The step is the greatest common divisor of the float32 elements, which are whole numbers times a power of two. It pays
    where it leaves numbers of at most 16 bits.
    """
    tensor = held.tensor
    if held.bounds is not None or tensor.dtype != torch.float32 or not tensor.numel():
        return held
    step = next((s for s in [_divisor(tensor.reshape(-1)[:4096])] if s), None) and _divisor(tensor)
    if not step:
        return held
    made = Stored(tensor, (int((tensor.min() / step).round()), int((tensor.max() / step).round())), step)
    again = torch.from_numpy(made.array()).float() * torch.tensor(step, dtype=torch.float32)
    return made if same(again.reshape(tensor.shape), tensor) else held


def _divisor(tensor: Tensor) -> float | None:
    """The greatest step that divides all elements, if they are at most 2^15 of it and some are not zero."""
    values = tensor.reshape(-1).numpy()
    if not np.isfinite(values).all():  # before the cast, which signals some not-a-numbers
        return None
    mantissa, exponent = np.frexp(values.astype(np.float64))  # x = m·2^e with 1/2 <= |m| < 1
    used = mantissa != 0
    if not used.any() or not -60 < exponent[used].min() <= exponent[used].max() < 60:
        return None
    lowest = int(exponent[used].min())
    if int(exponent[used].max()) - lowest > WIDEST_STEPS:
        return None
    whole = np.ldexp(mantissa[used], exponent[used] - lowest + 24).astype(np.int64)  # exact: 24 bits, shifted by at most 15
    common = int(np.gcd.reduce(whole))
    if int(np.abs(whole).max()) // common > 1 << WIDEST_STEPS:
        return None
    return float(np.ldexp(float(common), lowest - 24))


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
