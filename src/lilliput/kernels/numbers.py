"""Decoding of whole numbers without the native core: csrc/numbers.h in Python, bit for bit."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lilliput.kernels.ordered import BITS as ORDERED_BITS
from lilliput.kernels.ordered import Distances, Ordered
from lilliput.kernels.ranges import MAGNITUDES as LEVELS
from lilliput.kernels.ranges import Decoder, cells, level
from lilliput.kernels.turns import Trail, Trellis, Turns

LIMIT, SLOW, STEPS = 1000, 18, 68
MIXED, DENSE, INDEX, SPARSE_INDEX, PATTERNS, TURNS, ORDERED, LINES = range(8)
KIND_BITS, INDEX_BITS = 3, 12

Array = NDArray[np.signedinteger[Any]]


class OutOfBounds(Exception):
    """A number that its bounds exclude."""


class BadKind(Exception):
    """A way of coding that there is not, or that does not fit the tensor."""


class Layout(NamedTuple):
    """One tensor: rows of kernels of taps, each number from `low` to `high` in `width` bytes, maybe bit patterns."""

    rows: int
    kernels: int
    taps: int
    low: int
    high: int
    width: int
    patterns: int

    @property
    def numbers(self) -> int:
        """How many numbers."""
        return self.rows * self.kernels * self.taps


class Numbers:
    """What is learnt about numbers; the tensors of a section share it."""

    def __init__(self) -> None:
        self.near = [cells(LEVELS, 0) for _ in range(STEPS)]
        self.kernel = [cells(LEVELS * 4, 0) for _ in range(STEPS)]
        self.row = [cells(LEVELS * 4, 0) for _ in range(STEPS)]
        self.alone = cells(STEPS, 0)
        self.weights = [[5 << 12] * 4 for _ in range(STEPS)]
        self.sign = cells(1, 2)
        self.length = [cells(128, 0) for _ in range(LEVELS)]
        self.mantissa = [[cells(256, 2) for _ in range(9)] for _ in range(2)]
        self.low_bits = cells(64, 2)
        self.index = cells(1 << INDEX_BITS, 2)


class Past:
    """Magnitudes of what was decoded before."""

    def __init__(self, layout: Layout) -> None:
        self.taps, self.j, self.run = layout.taps, 0, 0
        self.before = [0] * (layout.kernels * layout.taps + 1)
        self.now = list(self.before)
        self.kernels = [0] * layout.kernels

    def next_row(self) -> None:
        """Begin another row."""
        self.before, self.now, self.j = self.now, self.before, 0

    def view(self, kernel: int) -> tuple[int, int, int]:
        """Which cells the next number looks at: by its neighbours, by its kernel's past, and by its row's."""
        j, now = self.j, self.now
        left, second = now[j - 1] if j > 0 else 0, now[j - 2] if j > 1 else 0
        up, back = now[j - self.taps] if j >= self.taps else 0, self.before[j]
        near = level(2 * (left + up + back) + second + self.before[j + 1])
        return near, level(self.kernels[kernel] >> 4) * 4 + min(left, 3), level(self.run >> 5) * 4 + min(back, 3)

    def add(self, kernel: int, magnitude: int) -> None:
        """Remember a magnitude."""
        m = min(magnitude, 255)
        self.now[self.j] = m
        self.j += 1
        self.run += 256 * m - self.run >> 4
        self.kernels[kernel] += 256 * m - self.kernels[kernel] >> 5


class Reader:
    """One tensor after another out of a decoder."""

    def __init__(self, io: Decoder) -> None:
        self.io, self.numbers, self.turns, self.ordered = io, Numbers(), Turns(), Ordered()

    def read(self, layout: Layout, out: Array) -> None:
        """Fill an array. Raises `OutOfBounds`, `BadKind` or `TooFewBytes`."""
        kind = self.io.plain(KIND_BITS)
        if kind in (PATTERNS, LINES):
            raise BadKind
        self.layout, self.kind = layout, kind
        self.span = (layout.high - layout.low).bit_length()
        self.centre = self._centre()
        self.below, self.above = self.centre - layout.low, layout.high - self.centre
        if kind in (INDEX, SPARSE_INDEX) and self.span > INDEX_BITS:
            raise BadKind
        if kind == TURNS:
            self._take_turns(out)
            return
        if kind == ORDERED:
            self._in_order(out)
            return
        flat, past, at = out.reshape(-1), Past(layout), 0
        for _ in range(layout.rows):
            for kernel in range(layout.kernels):
                for _ in range(layout.taps):
                    flat[at] = self._number(past, kernel)
                    at += 1
            past.next_row()

    def _take_turns(self, out: Array) -> None:
        layout, trellis = self.layout, Trellis()
        if self.centre or layout.width > 4:
            raise BadKind
        trail, flat = Trail(layout.kernels, layout.taps), out.reshape(-1)
        for at in range(layout.numbers):
            kernel = at // layout.taps % layout.kernels
            if at and at % (layout.kernels * layout.taps) == 0:
                trail.next_row()
            k = self.turns.code(self.io, trail.view(kernel), trellis.quantizer)
            number = trellis.number(k)
            if not layout.low <= number <= layout.high:
                raise OutOfBounds
            flat[at] = number
            trail.add(kernel, k)
            trellis.step(k)

    def _in_order(self, out: Array) -> None:
        layout, flat = self.layout, out.reshape(-1)
        apart = self.io.plain(1)
        if self.span > ORDERED_BITS:
            raise BadKind
        self.ordered.next_tensor()
        depth = max(self.above, self.below - (self.below > 0)).bit_length()
        past = Distances(layout.kernels, layout.taps)
        for at in range(layout.numbers):
            kernel = at // layout.taps % layout.kernels
            if at and at % (layout.kernels * layout.taps) == 0:
                past.next_row()
            view = past.look(kernel)
            lowest = apart and self.ordered.stands_apart(self.io, view)
            distance = 0 if lowest else self.ordered.distance(self.io, view, depth)
            number = layout.low if lowest else self.centre + distance - (distance > 0)
            if not layout.low <= number <= layout.high:
                raise OutOfBounds
            flat[at] = number
            past.add(kernel, distance)

    def _centre(self) -> int:
        usual = 0 if self.layout.low <= 0 <= self.layout.high else self.layout.low
        if not self.io.plain(1):
            return usual
        centre = self.layout.low + self.io.plain(self.span)
        if centre > self.layout.high:
            raise BadKind
        return centre

    def _number(self, past: Past, kernel: int) -> int:
        if self.kind == INDEX:
            return self._indexed()
        view = past.view(kernel)
        if self.kind == SPARSE_INDEX:
            other = self._step(0, view)
            past.add(kernel, other)
            return self._indexed() if other else self.centre
        negative, magnitude = self._dense(view[0]) if self.kind == DENSE else self._mixed(view)
        past.add(kernel, magnitude)
        if magnitude > (self.below if negative else self.above):
            raise OutOfBounds
        return self.centre - magnitude if negative else self.centre + magnitude

    def _step(self, step: int, view: tuple[int, int, int]) -> int:
        m, (near, kernel, row) = self.numbers, view
        chosen = ((m.near[step], near), (m.kernel[step], kernel), (m.row[step], row), (m.alone, step))
        return self.io.mixed(m.weights[step], chosen, LIMIT, SLOW)

    def _negative(self) -> bool:
        if not self.above or not self.below:
            return not self.above
        return bool(self.io.by(self.numbers.sign, 0, LIMIT))

    def _mixed(self, view: tuple[int, int, int]) -> tuple[bool, int]:
        if not (self.above or self.below) or not self._step(0, view):
            return False, 0
        negative = self._negative()
        return negative, self._magnitude(view, self.below if negative else self.above)

    def _magnitude(self, view: tuple[int, int, int], most: int) -> int:
        for step in (1, 2):
            if most <= step or not self._step(step, view):
                return step
        n, longest = 1, (most - 2).bit_length()
        while n < longest and self._step(2 + n, view):
            n += 1
        return self._after_first(0, n - 1) + 2

    def _dense(self, near: int) -> tuple[bool, int]:
        depth, node = max(self.above, self.below).bit_length().bit_length(), 1
        for _ in range(depth):
            node = node << 1 | self.io.by(self.numbers.length[near], node, LIMIT)
        n = node - (1 << depth)
        if n == 0:
            return False, 0
        negative = self._negative()
        return negative, (1 << 64) - 1 if n > 64 else self._after_first(1, n - 1)

    def _after_first(self, which: int, n: int) -> int:
        tree, found = self.numbers.mantissa[which][min(n, 9) - (n > 0)], 1
        for _ in range(min(n, 8)):
            found = found << 1 | self.io.by(tree, found, LIMIT)
        for place in range(n - 9, -1, -1):
            found = found << 1 | self.io.by(self.numbers.low_bits, place, LIMIT)
        return found

    def _indexed(self) -> int:
        node = 1
        for _ in range(self.span):
            node = node << 1 | self.io.by(self.numbers.index, node, LIMIT)
        value = self.layout.low + node - (1 << self.span)
        if value > self.layout.high:
            raise OutOfBounds
        return value
