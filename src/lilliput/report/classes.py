"""Accuracy of every class and what changed: a mean can hide a class that was given up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lilliput.measure.chance import LEVEL, mcnemar
from lilliput.report.amounts import MISSING, listing, mapping, number, percent, plural, points, share
from lilliput.report.outcome import Outcome
from lilliput.report.parts import Cell, Chart, Choice, Column, Folded, Part, Prose, Section, Table, plain

SHOWN = 24  # more rows than this make a chart nobody reads; the table has them all


@dataclass(frozen=True)
class Score:
    """A class with its accuracy before and after, where known."""

    name: str
    was: float | None
    now: float | None

    @property
    def change(self) -> float | None:
        """Accuracy gained; negative where it was lost."""
        return None if self.was is None or self.now is None else self.now - self.was


def section(outcome: Outcome) -> Section:
    """What changed in a sentence and a chart, the largest loss on top, and every class in a table."""
    scores = read(outcome)
    if not any(score.was is not None or score.now is not None for score in scores):
        return Section("classes", "Classes", (Prose("The accuracy of each class was not recorded."), *_answers(outcome)))
    changed = [score for score in scores if score.change is not None]
    parts: list[Part] = [*_answers(outcome), Prose(_sentence(changed)), *([_chart(changed)] if changed else [])]
    table = _table(scores)
    return Section("classes", "Classes", (*parts, Folded("Every class in a table", table) if changed else table))


def _answers(outcome: Outcome) -> list[Part]:
    """How many images are answered otherwise now, and whether that could be chance."""
    found = mapping(outcome.after.get("answers"))
    total, lost, gained = (number(found.get(key)) for key in ("total", "lost", "gained"))
    if total is None or lost is None or gained is None or min(lost, gained) < 0 or lost + gained > total:
        return [Prose("Which answers changed was not recorded.")]
    if not lost + gained:
        return [Prose(f"All {plural(int(total), 'test image')} are answered as rightly or wrongly as before.")]
    text = (
        f"Of {plural(int(total), 'test image')}, {int(lost):,} that were answered right are wrong now, and {int(gained):,} the "
        "other way round. "
    )
    chance = mcnemar(int(lost), int(gained))
    what = "is no more than chance makes" if chance > LEVEL else "is more than chance makes"
    return [Prose(f"{text}That difference {what} (exact McNemar test, p = {chance:.2g}).")]


def read(outcome: Outcome) -> list[Score]:
    """The scores in the order of the classes; a class without a name goes by its number."""
    scores = mapping(outcome.details.get("per_class"))
    was, now, names = (listing(v) for v in (scores.get("baseline"), scores.get("compressed"), outcome.details.get("classes")))
    length = max(len(was), len(now))
    names = [str(name) for name in names[:length]] + [f"class {i}" for i in range(len(names), length)]
    padded = [[share(value) for value in side] + [None] * (length - len(side)) for side in (was, now)]
    return [Score(*score) for score in zip(names, *padded, strict=True)]


def _sentence(changed: Sequence[Score]) -> str:
    if not changed:
        return "Only one side was recorded, so there is nothing to compare."
    lost, gained = (sum((s.change or 0) * sign > 0 for s in changed) for sign in (-1, 1))
    if not lost + gained:
        return "No class lost or gained accuracy."
    text = f"Of {plural(len(changed), 'class', 'classes')}, {lost} lost accuracy and {gained} gained."
    worst = min(changed, key=lambda s: s.change or 0)
    if not lost:
        return text
    return f"{text} The largest loss is that of {worst.name}: {points(worst.was or 0, worst.now or 0)}."


def _chart(changed: Sequence[Score]) -> Chart:
    """The classes that changed most, from the largest loss to the largest gain."""
    most = sorted(changed, key=lambda s: -abs(s.change or 0))[:SHOWN]
    shown = sorted(most, key=lambda s: s.change or 0)
    data = {
        "unit": "%",
        "labels": [plain(s.name, 24) for s in shown],
        "before": [100 * (s.was or 0) for s in shown],
        "after": [100 * (s.now or 0) for s in shown],
        "hover": [_hover(s) for s in shown],
    }
    title = "Accuracy of each class" if len(shown) == len(changed) else f"Accuracy of the {SHOWN} classes that changed most"
    legend = (("before", "before"), ("after", "after"))
    return Chart("dumbbells", title, (Choice(title, data),), legend, "all of them stand in the table of classes below")


def _hover(score: Score) -> str:
    was, now = score.was or 0, score.now or 0
    return f"<b>{plain(score.name)}</b><br>{percent(was)} → {percent(now)}<br>{points(was, now)}"


def _table(scores: Sequence[Score]) -> Table:
    columns = (Column("Class"), Column("Before", True), Column("After", True), Column("Change", True))
    return Table(columns, tuple(_row(score) for score in scores))


def _row(score: Score) -> tuple[Cell, ...]:
    sides = (Cell(MISSING if value is None else percent(value), value) for value in (score.was, score.now))
    if score.change is None:
        return (Cell.of(score.name), *sides, Cell(MISSING))
    tone = "good" if score.change > 0 else "bad" if score.change < 0 else ""
    return (Cell.of(score.name), *sides, Cell(points(score.was or 0, score.now or 0), score.change, tone=tone))
