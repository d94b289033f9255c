"""How the tensors of a section become bytes. One class is one encoding; registering it is all that a new one needs.

Every encoding sees whole numbers with known bounds: a quantizer's codes, masks of 0 and 1, or, for plain floats, their
bit patterns. What they stand for is not its business (store/tensors).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lilliput.errors import FormatError
from lilliput.registry import Registry

Array = NDArray[np.signedinteger[Any]]


@dataclass(frozen=True)
class Piece:
    """One tensor as an encoding sees it: whole numbers of this shape from `low` to `high`."""

    shape: tuple[int, ...]
    low: int
    high: int

    @property
    def elements(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)

    @property
    def carrier(self) -> np.dtype[np.signedinteger[Any]]:
        """The narrowest signed little-endian type that holds the bounds."""
        width = next(n for n in (1, 2, 4, 8) if -(1 << 8 * n - 1) <= self.low and self.high < 1 << 8 * n - 1)
        return np.dtype(f"<i{width}")

    @property
    def width(self) -> int:
        """Bits of one number counted from `low`; at least one, so that no element is free."""
        return max(1, (self.high - self.low).bit_length())


class Codec:
    """An encoding of sections.

    Round trip. `decode(encode(arrays, pieces), pieces)` gives equal arrays, in the carriers of their pieces. The same
    arrays give the same bytes on every machine.
    Distrust. `decode` may be given any bytes. It raises `FormatError` for whatever `encode` does not write: too few
    bytes, too many, a number outside its bounds. Before it allocates it makes sure that the bytes are enough for the
    elements: in most encodings each element takes a least number of bits; any other must set a bound of its own.
    Parameters. The fields of the class (a dataclass) are stored in the section table and given back to the constructor.
    """

    name: ClassVar[str]

    def encode(self, arrays: Sequence[Array], pieces: Sequence[Piece]) -> bytes:
        """The bytes of these arrays, in order."""
        raise NotImplementedError

    def decode(self, data: bytes | memoryview, pieces: Sequence[Piece]) -> list[Array]:
        """The arrays these bytes hold, writable and of the shapes of their pieces."""
        raise NotImplementedError

    def shares(self, data: bytes | memoryview, pieces: Sequence[Piece]) -> list[int]:
        """How many of the bytes each piece takes; their sum is all of them."""
        raise NotImplementedError


codecs: Registry[type[Codec]] = Registry("section encoding")


@codecs.register("plain")
@dataclass(frozen=True)
class Plain(Codec):
    """Every number in its carrier, little-endian, tensor after tensor: what can be used where it lies.

    costs 8, 16, 32 or 64 bits an element, as its bounds need.

    >>> Plain().encode([np.array([1, -2], "<i2")], [Piece((2,), -300, 300)]).hex(" ", 2)
    '0100 feff'
    """

    name: ClassVar[str] = "plain"

    def encode(self, arrays: Sequence[Array], pieces: Sequence[Piece]) -> bytes:
        """The elements as they are."""
        return b"".join(carried(a, p).tobytes() for a, p in zip(arrays, pieces, strict=True))

    def decode(self, data: bytes | memoryview, pieces: Sequence[Piece]) -> list[Array]:
        """A copy of each tensor's bytes, with its bounds checked."""
        arrays = []
        for part, piece in split(data, self.shares(data, pieces), pieces):
            array = np.frombuffer(part, piece.carrier).copy()
            arrays.append(bounded(array, piece).reshape(piece.shape))
        return arrays

    def shares(self, data: bytes | memoryview, pieces: Sequence[Piece]) -> list[int]:
        """Elements times the width of the carrier."""
        return [piece.elements * piece.carrier.itemsize for piece in pieces]


