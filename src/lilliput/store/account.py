"""Where the bytes of a `.lil` file go."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lilliput.errors import at
from lilliput.store.codec import Array
from lilliput.store.format import Source, called, read
from lilliput.store.header import Entry, Header
from lilliput.store.sections import numbers, shares


class Row(NamedTuple):
    """What one tensor, or the header, takes of a file. `bits` are those of one element.

    `entropy` is what the best code of single numbers, fitted to each tensor and known for free, would take in bytes: of
    whole numbers by their frequencies, of all others byte by byte. Context goes below it.
    """

    name: str
    kind: str
    elements: int
    bytes: int
    bits: float
    entropy: float

    @property
    def overhead(self) -> float:
        """How much more than the entropy is taken, as a part of it; below zero where context helps."""
        return self.bytes / self.entropy - 1 if self.entropy else 0.0

    def to_json(self) -> dict[str, str | int | float]:
        """The same by name."""
        return self._asdict()


def account(source: Source) -> list[Row]:
    """A row for each tensor in the order of names, then for header and padding; together they are the whole file.

    A tensor's kind is `codes`, `side` (what decodes them), `flags` (zeros and ones) or `values`. Nothing is built.
    Raises `FormatError` for anything that is not a valid file.
    """
    with at(called(source)):
        content = read(source)
        side = {name for each in content.header.codes.values() for name in each.values()}
        entropies = {entry.name: _entropy(array, entry.bounds is not None) for entry, array in numbers(content)}
        rows = sorted(_row(entry, count, content.header, side, entropies) for entry, count in shares(content))
    padding = content.size - content.body - sum(row.bytes for row in rows)
    return [*rows, Row("header", "header", 0, content.body, 0.0, 0.0), Row("padding", "padding", 0, padding, 0.0, 0.0)]


def _row(entry: Entry, count: int, header: Header, side: set[str], entropies: dict[str, float]) -> Row:
    tests = {"codes": entry.name in header.codes, "side": entry.name in side, "flags": entry.bounds == (0, 1)}
    kind = next((kind for kind, holds in tests.items() if holds), "values")
    return Row(entry.name, kind, entry.elements, count, 8 * count / max(entry.elements, 1), entropies[entry.name])


def _entropy(array: Array, whole: bool) -> float:
    """Bytes: Σ −n_i·log2(n_i / n) / 8 over the values, or over those of each byte."""
    planes = [array.ravel()] if whole else list(np.ascontiguousarray(array).reshape(-1, 1).view(np.uint8).T)
    total = 0.0
    for plane in planes:
        counts = np.unique(plane, return_counts=True)[1]
        total += float((counts * np.log2(counts.sum() / counts)).sum()) / 8
    return total
