"""Where the bytes of `model.lil` are: codes of quantized weights, what decodes them, numbers as they are, the header."""

from __future__ import annotations

from collections.abc import Mapping

from lilliput.report.amounts import mapping, number, percent, size, times
from lilliput.report.outcome import Outcome
from lilliput.report.parts import Band, Bands, Cell, Column, Prose, Section, Table

KINDS = {
    "values": "numbers as they are",
    "codes": "codes of quantized weights",
    "side": "scales and codebooks",
    "flags": "masks and flags",
    "header": "header: architecture and edits",
    "padding": "padding",
}
SIDES = {"baseline": "before", "compressed": "after"}
Bytes = Mapping[str, float]


def section(outcome: Outcome) -> Section:
    """A bar each for the file before and after, cut by kind, and the bytes in a table."""
    recorded = mapping(outcome.details.get("contents"))
    files = {word: _bytes(recorded.get(side)) for side, word in SIDES.items()}
    kinds = [kind for kind in KINDS if any(found.get(kind) for found in files.values())]
    if not kinds:
        return Section("bytes", "Bytes", (Prose("The bytes of model.lil were not recorded."),))
    legend = tuple((list(KINDS).index(kind), KINDS[kind]) for kind in kinds)
    bands = tuple(_band(word, found, kinds) for word, found in files.items() if sum(found.values()))
    parts = (Bands("What model.lil is made of", bands, legend), _table(files["before"], files["after"], kinds))
    return Section("bytes", "Bytes", parts)


def _bytes(value: object) -> Bytes:
    found = {kind: number(mapping(value).get(kind)) for kind in KINDS}
    return {kind: many for kind, many in found.items() if many is not None and many >= 0}


def _band(word: str, found: Bytes, kinds: list[str]) -> Band:
    total = sum(found.values())
    shares = [(kind, found.get(kind, 0) / total) for kind in kinds]
    words = {kind: f"{KINDS[kind]}: {size(found.get(kind, 0))}, {percent(share)}" for kind, share in shares}
    return Band(word, size(total), tuple((list(KINDS).index(kind), share, words[kind]) for kind, share in shares if share))


def _table(was: Bytes, now: Bytes, kinds: list[str]) -> Table:
    columns = (Column("Kind"), *(Column(title, True) for title in ("Before", "After", "Share after", "Change")))
    total = sum(now.values())
    rows = [_row(KINDS[kind], was.get(kind, 0), now.get(kind, 0), total, bool(was and now)) for kind in kinds]
    return Table(columns, (*rows, _row("the whole file", sum(was.values()), total, total, bool(was and now))), sortable=False)


def _row(name: str, was: float, now: float, total: float, both: bool) -> tuple[Cell, ...]:
    change = times(was, now, "smaller", "larger") if both and was and now else "—"
    return (Cell.of(name), Cell(size(was)), Cell(size(now)), Cell(percent(now / total) if total else "—"), Cell(change))
