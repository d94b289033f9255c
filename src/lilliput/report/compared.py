"""Before and after: the figures of `metrics.json` side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from lilliput.report import amounts
from lilliput.report.amounts import (
    MISSING,
    digits,
    listing,
    mapping,
    milliseconds,
    number,
    percent,
    points,
    threads,
    times,
)
from lilliput.report.parts import Cell, Column, Table, Tile, Tiles

if TYPE_CHECKING:
    from rich.table import Table as RichTable

Row = Mapping[str, Any]
COLUMNS = (Column(""), Column("Before", True), Column("After", True), Column("Change", True))


def latency(row: Row) -> float | None:
    """The median in milliseconds."""
    return number(mapping(row.get("latency_ms")).get("median"))


@dataclass(frozen=True)
class Figure:
    """A line of the table: where its number stands in a row, how it and its change read, and whether more is better."""

    title: str
    get: Callable[[Row], float | None]
    show: Callable[[float], str]
    change: Callable[[float, float], str]
    note: Callable[[Row], str] = lambda row: ""
    more_is_better: bool = False

    def cells(self, before: Row, after: Row) -> tuple[Cell, ...]:
        """Name, before, after, change."""
        was, now = self.get(before), self.get(after)
        change = Cell(MISSING) if was is None or now is None else Cell(self.change(was, now), tone=self.tone(was, now))
        return (Cell.of(self.title), self._cell(was, before), self._cell(now, after), change)

    def tone(self, was: float, now: float) -> str:
        """Whether a change is for the better; nothing for one that does not show."""
        if was == now or self.change(was, now).startswith(("unchanged", "±")):
            return ""
        return "good" if (now > was) == self.more_is_better else "bad"

    def _cell(self, value: float | None, row: Row) -> Cell:
        return Cell(MISSING) if value is None else Cell(self.show(value), value, self.note(row))


def _at(key: str) -> Callable[[Row], float | None]:
    return lambda row: number(row.get(key))


def _interval(row: Row) -> str:
    """The 95 % interval that the count of test images allows."""
    ends = [number(end) for end in listing(row.get("accuracy_interval"))]
    return f"[{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]" if len(ends) == 2 and None not in ends else ""  # type: ignore[operator]


def _spread(row: Row) -> str:
    """The first and last decile."""
    low, high = (number(mapping(row.get("latency_ms")).get(name)) for name in ("p10", "p90"))
    return "" if low is None or high is None else f"[{digits(low)}, {digits(high)}]"


_smaller = partial(times, less="smaller", more="larger")
_fewer = partial(times, less="fewer", more="more")

FIGURES = (
    Figure("Accuracy (test)", _at("accuracy"), percent, points, _interval, more_is_better=True),
    Figure("Accuracy (val)", _at("val_accuracy"), percent, points, more_is_better=True),
    Figure("Size, model.lil", _at("file_bytes"), amounts.size, _smaller),
    Figure("Size, model.onnx", _at("onnx_bytes"), amounts.size, _smaller),
    Figure("Latency (median)", latency, milliseconds, partial(times, less="faster", more="slower"), _spread),
    Figure("MACs", _at("macs"), amounts.count, _fewer),
    Figure("Parameters", _at("params"), amounts.count, _fewer),
    Figure("Peak activations", _at("peak_activation_bytes"), amounts.size, _smaller),
)


def table(metrics: Mapping[str, Any]) -> Table:
    """Every figure before and after, with how the latency was measured below."""
    before, after = mapping(metrics.get("baseline")), mapping(metrics.get("compressed"))
    rows = tuple(figure.cells(before, after) for figure in FIGURES)
    return Table(COLUMNS, rows, _how(before, after), sortable=False)


def summary(metrics: Mapping[str, Any]) -> RichTable:
    """The table of before and after for the terminal. `metrics` is what `metrics.json` holds; what it lacks is said."""
    return table(metrics).__rich__()


def tiles(metrics: Mapping[str, Any]) -> Tiles:
    """Accuracy, size, latency and MACs at a glance."""
    before, after = mapping(metrics.get("baseline")), mapping(metrics.get("compressed"))
    chosen = {figure.title: figure for figure in FIGURES}
    names = {"Accuracy (test)": "Accuracy", "Size, model.lil": "Size", "Latency (median)": "Latency", "MACs": "MACs"}
    return Tiles(tuple(_tile(short, chosen[name], before, after) for name, short in names.items()))


def _tile(title: str, figure: Figure, before: Row, after: Row) -> Tile:
    was, now = figure.get(before), figure.get(after)
    note = " → ".join(MISSING if value is None else figure.show(value) for value in (was, now))
    if was is None or now is None:
        return Tile(title, "—", note if was != now else MISSING)
    share = now / was if was > 0 and not figure.more_is_better else None
    return Tile(title, figure.change(was, now), note, share)


def _how(before: Row, after: Row) -> str:
    """The caption: runtime, threads and runs of the latencies; both where they differ."""
    ways = [_way(mapping(row["latency_ms"])) for row in (before, after) if latency(row) is not None]
    lines = [f"Latency: {'; '.join(dict.fromkeys(ways))}; median [p10, p90]."] if ways else []
    return " ".join([*lines, "Accuracy: [95 % interval]."] if _interval(after) else lines)


def _way(found: Row) -> str:
    runs = found.get("runs")
    times_run = f"{runs:,} runs" if isinstance(runs, int) else f"runs {MISSING}"
    return f"{found.get('runtime') or f'a runtime {MISSING}'}, {threads(found.get('threads'))}, {times_run}"
