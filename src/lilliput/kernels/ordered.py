"""Decoding of numbers that stand for values in their order, without the native core: csrc/ordered.h in Python, bit for bit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable

from lilliput.kernels.ranges import Cells, Decoder, cells
from lilliput.kernels.turns import fine_level

LIMIT, SLOW, SIDE_SLOW = 1000, 16, 18
BITS, INNER, TRUST = 8, 10, 12


class Ordered:
    """What is learnt about distances; a cell that was never asked is not there yet."""

    def __init__(self) -> None:
        self.apart: dict[Hashable, Cells] = defaultdict(lambda: cells(1, 0))
        self.apart_weights: dict[int, list[int]] = defaultdict(lambda: [13 << 10] * 6)
        self.sides = cells(28, 2)
        self.side_weights = [1 << 15] * 2
        self.own: dict[Hashable, Cells] = {}
        self.shared: dict[Hashable, Cells] = defaultdict(lambda: cells(1, 1))
        self.weights: dict[Hashable, list[int]] = defaultdict(lambda: [1 << 14] * 4)
        self.next_tensor()

    def next_tensor(self) -> None:
        """Forget what was learnt about the tensor before alone."""
        self.own = defaultdict(lambda: cells(1, 0))

    def stands_apart(self, io: Decoder, view: Distances) -> int:
        """Whether the next number is the lowest one."""
        v, tap = view, view.place
        keys = (
            ("near", v.near), ("kernel", v.kernel, v.there), ("row", v.row, v.behind), ("inner", tap, v.inner),
            ("both", v.inner, v.row), ("alone",),
        )  # fmt: skip
        return io.mixed(self.apart_weights[tap], [(self.apart[key], 0) for key in keys], LIMIT, SLOW)

    def distance(self, io: Decoder, view: Distances, depth: int) -> int:
        """The next distance from the pivot."""
        side = io.mixed(self.side_weights, [(self.sides, view.around), (self.sides, 27)], LIMIT, SIDE_SLOW)
        node = 1
        for place in range(depth):
            own = self.own[side, node]
            keys = ("all", node), ("within", view.within, node), ("about", view.about, node)
            trust = min((own[0] & 1023).bit_length(), TRUST - 1)
            asked = [(own, 0), *((self.shared[key], 0) for key in keys)]
            node = node << 1 | io.mixed(self.weights[place, trust], asked, LIMIT, SLOW)
        found = node - (1 << depth) + 1
        return -found if side else found


class Distances:
    """The distances before, in the order of a scan, and what the next may depend on; 0 stands for the number apart."""

    near: int
    kernel: int
    row: int
    place: int
    inner: int
    within: int
    about: int
    there: int
    behind: int
    around: int

    def __init__(self, kernels: int, taps: int) -> None:
        self.taps, self.j, self.run, self.sum, self.others = taps, 0, 0, 0, 0
        self.before = [0] * (kernels * taps + 1)
        self.now = list(self.before)
        self.kernels = [0] * kernels

    def next_row(self) -> None:
        """Begin another row."""
        self.before, self.now, self.j = self.now, self.before, 0

    def look(self, kernel: int) -> Distances:
        """Set what the next distance may depend on, and return it."""
        tap = self.j % self.taps
        if tap == 0:
            self.sum = self.others = 0
        left, second, up = self._ago(1), self._ago(2), self._ago(self.taps)
        back, after, ours = self.before[self.j], self.before[self.j + 1], self.kernels[kernel]
        self.near = fine_level(2 * (abs(left) + abs(up) + abs(back)) + abs(second) + abs(after) >> 1)
        self.kernel, self.row = fine_level(ours >> 3), fine_level(self.run >> 3)
        self.place = min(tap, INNER - 1)
        self.inner = fine_level(2 * self.sum // tap) if tap else 0
        self.within = fine_level(2 * self.sum // self.others) if self.others else 0
        self.about = fine_level(self.run + ours >> 4)
        self.there, self.behind = (left != 0) + 2 * (up != 0), (back != 0) + 2 * (left != 0)
        self.around = 9 * (_side(left) if tap else 0) + 3 * _side(up) + _side(back)
        return self

    def add(self, kernel: int, distance: int) -> None:
        """Remember a distance."""
        m = abs(distance)
        self.now[self.j] = distance
        self.j += 1
        self.sum += m
        self.others += m != 0
        self.run += 16 * m - self.run >> 4
        self.kernels[kernel] += 16 * m - self.kernels[kernel] >> 4

    def _ago(self, count: int) -> int:
        return self.now[self.j - count] if self.j >= count else 0


def _side(distance: int) -> int:
    return 2 if distance > 0 else 1 if distance < 0 else 0
