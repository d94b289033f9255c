"""Huffman's code, for comparison: what Deep Compression ends with."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from lilliput.errors import FormatError
from lilliput.store.codec import Array, Codec, Piece, bounded, carried, codecs

LONGEST, LENGTH_BITS = 16, 5
NARROW = 12  # bits of numbers that are symbols; wider ones are coded byte by byte
BLOCK = 1 << 20  # bits looked at at a time

Symbols = NDArray[np.int64]


@codecs.register("huffman")
@dataclass(frozen=True)
class Huffman(Codec):
    """A canonical prefix code for each tensor, or for each byte of its numbers where they have over 12 bits.

    For each, 5 bits say how long the code of every symbol is, 0 for one that does not occur, at most 16; then the codes
    follow. Codes of one length are consecutive, in the order of symbols. The first bit is the highest of a byte.
    costs at least a bit a number, and the table.
    Huffman 1952; Han et al. 2016, arXiv:1510.00149.
    """

    name: ClassVar[str] = "huffman"

    def encode(self, arrays: Sequence[Array], pieces: Sequence[Piece]) -> bytes:
        """Every tensor with its own tables, ending at a whole byte; four bytes before it say how many it takes."""
        made = []
        for array, piece in zip(arrays, pieces, strict=True):
            planes = _planes(carried(array, piece).astype(np.int64).ravel(), piece)
            bits = np.concatenate([_encode(plane, size) for plane, size in planes] or [np.zeros(0, np.uint8)])
            data = np.packbits(bits).tobytes()
            made.append(len(data).to_bytes(4, "little") + data)
        return b"".join(made)

    def decode(self, data: bytes | memoryview, pieces: Sequence[Piece]) -> list[Array]:
        """Every tensor's planes, put together and held against its bounds."""
        view, start, arrays = bytes(data), 0, []
        for piece, share in zip(pieces, self.shares(data, pieces), strict=True):
            arrays.append(_decode(view[start + 4 : start + share], piece))
            start += share
        return arrays

    def shares(self, data: bytes | memoryview, pieces: Sequence[Piece]) -> list[int]:
        """What is written before each tensor."""
        view, start, found = bytes(data), 0, []
        for piece in pieces:
            found.append(4 + int.from_bytes(view[start : start + 4], "little"))
            if found[-1] < 4 + piece.elements // 8 or start + found[-1] > len(view):
                raise FormatError(f"a tensor of {piece.elements} elements does not fit into the bytes of this section")
            start += found[-1]
        if start != len(view):
            raise FormatError(f"the tensors of this section take {start} bytes, and it has {len(view)}")
        return found


def _planes(values: Symbols, piece: Piece) -> Iterator[tuple[Symbols, int]]:
    """Streams of symbols, each with the size of its alphabet."""
    if not len(values):
        return
    if piece.width <= NARROW:
        yield values - piece.low, piece.high - piece.low + 1
        return
    raw = values.view(np.uint64) - np.uint64(piece.low & (1 << 64) - 1)
    for place in range(math.ceil(piece.width / 8)):
        yield (raw >> np.uint64(8 * place) & np.uint64(255)).astype(np.int64), 256


def _encode(symbols: Symbols, size: int) -> NDArray[np.uint8]:
    """A table and the codes, as bits."""
    lengths = _lengths(np.bincount(symbols, minlength=size))
    table = (lengths[:, None] >> np.arange(LENGTH_BITS - 1, -1, -1) & 1).astype(np.uint8).ravel()
    words = _codes(lengths)[symbols] << LONGEST - lengths[symbols]  # aligned to the left
    wide = words[:, None] >> np.arange(LONGEST - 1, -1, -1) & 1
    used = np.arange(LONGEST) < lengths[symbols][:, None]
    return np.concatenate([table, wide[used].astype(np.uint8)])


