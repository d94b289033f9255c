"""Where the bytes of a `.lil` file go."""

from __future__ import annotations

from typing import NamedTuple

from lilliput.errors import at
from lilliput.store.format import Source, called, read
from lilliput.store.header import Entry, Header
from lilliput.store.sections import shares


class Row(NamedTuple):
    """What one tensor, or the header, takes of a file. `bits` are those of one element."""

    name: str
    kind: str
    elements: int
    bytes: int
    bits: float

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
        rows = sorted(_row(entry, count, content.header, side) for entry, count in shares(content))
    padding = content.size - content.body - sum(row.bytes for row in rows)
    return [*rows, Row("header", "header", 0, content.body, 0.0), Row("padding", "padding", 0, padding, 0.0)]


def _row(entry: Entry, count: int, header: Header, side: set[str]) -> Row:
    tests = {"codes": entry.name in header.codes, "side": entry.name in side, "flags": entry.bounds == (0, 1)}
    kind = next((kind for kind, holds in tests.items() if holds), "values")
    return Row(entry.name, kind, entry.elements, count, 8 * count / max(entry.elements, 1))