@codecs.register("bits")
@dataclass(frozen=True)
class Bits(Codec):
    """Numbers of 1 to 32 bits packed without gaps: element i of a tensor is `low` plus bits i·n to (i+1)·n − 1.

    Bit k of a byte is the one worth 2^k. Each tensor begins at a whole byte, and what is left of its last one is zero.
    costs n = ⌈log2(high − low + 1)⌉ bits an element.

    >>> Bits().encode([np.array([-1, 0, 1, 1, -1], "<i1")], [Piece((5,), -1, 1)]).hex(" ")
    'a4 00'
    """

    name: ClassVar[str] = "bits"
    WIDEST: ClassVar[int] = 32
    BLOCK: ClassVar[int] = 1 << 18  # elements unpacked at a time, a multiple of 8

    def encode(self, arrays: Sequence[Array], pieces: Sequence[Piece]) -> bytes:
        """Pack every tensor at the width of its own bounds."""
        return b"".join(self._pack(carried(a, p).ravel(), p) for a, p in zip(arrays, pieces, strict=True))

    def decode(self, data: bytes | memoryview, pieces: Sequence[Piece]) -> list[Array]:
        """Unpack every tensor, and check the bounds and the bits left over."""
        parts = split(data, self.shares(data, pieces), pieces)
        return [self._unpack(part, piece).reshape(piece.shape) for part, piece in parts]

    def shares(self, data: bytes | memoryview, pieces: Sequence[Piece]) -> list[int]:
        """⌈elements · n / 8⌉ bytes a tensor."""
        return [-(-piece.elements * piece.width // 8) for piece in pieces]

    @staticmethod
    def _lane(piece: Piece) -> int:
        """Bytes of the narrowest unsigned integer that holds a number counted from `low`."""
        if piece.width > Bits.WIDEST:
            raise FormatError(
                f"`{piece.low}` to `{piece.high}` takes {piece.width} bits, over {Bits.WIDEST} for packed numbers"
            )
        return next(lane for lane in (1, 2, 4) if piece.width <= 8 * lane)

    def _pack(self, array: Array, piece: Piece) -> bytes:
        blocks, lane = [], self._lane(piece)
        for start in range(0, piece.elements, self.BLOCK):
            above = (array[start : start + self.BLOCK].astype(np.int64) - piece.low).astype(f"<u{lane}")
            bits = np.unpackbits(above.view(np.uint8).reshape(-1, lane), axis=1, bitorder="little")  # (block, 8·lane)
            blocks.append(np.packbits(bits[:, : piece.width], bitorder="little").tobytes())
        return b"".join(blocks)

    def _unpack(self, data: memoryview, piece: Piece) -> Array:
        n, lane, array = piece.width, self._lane(piece), np.empty(piece.elements, piece.carrier)
        for start in range(0, piece.elements, self.BLOCK):
            count = min(self.BLOCK, piece.elements - start)
            packed = np.frombuffer(data[start * n // 8 : -(-(start + count) * n // 8)], np.uint8)
            bits = np.unpackbits(packed, bitorder="little")
            if bits[count * n :].any():
                raise FormatError("the bits left over in the last byte of a tensor must be zero")
            wide = np.zeros((count, 8 * lane), np.uint8)
            wide[:, :n] = bits[: count * n].reshape(count, n)
            above = np.packbits(wide, axis=1, bitorder="little").view(f"<u{lane}")[:, 0]  # (count,)
            if int(above.max()) > piece.high - piece.low:
                raise FormatError(f"a number is {int(above.max()) + piece.low}, above its bound of {piece.high}")
            array[start : start + count] = above.astype(np.int64) + piece.low
        return array


def coder(name: str, params: dict[str, Any]) -> Codec:
    """The encoding of a section. Raises `UnknownName` for a name, and `FormatError` for parameters, that it lacks."""
    made = codecs[name]
    try:
        return made(**params)
    except TypeError:
        raise FormatError(f"encoding `{name}` has no such parameters as `{str(params)[:60]}`") from None


def carried(array: Array, piece: Piece) -> Array:
    """The array in its piece's carrier; a caller that breaks the piece's promise is a programming error."""
    if array.shape != piece.shape or (array.size and not (piece.low <= array.min() and array.max() <= piece.high)):
        raise ValueError(f"an array of shape {array.shape} does not keep the promise of {piece}")
    return array.astype(piece.carrier, copy=False)


def bounded(array: Array, piece: Piece) -> Array:
    if array.size and not (piece.low <= int(array.min()) and int(array.max()) <= piece.high):
        raise FormatError(f"a number lies outside its bounds, {piece.low} to {piece.high}")
    return array


def split(data: bytes | memoryview, shares: Sequence[int], pieces: Sequence[Piece]) -> list[tuple[memoryview, Piece]]:
    """Each piece with its own bytes; lengths that do not add up raise before anything is allocated."""
    if sum(shares) != len(data):
        raise FormatError(f"the tensors of this section take {sum(shares)} bytes, and it has {len(data)}")
    view, start, parts = memoryview(data), 0, []
    for share, piece in zip(shares, pieces, strict=True):
        parts.append((view[start : start + share], piece))
        start += share
    return parts
