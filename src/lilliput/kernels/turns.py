"""Decoding of numbers of two quantizers that take turns, without the native core: csrc/trellis.h in Python, bit for bit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable

from lilliput.kernels.ranges import Cells, Decoder, cells, level

LIMIT, SLOW, SIGN_SLOW = 1000, 16, 18
UNARY, LEVELS, TAPS = 14, 32, 32
STATES, TURNS, BACK = 16, 5, 10


class Trellis:
    """Which of the quantizers is next."""

    def __init__(self) -> None:
        self.state = 0

    @property
    def quantizer(self) -> int:
        """0: even numbers; 1: odd ones and zero."""
        return (self.state & TURNS).bit_count() & 1

    def number(self, k: int) -> int:
        """What a code stands for."""
        return 2 * k - self.quantizer * ((k > 0) - (k < 0))

    def step(self, k: int) -> None:
        """Go on from a code."""
        self.state = (self.state << 1 | ((k & 1) ^ ((self.state & BACK).bit_count() & 1))) & STATES - 1


class Turns:
    """What is learnt about codes; a cell that was never asked is not there yet."""

    def __init__(self) -> None:
        self.cells: dict[Hashable, Cells] = defaultdict(lambda: cells(1, 0))
        self.signs: dict[Hashable, Cells] = defaultdict(lambda: cells(1, 2))
        self.weights: dict[int, list[int]] = defaultdict(lambda: [12 << 10] * 8)
        self.sign_weights = [1 << 14] * 3
        self.mantissa = [cells(256, 2) for _ in range(9)]
        self.low_bits = cells(64, 2)

    def code(self, io: Decoder, view: tuple[int, ...], q: int) -> int:
        """The next code."""
        if not self._step(io, 0, view, q):
            return 0
        tap, around, beside = view[5], view[10], view[11]
        asked = [(self.signs["around", around], 0), (self.signs["beside", tap, beside], 0), (self.signs["sign"], 0)]
        negative = io.mixed(self.sign_weights, asked, LIMIT, SIGN_SLOW)
        found = 1
        while found < UNARY and self._step(io, found, view, q):
            found += 1
        if found == UNARY:
            found += self._rest(io, view, q) - 1
        return -found if negative else found

    def _rest(self, io: Decoder, view: tuple[int, ...], q: int) -> int:
        n, found = 1, 1
        while n < 32 and self._step(io, UNARY - 1 + n, view, q):
            n += 1
        top = min(n - 1, 8)
        for _ in range(top):
            found = found << 1 | io.by(self.mantissa[top], found, LIMIT)
        for place in range(n - 2 - top, -1, -1):
            found = found << 1 | io.by(self.low_bits, place, LIMIT)
        return found

    def _step(self, io: Decoder, step: int, view: tuple[int, ...], q: int) -> int:
        near, wide, kernel, row, both, tap, first, second, left, back, *_ = view
        keys = (
            ("near", step, q, near), ("wide", step, wide), ("kernel", step, kernel, left), ("row", step, row, back),
            ("both", step, both), ("tap", step, q, tap), ("pair", step, first, second), ("alone", step, q),
        )  # fmt: skip
        return io.mixed(self.weights[step], [(self.cells[key], 0) for key in keys], LIMIT, SLOW)


class Trail:
    """The codes before, in the order of a scan."""

    def __init__(self, kernels: int, taps: int) -> None:
        self.taps, self.j, self.run, self.slow = taps, 0, 0, 0
        self.before = [0] * (kernels * taps + 1)
        self.now = list(self.before)
        self.kernels, self.places = [0] * kernels, [0] * taps

    def next_row(self) -> None:
        """Begin another row."""
        self.before, self.now, self.j = self.now, self.before, 0

    def view(self, kernel: int) -> tuple[int, ...]:
        """What the next code may depend on, in the order of `Trail::View`."""
        j, tap = self.j, self.j % self.taps
        left, second, up, higher, back = (
            self._ago(1),
            self._ago(2),
            self._ago(self.taps),
            self._ago(2 * self.taps),
            self.before[j],
        )
        three, after = abs(left) + abs(up) + abs(back), abs(self.before[j + 1])
        beside = _side(left) if tap > 0 else 0
        return (
            fine_level(2 * three + abs(second) + after),
            fine_level(2 * (three + abs(second) + abs(higher) + after + (abs(self.before[j - 1]) if j > 0 else 0))),
            fine_level(self.kernels[kernel] >> 6),
            fine_level(self.run >> 6),
            fine_level(self.kernels[kernel] + self.run + self.slow >> 6),
            min(tap, TAPS - 1),
            level(abs(left) + abs(up)),
            level(self.slow + self.places[tap] >> 5),
            min(abs(left), 3),
            min(abs(back), 3),
            9 * beside + 3 * _side(up) + _side(back),
            3 * (_side(self._ago(3)) if tap > 2 else 0) + beside,
        )

    def add(self, kernel: int, k: int) -> None:
        """Remember a code."""
        tap, m = self.j % self.taps, 256 * min(abs(k), 255)
        self.now[self.j] = max(-255, min(k, 255))
        self.j += 1
        self.run += m - self.run >> 4
        self.slow += m - self.slow >> 7
        self.kernels[kernel] += m - self.kernels[kernel] >> 5
        self.places[tap] += m - self.places[tap] >> 6

    def _ago(self, count: int) -> int:
        return self.now[self.j - count] if self.j >= count else 0


def fine_level(x: int) -> int:
    """A magnitude as one of 32 levels, four an octave."""
    if x < 8:
        return x
    n = x.bit_length()
    return min(4 * (n - 2) + (x >> n - 3 & 3), LEVELS - 1)


def _side(k: int) -> int:
    return 2 if k > 0 else 1 if k < 0 else 0