def _lengths(counts: Symbols) -> Symbols:
    """How long each symbol's code is; frequencies are evened out until none is too long."""
    while True:
        lengths = _unlimited(counts)
        if lengths.max() <= LONGEST:
            return lengths
        counts = np.where(counts > 0, counts // 2 + 1, 0)


def _unlimited(counts: Symbols) -> Symbols:
    lengths = np.zeros(len(counts), np.int64)
    heap = [(int(n), int(symbol), [int(symbol)]) for symbol, n in enumerate(counts) if n]
    if len(heap) == 1:
        lengths[heap[0][1]] = 1
    heapq.heapify(heap)
    while len(heap) > 1:
        (n, first, some), (m, _, others) = heapq.heappop(heap), heapq.heappop(heap)
        lengths[some + others] += 1
        heapq.heappush(heap, (n + m, first, some + others))
    return lengths


def _codes(lengths: Symbols) -> Symbols:
    codes, code = np.zeros(len(lengths), np.int64), 0
    for length in range(1, LONGEST + 1):
        code <<= 1
        for symbol in np.flatnonzero(lengths == length):
            codes[symbol] = code
            code += 1
    return codes


def _decode(data: bytes, piece: Piece) -> Array:
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    narrow = piece.width <= NARROW
    values, at = np.zeros(piece.elements, np.uint64), 0
    for place in range(1 if narrow else math.ceil(piece.width / 8)) if piece.elements else ():
        plane, at = _stream(bits, at, piece.high - piece.low + 1 if narrow else 256, piece.elements)
        values |= plane.astype(np.uint64) << np.uint64(8 * place)
    if len(bits) - at >= 8 or bits[at:].any():
        raise FormatError("what is left over in the last of a tensor's bytes must be less than one, and zero")
    if len(values) and int(values.max()) > piece.high - piece.low:
        raise FormatError(f"a number lies outside its bounds, {piece.low} to {piece.high}, so these bytes are no tensors")
    signed = (values + np.uint64(piece.low & (1 << 64) - 1)).view(np.int64)
    return bounded(signed, piece).astype(piece.carrier).reshape(piece.shape)


def _stream(bits: NDArray[np.uint8], at: int, size: int, count: int) -> tuple[Symbols, int]:
    """So many symbols from bit `at` on, and where they end."""
    body = at + LENGTH_BITS * size
    if body + count > len(bits):
        raise FormatError("the bytes of a tensor end before its symbols do")
    lengths = bits[at:body].reshape(size, LENGTH_BITS).astype(np.int64) @ (1 << np.arange(LENGTH_BITS - 1, -1, -1))
    symbol_of, length_of = _table(lengths)
    padded = np.concatenate([bits, np.zeros(LONGEST, np.uint8)])
    found = np.empty(count, np.int64)
    done, at = 0, body
    while done < count:
        window = padded[at : at + BLOCK + LONGEST].astype(np.int64)
        starts = max(len(window) - LONGEST, 0)
        peek = sum(window[i : i + starts] << LONGEST - 1 - i for i in range(LONGEST))
        places = _walk(length_of[peek].tolist() if starts else [], count - done)
        if not places:
            raise FormatError("the bytes of a tensor end before its symbols do")
        found[done : done + len(places)] = symbol_of[peek[places]]  # type: ignore[index]
        done += len(places)
        at += places[-1] + int(length_of[peek[places[-1]]])  # type: ignore[index]
    if at > len(bits):
        raise FormatError("the bytes of a tensor end before its symbols do")
    return found, at


def _walk(steps: list[int], most: int) -> list[int]:
    """From which places codes begin, one after another."""
    places: list[int] = []
    at, end = 0, len(steps)
    while at < end and len(places) < most:
        places.append(at)
        at += steps[at]
    return places


def _table(lengths: Symbols) -> tuple[Symbols, Symbols]:
    """What the next sixteen bits mean. Raises `FormatError` unless the lengths are those of a prefix code without gaps."""
    used = np.flatnonzero(lengths)
    space = int((1 << LONGEST - lengths[used]).sum()) if len(used) and lengths.max() <= LONGEST else 0
    lone = len(used) == 1 and lengths[used[0]] == 1
    if space != 1 << LONGEST and not lone:
        raise FormatError("the lengths of a tensor's codes leave room or overlap, so these bytes are no tensors")
    order = used[np.argsort(lengths[used], kind="stable")]
    widths = 1 << LONGEST - lengths[order]
    symbol_of, length_of = np.repeat(order, widths), np.repeat(lengths[order], widths)
    if lone:  # the other half of the room stands for nothing; it is read as the symbol, whose bits are then not zero
        symbol_of, length_of = np.tile(symbol_of, 2), np.tile(length_of, 2)
    return symbol_of, length_of
