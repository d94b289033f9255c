"""What was tried, and what was chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lilliput.report import amounts
from lilliput.report.amounts import MISSING, listing, mapping, mappings, milliseconds, number, percent, plural
from lilliput.report.compared import latency
from lilliput.report.outcome import Outcome
from lilliput.report.parts import Cell, Chart, Choice, Column, Part, Prose, Section, Table, plain
from lilliput.report.standing import Candidate, missed, stands
from lilliput.report.verdict import limit

GROUPS = (
    ("chosen", "chosen"),
    ("meets", "meets the budget"),
    ("misses", "misses the budget"),
    ("unknown", "budget not recorded"),
)


def section(outcome: Outcome) -> Section:
    """Candidates by latency and size, and all that is known of each in a table."""
    tried = mappings(outcome.details.get("tried"))
    if not tried:
        recorded = isinstance(outcome.details.get("tried"), list)
        text = "Nothing was searched: the recipe was given." if recorded else "What was tried was not recorded."
        return Section("tried", "What was tried", (Prose(text),))
    chosen = [candidate for candidate in tried if candidate.get("chosen")]
    trained = sum(bool(number(candidate.get("epochs"))) for candidate in tried)
    rest = f", {trained:,} of them trained." if trained else " measured before any training."
    lead = f"{plural(len(tried), 'candidate')}{rest}"
    what = f" Chosen: {'; '.join(_name(c) for c in chosen)}." if chosen else " None was marked as chosen."
    parts: list[Part] = [Prose(lead + what)]
    return Section("tried", "What was tried", (*parts, *_charts(outcome, tried), _table(outcome, tried)))


def _name(candidate: Candidate) -> str:
    """What it is called, or its methods in order.

    >>> _name({"methods": []}), _name({"methods": ["fit()"], "name": "channels 0.5"})
    ('unchanged', 'channels 0.5')
    """
    return str(candidate["name"]) if candidate.get("name") else _methods(candidate)


def _methods(candidate: Candidate) -> str:
    if not isinstance(candidate.get("methods"), list):
        return f"methods {MISSING}"
    return ", then ".join(str(method) for method in listing(candidate["methods"])) or "unchanged"


def _group(outcome: Outcome, candidate: Candidate) -> str:
    if candidate.get("chosen"):
        return "chosen"
    meets = stands(outcome, candidate)
    return "unknown" if meets is None else "meets" if meets else "misses"


def _fate(outcome: Outcome, candidate: Candidate, tried: Sequence[Candidate]) -> str:
    """What became of a candidate, and why."""
    group = _group(outcome, candidate)
    if candidate.get("why"):
        return f"chosen, {candidate['why']}" if group == "chosen" else str(candidate["why"])
    if group == "chosen":
        return f"chosen, {_missed(outcome, candidate)}" if stands(outcome, candidate) is False else "chosen"
    if group == "misses":
        return _missed(outcome, candidate)
    return f"meets the budget; {_preferred(candidate, tried)}" if group == "meets" else dict(GROUPS)[group]


def _missed(outcome: Outcome, candidate: Candidate) -> str:
    """Which budget it misses; what is dropped within the budgets lost too much or came too close."""
    if text := missed(outcome, candidate):
        return text
    if number(candidate.get("proxy_accuracy")) is not None:
        return "misses the budget: too much accuracy is lost"
    limited = any(mapping(outcome.metrics.get("budget")).get(name) is not None for name in ("size", "latency", "memory"))
    return "too close to the budget to be sure of it" if limited else "misses the budget"


def _preferred(candidate: Candidate, tried: Sequence[Candidate]) -> str:
    """Why another one was chosen."""
    best = max((number(c.get("proxy_accuracy")) or 0.0 for c in tried if c.get("chosen")), default=0.0)
    ours = number(candidate.get("proxy_accuracy"))
    return "less accurate before training than the chosen one" if ours is not None and ours < best else "another was preferred"


def _charts(outcome: Outcome, tried: Sequence[Candidate]) -> list[Part]:
    """Latency against size, for the candidates of which both are known.

    The ratio to the uncompressed network, timed in turns with the candidate, compares with that of others even where
    the machine drifted in between; milliseconds stand in only where a ratio is missing.
    """
    axis = "ratio" if all(number(c.get("ratio")) is not None for c in tried) else "ms"
    shown = [c for c in tried if number(c.get("bytes")) is not None and number(c.get(axis)) is not None]
    if not shown:
        return []
    data = {
        "x": [number(c["bytes"]) for c in shown],
        "y": [number(c[axis]) for c in shown],
        "group": [_group(outcome, c) for c in shown],
        "hover": [_hover(c) for c in shown],
        "x_title": "size, bytes",
        "y_title": "latency, times the uncompressed network" if axis == "ratio" else "latency, ms",
        "lines": _limits(outcome, axis),
    }
    title = "Latency against size"
    groups = {_group(outcome, c) for c in shown}
    legend = tuple(pair for pair in GROUPS if pair[0] in groups)
    return [Chart("points", title, (Choice(title, data),), legend, "all of them stand in the table below")]


def _limits(outcome: Outcome, axis: str) -> list[dict[str, Any]]:
    """The budgets as lines."""
    baseline = latency(outcome.before)
    size = limit(outcome.metrics, "size", number(outcome.before.get("file_bytes")))
    most = limit(outcome.metrics, "latency", baseline)
    if most is not None and axis == "ratio":
        most = most / baseline if baseline else None
    lines = [{"axis": "x", "at": size, "text": "size budget"}, {"axis": "y", "at": most, "text": "latency budget"}]
    return [line for line in lines if line["at"] is not None]


def _hover(candidate: Candidate) -> str:
    name = "<br>then ".join(plain(method, 44) for method in _name(candidate).split(", then "))
    return "<br>".join(
        [f"<b>{name}</b>", *(f"{title}: {_cell(candidate, key, show).text}" for title, key, show in _shown([candidate]))]
    )


FIGURES: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("Latency", "ms", milliseconds),
    ("Ratio", "ratio", "{:.2f}x".format),
    ("Size", "bytes", amounts.size),
    ("Accuracy before training", "proxy_accuracy", percent),
    ("Memory", "memory", amounts.size),
    ("Epochs", "epochs", "{:,.0f}".format),
    ("Accuracy", "accuracy", percent),
)
ALWAYS = 4  # of them have a column even where nothing was measured


def _shown(tried: Sequence[Candidate]) -> list[tuple[str, str, Callable[[float], str]]]:
    """The figures that a table has columns for."""
    known = [any(number(candidate.get(key)) is not None for candidate in tried) for _, key, _ in FIGURES]
    return [figure for i, (figure, has) in enumerate(zip(FIGURES, known, strict=True)) if has or i < ALWAYS]


def _cell(candidate: Candidate, key: str, show: Callable[[float], str]) -> Cell:
    value = number(candidate.get(key))
    return Cell("—" if value is None else show(value), value)


def _table(outcome: Outcome, tried: Sequence[Candidate]) -> Table:
    figures = _shown(tried)
    columns = (Column("Candidate"), *(Column(title, True) for title, _, _ in figures), Column("Outcome"))
    rows = tuple(
        (_title(c), *(_cell(c, key, show) for _, key, show in figures), Cell.of(_fate(outcome, c, tried))) for c in tried
    )
    marked = frozenset(i for i, c in enumerate(tried) if c.get("chosen"))
    return Table(columns, rows, "A dash stands where nothing was measured.", marked=marked)


def _title(candidate: Candidate) -> Cell:
    """Its name, with its methods below where both are known."""
    name = _name(candidate)
    return Cell(name, name, _methods(candidate) if candidate.get("name") else "")
