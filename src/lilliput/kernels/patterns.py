"""Decoding of bit patterns and of text without the native core: csrc/patterns.h in Python, bit for bit."""

from __future__ import annotations

import numpy as np

from lilliput.kernels.lines import LONGEST, Lines
from lilliput.kernels.numbers import KIND_BITS, LINES, PATTERNS, Array, BadKind, Layout, OutOfBounds
from lilliput.kernels.ranges import Decoder, cells

ORDERS, LOG = (0, 1, 2, 3, 5, 8), 16
MASK32, MASK64 = (1 << 32) - 1, (1 << 64) - 1


class Patterns:
    """What is learnt about the bytes of numbers, and one tensor after another."""

    def __init__(self, io: Decoder) -> None:
        self.io, self.lines = io, Lines()
        self.alone = [cells(256, 6) for _ in range(8)]
        self.paired = [cells(1 << 16, 0) for _ in range(2)]
        self.weights = [[[1 << 15] * 2 for _ in range(8)] for _ in range(2)]

    def read(self, layout: Layout, out: Array) -> None:
        """Fill an array. Raises `OutOfBounds`, `BadKind` or `TooFewBytes`."""
        kind = self.io.plain(KIND_BITS)
        if kind == LINES:
            self._read_lines(layout, out)
            return
        if kind != PATTERNS:
            raise BadKind
        raw = np.empty((layout.numbers, layout.width), np.uint8)
        before = 0
        for number in range(layout.numbers):
            first = before
            for place in range(layout.width):
                byte = self._byte(place, first)
                raw[number, layout.width - 1 - place] = byte
                first = byte if place == 0 else first
            before = first
        out.reshape(-1)[:] = raw.view(f"<i{layout.width}")[:, 0] if layout.numbers else 0

    def _read_lines(self, layout: Layout, out: Array) -> None:
        length = layout.kernels * layout.taps
        if layout.width != 4 or length > LONGEST:
            raise BadKind
        flat = out.reshape(-1)
        for start in range(0, layout.numbers, length):
            if (row := self.lines.row(self.io, length)) is None:
                raise OutOfBounds
            flat[start : start + length] = row

    def _byte(self, place: int, context: int) -> int:
        node = 1
        for i in range(7, -1, -1):
            if place < 2:
                chosen = ((self.alone[place], node), (self.paired[place], context << 8 | node))
                node = node << 1 | self.io.mixed(self.weights[place][i], chosen, 255, 16)
            else:
                node = node << 1 | self.io.by(self.alone[place], node, 1000)
        return node & 255


def text(data: bytes, length: int) -> tuple[Decoder, bytes]:
    """A decoder at its end, and the text. Raises `TooFewBytes`."""
    io, before, found = Decoder(data), 0, bytearray()
    tables = [cells(1 << LOG, 0) for _ in ORDERS]
    weights = [[1 << 14] * len(ORDERS) for _ in range(256)]
    for _ in range(length):
        seen = [before & ((1 << 8 * order) - 1) for order in ORDERS]
        starts = [((s + 1) * 0x9E3779B97F4A7C15 & MASK64) >> 32 for s in seen]
        node = 1
        for _ in range(8):
            slots = [node] + [((b + node * 0x2545F491 & MASK32) * 0x9E3779B1 & MASK32) >> 32 - LOG for b in starts[1:]]
            node = node << 1 | io.mixed(weights[node], list(zip(tables, slots, strict=True)), 30, 13)
        found.append(node & 255)
        before = (before << 8 | node & 255) & MASK64
    return io, bytes(found)
