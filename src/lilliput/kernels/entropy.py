"""Whole numbers and text in few bytes: written by the native core, read by it or, slowly, by Python."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from lilliput.errors import FormatError, WorkError
from lilliput.kernels.numbers import Array, BadKind, Layout, OutOfBounds, Reader
from lilliput.kernels.patterns import Patterns, text
from lilliput.kernels.ranges import Decoder, TooFewBytes

PER_BYTE = 4096  # no section has more numbers than this for each of its bytes
SLOW = 1 << 16  # numbers from which on it is said that Python reads them

_FEW, _MANY = "the bytes end before the tensors do", "bytes follow the last tensor"
_STATUS = {
    1: _FEW,
    2: _MANY,
    3: "a number lies outside its bounds, so these bytes are no tensors",
    4: "a tensor is coded in a way there is not, so these bytes are no tensors",
}


def encode(native: Any, layouts: Sequence[Layout], arrays: Sequence[Array]) -> bytes:
    """The bytes of arrays that keep their bounds. Raises `WorkError` without the native core."""
    made: bytes = _needed(native).encode([tuple(each) for each in layouts], [_raw(a) for a in arrays])
    return made


def encode_text(native: Any, plain: bytes) -> bytes:
    """The bytes of a text. Raises `WorkError` without the native core."""
    made: bytes = _needed(native).encode_text(plain)
    return made


def decode(native: Any, data: bytes, layouts: Sequence[Layout]) -> tuple[list[Array], list[int]]:
    """The arrays, and how many bytes had been read after each. Raises `FormatError` for bytes that `encode` does not write."""
    numbers = sum(each.numbers for each in layouts)
    least = -(-numbers // PER_BYTE)
    if len(data) < max(least, 4):  # before anything is allocated
        raise FormatError(f"{_FEW}: {numbers} numbers take at least {max(least, 4)} bytes, and there are {len(data)}")
    arrays: list[Array] = [np.zeros(each.numbers, f"=i{each.width}") for each in layouts]
    if native is not None:
        status, ends = native.decode(data, [tuple(each) for each in layouts], [_raw(a) for a in arrays])
        _check(status)
        return arrays, list(ends)
    _say_once(numbers)
    return arrays, _decode(data, layouts, arrays, least)


def decode_text(native: Any, data: bytes, length: int) -> bytes:
    """A text of this length. Raises `FormatError` for bytes that `encode_text` does not write."""
    if native is not None:
        status, found = native.decode_text(data, length)
        _check(status)
        return bytes(found)
    _say_once(8 * length)
    try:
        io, found = text(data, length)
    except TooFewBytes:
        raise FormatError(_FEW) from None
    _check_rest(data, io, 0)
    return found


def _decode(data: bytes, layouts: Sequence[Layout], arrays: Sequence[Array], least: int) -> list[int]:
    io = Decoder(data)
    readers = Reader(io), Patterns(io)
    ends = []
    try:
        for layout, array in zip(layouts, arrays, strict=True):
            if layout.numbers:
                readers[layout.patterns].read(layout, array)
            ends.append(min(io.at, len(data)))
    except TooFewBytes:
        raise FormatError(_FEW) from None
    except OutOfBounds:
        raise FormatError(_STATUS[3]) from None
    except BadKind:
        raise FormatError(_STATUS[4]) from None
    _check_rest(data, io, least)
    return ends


def _check_rest(data: bytes, io: Decoder, least: int) -> None:
    if io.at > len(data):
        raise FormatError(_FEW)
    if io.at < len(data) and (len(data) != least or any(data[io.at :])):
        raise FormatError(_MANY)


def _check(status: int) -> None:
    if status == 5:
        raise MemoryError
    if status:
        raise FormatError(_STATUS.get(status, "these bytes are no tensors"))


def _raw(array: Array) -> Any:
    return array.reshape(-1).view(np.uint8)


def _needed(native: Any) -> Any:
    if native is None:
        raise WorkError(
            "the context coder writes with the native core, and it was not built here (no C++ compiler at install). "
            'Install with one, or save with coder="plain"'
        )
    return native


_said: list[bool] = []


def _say_once(numbers: int) -> None:
    if numbers >= SLOW and not _said:
        _said.append(True)
        warnings.warn("the native core was not built, so Python decodes this file: some hundred times slower", stacklevel=2)
