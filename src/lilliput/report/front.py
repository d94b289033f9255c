"""The candidates that a search trained, with the front of those that nothing beats, and which one was taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lilliput.report.amounts import mappings, number, percent, plural, share
from lilliput.report.outcome import Outcome
from lilliput.report.parts import Cell, Chart, Choice, Column, Part, Prose, Section, Table, plain
from lilliput.report.standing import COSTS, Candidate, Cost, least, missed, seen, stands
from lilliput.report.verdict import limit

KNOWN = "The uncompressed network seems to have learned these images, so what is lost on them is not held against the budget."
GROUPS = (
    ("baseline", "uncompressed"),
    ("dominated", "beaten by another"),
    ("misses", "misses the budget"),
    ("meets", "meets the budget"),
    ("chosen", "chosen"),
)


def section(outcome: Outcome) -> Section | None:
    """Accuracy against size and against latency, and every candidate in a table; nothing where no front was drawn."""
    found = mappings(outcome.metrics.get("front"))
    if not found:
        return None
    choices = tuple(choice for cost in COSTS if (choice := _choice(outcome, found, cost)) is not None)
    groups = {group for choice in choices for group in choice.data["group"]}
    legend = (("line", "the front"), *(pair for pair in GROUPS if pair[0] in groups))
    where = "all of them stand in the table below"
    parts: list[Part] = [Prose(_sentence(outcome, found))]
    parts += [Chart("front", "Validation accuracy against cost", choices, legend, where)] if choices else []
    return Section("front", "The front", (*parts, _table(outcome, found)))


def _sentence(outcome: Outcome, found: Sequence[Candidate]) -> str:
    beaten = sum(bool(c.get("dominated")) for c in found)
    fates = {0: "none is", 1: "1 is"}
    text = f"{plural(len(found), 'candidate')}; {fates.get(beaten, f'{beaten} are')} beaten in every respect by another."
    chosen = [_name(c) for c in found if c.get("chosen")]
    if seen(outcome) and limit(outcome.metrics, "max_drop", None) is not None:
        text += f" {KNOWN}"
    return f"{text} Chosen: {'; '.join(chosen)}." if chosen else f"{text} None was chosen."


def _name(candidate: Candidate) -> str:
    return str(candidate.get("name") or "a candidate without a name")


def _group(outcome: Outcome, candidate: Candidate) -> str:
    if candidate.get("chosen"):
        return "chosen"
    if candidate.get("dominated"):
        return "dominated"
    return "meets" if stands(outcome, candidate) else "misses"


def _choice(outcome: Outcome, found: Sequence[Candidate], cost: Cost) -> Choice | None:
    """What a chart shows of one cost: the candidates of which it is known, the uncompressed network, and the budgets."""
    shown = [c for c in found if number(c.get(cost.key)) is not None and share(c.get("accuracy")) is not None]
    if not shown:
        return None
    costs = _costs(found)
    hovers = [_hover(outcome, c, costs) for c in shown]
    points = [
        (_group(outcome, c), number(c[cost.key]) or 0.0, 100 * (number(c["accuracy"]) or 0.0), hover)
        for c, hover in zip(shown, hovers, strict=True)
    ]
    whole, start = cost.whole(outcome), share(outcome.before.get("val_accuracy"))
    if whole is not None and start is not None:
        points.append(("baseline", whole, 100 * start, f"<b>uncompressed</b><br>{cost.show(whole)}<br>{percent(start)}"))
    line = frontier([(x, y) for group, x, y, _ in points if group not in ("dominated", "baseline")])
    data = {
        "group": [point[0] for point in points], "x": [point[1] for point in points], "y": [point[2] for point in points],
        "hover": [point[3] for point in points], "line": {"x": [x for x, _ in line], "y": [y for _, y in line]},
        "unit": cost.unit, "x_title": cost.axis, "y_title": "accuracy on validation, %", "lines": _limits(outcome, cost),
    }  # fmt: skip
    return Choice(f"against {cost.title}", data)


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those of (cost, accuracy) that cost less than every more accurate one, the cheapest first.

    >>> frontier([(3, 90), (1, 70), (2, 60), (2, 80)])
    [(1, 70), (2, 80), (3, 90)]
    """
    kept: list[tuple[float, float]] = []
    for cost, accuracy in sorted(points, key=lambda p: (p[0], -p[1])):
        if not kept or accuracy > kept[-1][1]:
            kept.append((cost, accuracy))
    return kept


def _limits(outcome: Outcome, cost: Cost) -> list[dict[str, Any]]:
    """The budgets as lines: what may be paid, and how accurate it must be at least."""
    lines = [
        {"axis": "x", "at": cost.most(outcome), "text": f"{cost.budget} budget"},
        {"axis": "y", "at": least(outcome), "text": "accuracy budget"},
    ]
    return [line for line in lines if number(line["at"]) is not None]


def _costs(found: Sequence[Candidate]) -> list[Cost]:
    """What is known of any candidate."""
    return [cost for cost in COSTS if any(number(c.get(cost.key)) is not None for c in found)]


def _figures(candidate: Candidate, costs: Sequence[Cost]) -> list[tuple[str, Cell]]:
    shown = [(cost.title.capitalize(), cost.key, cost.show) for cost in costs] + [("Accuracy", "accuracy", percent)]
    values = [(title, (share if key == "accuracy" else number)(candidate.get(key)), show) for title, key, show in shown]
    return [(title, Cell("—" if value is None else show(value), value)) for title, value, show in values]


def _hover(outcome: Outcome, candidate: Candidate, costs: Sequence[Cost]) -> str:
    lines = [f"{title.lower()}: {cell.text}" for title, cell in _figures(candidate, costs)]
    return "<br>".join([f"<b>{plain(_name(candidate))}</b>", *lines, dict(GROUPS)[_group(outcome, candidate)]])


def _table(outcome: Outcome, found: Sequence[Candidate]) -> Table:
    costs = _costs(found)
    columns = (Column("Candidate"), *(Column(title, True) for title, _ in _figures({}, costs)), Column("Outcome"))
    rows = tuple(
        (Cell.of(_name(c)), *(cell for _, cell in _figures(c, costs)), Cell.of(_fate(outcome, c, found))) for c in found
    )
    marked = frozenset(i for i, c in enumerate(found) if c.get("chosen"))
    return Table(columns, rows, "Accuracy is that of the validation split, on which the choice was made.", marked=marked)


def _fate(outcome: Outcome, candidate: Candidate, found: Sequence[Candidate]) -> str:
    """Why a candidate was taken or not."""
    lacks = [] if stands(outcome, candidate) else [missed(outcome, candidate) or dict(GROUPS)["misses"]]
    if candidate.get("chosen"):
        return "; ".join(["chosen", *lacks])
    better = [_name(other) for other in found if other is not candidate and _beats(other, candidate)]
    beaten = [f"beaten by {better[0]}" if better else "beaten by another"] if candidate.get("dominated") else []
    return "; ".join([*lacks, *beaten]) or "meets the budget; another was preferred"


def _beats(other: Candidate, candidate: Candidate) -> bool:
    """Whether `other` is no worse in anything and better in something."""
    gains = [_gain(other, candidate, key) for key in ("bytes", "ratio", "memory")]
    gains.append(-_gain(other, candidate, "accuracy"))
    return all(gain >= 0 for gain in gains) and any(gain > 0 for gain in gains)


def _gain(other: Candidate, candidate: Candidate, key: str) -> float:
    theirs, ours = number(other.get(key)), number(candidate.get(key))
    return 0.0 if theirs is None or ours is None else ours - theirs
