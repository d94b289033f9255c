"""Decoding of float32 patterns that ascend, without the native core: csrc/lines.h in Python, bit for bit."""

from __future__ import annotations

from lilliput.kernels.ranges import Decoder, cells

LIMIT, SLOW = 255, 14
LENGTH_BITS, LONGEST_DISTANCE, TOP_BITS, LONGEST = 6, 33, 3, 4096
HIGHEST = (1 << 31) - 1
LOWEST = -1 - HIGHEST
MANTISSA, LEAST, FINER, WIDEST = 23, -149, 24, 36


def place_of(pattern: int) -> int:
    """Where a pattern (32 bits, unsigned) comes in the order of the values patterns stand for: −0.0 is −1, below 0.0."""
    return pattern if pattern <= HIGHEST else -1 - (pattern & HIGHEST)


def pattern_at(place: int) -> int:
    """The pattern, read as a signed number, that has this place."""
    return place if place >= 0 else -1 - place + LOWEST


class Scale:
    """Values in units of a power of two, 2^−48 of the larger end or a little less, from places and back."""

    def __init__(self, first: int, last: int) -> None:
        self.unit = max(_exponent(_size(first)), _exponent(_size(last))) - FINER

    def value(self, place: int) -> int:
        """What a place stands for, rounded towards zero."""
        size = _size(place)
        shift = _exponent(size) - self.unit
        mantissa = size & (1 << MANTISSA) - 1 | 1 << MANTISSA if size >> MANTISSA else size
        found = mantissa >> -shift if shift < 0 else mantissa << min(shift, WIDEST)
        return -found if place < 0 else found

    def nearest(self, value: int) -> int:
        """The place of the float32 that is nearest to a value, an even one of two; the last of all for what is larger."""
        if not value:
            return 0
        size = abs(value)
        shift = max(size.bit_length() - MANTISSA - 1, LEAST - self.unit)
        found = size << -shift if shift <= 0 else size >> shift
        if shift > 0:
            rest, half = size & (1 << shift) - 1, 1 << shift - 1
            found += rest > half or (rest == half and found & 1)
        place = min(found + (self.unit + shift - LEAST << MANTISSA), HIGHEST)
        return -1 - place if value < 0 else place


class Lines:
    """What is learnt about distances, and one row of patterns after another."""

    def __init__(self) -> None:
        self.on, self.off, self.side = cells(4, 0), cells(2, 0), cells(3, 0)
        self.mean = cells(1 + LONGEST_DISTANCE // 2 << LENGTH_BITS, 0)
        self.after, self.alone = cells(4 << LENGTH_BITS, 0), cells(1 << LENGTH_BITS, 0)
        self.top = cells(1 << TOP_BITS, 4)
        self.weights = [[20 << 10] * 3 for _ in range(LENGTH_BITS)]

    def row(self, io: Decoder, length: int) -> list[int] | None:
        """The patterns of a row as signed numbers; None for a number that there is not."""
        first = place_of(io.plain(32))
        if length == 1:
            return [pattern_at(first)]
        end = place_of(io.plain(32))
        scale, places = Scale(first, end), [first]
        low, high = scale.value(first), scale.value(end)
        self.trace = [3, 16, 16, 0]  # the two before on the line; the latest lengths; the latest side
        for k in range(1, length - 1):
            straight = scale.nearest(low + (high - low) * k // (length - 1))
            ahead = 2 * scale.value(places[-1]) - scale.value(places[-2]) if k > 1 else 0
            place = self._place(io, straight, scale.nearest(ahead) if k > 1 else straight)
            if place is None or not LOWEST <= place <= HIGHEST:
                return None
            places.append(place)
        return [pattern_at(place) for place in [*places, end]]

    def _place(self, io: Decoder, straight: int, guess: int) -> int | None:
        on = io.by(self.on, self.trace[0], LIMIT)
        distance = self._step(io) if on else self._distance(io)
        self.trace[0] = (self.trace[0] << 1 | on) & 3
        return None if distance is None else (straight if on else guess) + distance

    def _step(self, io: Decoder) -> int:
        if not io.by(self.off, 0, LIMIT):
            return 0
        return -1 if io.by(self.off, 1, LIMIT) else 1

    def _distance(self, io: Decoder) -> int | None:
        n = self._length(io)
        if n > LONGEST_DISTANCE:
            return None
        self.trace[1:3] = n, self.trace[1]
        if n == 0:
            return 0
        below = io.by(self.side, self.trace[3], LIMIT)
        self.trace[3] = 1 + below
        found = 1
        for _ in range(min(n - 1, TOP_BITS)):
            found = found << 1 | io.by(self.top, found, LIMIT)
        rest = max(n - 1 - TOP_BITS, 0)
        found = found << rest | io.plain(rest)
        return -found if below else found

    def _length(self, io: Decoder) -> int:
        on, before, second, _ = self.trace
        mean, node = (before + second) // 4, 1
        for i in range(LENGTH_BITS - 1, -1, -1):
            asked = [(self.mean, mean << LENGTH_BITS | node), (self.after, on << LENGTH_BITS | node), (self.alone, node)]
            node = node << 1 | io.mixed(self.weights[i], asked, LIMIT, SLOW)
        return node - (1 << LENGTH_BITS)


def _size(place: int) -> int:
    return -1 - place if place < 0 else place


def _exponent(size: int) -> int:
    return max(size >> MANTISSA, 1) + LEAST - 1
