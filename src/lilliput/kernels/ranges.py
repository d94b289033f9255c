"""Adaptive binary range decoding without the native core: csrc/coder.h in Python, bit for bit and some hundred times slower."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

ONE = 1 << 16
LEAST = 1 << 5
NARROW = 1 << 32
WORD = NARROW - 1
HEAVIEST = 1 << 20
MAGNITUDES = 16

Cells = list[int]


class TooFewBytes(Exception):
    """The bytes end before what they stand for."""


@cache
def rates() -> Cells:
    """2^16 / (n + 1.5): how far a cell moves that has learnt n times."""
    return [(1 << 17) // (2 * n + 3) for n in range(1024)]


@cache
def squashed() -> Cells:
    """The probability in 2^-16 that belongs to (i − 2048) / 256, by a power of e^(−1/256) in 2^-32 after another."""
    table, falling = [0] * 4096, 1 << 32
    for x in range(2048):
        table[2048 + x] = min((1 << 48) // ((1 << 32) + falling), ONE - LEAST)
        table[2048 - x] = ONE - table[2048 + x] if x else table[2048]
        falling = falling * 4278222805 >> 32
    table[0] = table[1]
    return table


@cache
def stretched() -> Cells:
    """The inverse: for p in 2^-12, the first x whose probability is at least p."""
    table, x, squash = [], -2047, squashed()
    for p in range(4096):
        while x < 2047 and squash[x + 2048] < (p << 4) + 8:
            x += 1
        table.append(x)
    return table


def cells(number: int, count: int) -> Cells:
    """Cells that hold one half and have learnt `count` times."""
    return [(ONE // 2) << 16 | count] * number


def level(x: int) -> int:
    """A magnitude as one of sixteen levels, two an octave."""
    if x < 3:
        return x
    n = x.bit_length()
    return min(2 * n - 2 + (x >> n - 2 & 1), MAGNITUDES - 1)


class Decoder:
    """Bits out of bytes, given how probable each is. `at` is where it stands, less the four bytes the end does not need."""

    def __init__(self, data: bytes) -> None:
        self.data, self.size = data, len(data)
        self.code, self.range = int.from_bytes(data[:8].ljust(8, b"\0")), (1 << 64) - 1
        self.at = 4

    def bit(self, p: int) -> int:
        """The next bit, where p is the probability of a one in 2^-16."""
        bound = (self.range >> 16) * p
        if self.code < bound:
            self.range, bit = bound, 1
        else:
            self.range, self.code, bit = self.range - bound, self.code - bound, 0
        if self.range < NARROW:
            self._widen()
        return bit

    def _widen(self) -> None:
        start = self.at + 4
        self.code = self.code << 32 | int.from_bytes(self.data[start : start + 4].ljust(4, b"\0"))
        self.range <<= 32
        self.at += 4
        if self.at > self.size:
            raise TooFewBytes

    def plain(self, bits: int) -> int:
        """A whole number of so many bits."""
        found = 0
        for _ in range(bits):
            found = found << 1 | self.bit(ONE // 2)
        return found

    def by(self, table: Cells, place: int, limit: int) -> int:
        """A bit by one cell, which learns from it."""
        cell = table[place]
        bit = self.bit(min(max(cell >> 16, LEAST), ONE - LEAST))
        table[place] = _learnt(cell, bit, limit)
        return bit

    def mixed(self, weights: Cells, chosen: Sequence[tuple[Cells, int]], limit: int, slow: int) -> int:
        """A bit by several cells: p = squash(Σ w·stretch(p_i)); the weights follow the error, and the cells learn."""
        opinions = [stretched()[table[place] >> 20] for table, place in chosen]
        dot = sum(o * (w >> 2) >> 14 for o, w in zip(opinions, weights, strict=True))
        p = squashed()[min(max(dot, -2047), 2047) + 2048]
        bit = self.bit(p)
        error = (65535 if bit else 0) - p
        for i, (opinion, (table, place)) in enumerate(zip(opinions, chosen, strict=True)):
            moved = weights[i] + (opinion * error + (1 << (slow - 1)) >> slow)
            weights[i] = min(max(moved, -HEAVIEST), HEAVIEST)
            table[place] = _learnt(table[place], bit, limit)
        return bit


def _learnt(cell: int, bit: int, limit: int) -> int:
    n, p = cell & 1023, cell >> 10
    moved = p + ((((1 << 22) - 1 if bit else 0) - p) * rates()[n] >> 16)
    return moved << 10 | (n + 1 if n < limit else n)
