"""How the network learned: one curve over all training steps of the recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lilliput.config import parse
from lilliput.report.amounts import MISSING, mappings, number, seconds
from lilliput.report.outcome import Outcome
from lilliput.report.parts import Beside, Cell, Chart, Choice, Column, Part, Prose, Section, Table, plain

Stage = Mapping[str, Any]
ACCURACY = (("train_accuracy", "training split", "before"), ("val_accuracy", "validation split", "after"))
LOSS = (("train_loss", "training split", "before"), ("val_loss", "validation split", "after"))


def section(outcome: Outcome) -> Section:
    """Accuracy and loss by epoch, and the steps of the recipe with the time each took."""
    stages = mappings(outcome.details.get("stages"))
    if not stages:
        return Section("training", "Training", (Prose("The steps of this run were not recorded."),))
    return Section("training", "Training", (_steps(stages), *_curves(stages)))


def _steps(stages: Sequence[Stage]) -> Table:
    columns = (Column("Step"), Column("Edits", True), Column("Epochs", True), Column("Time", True), Column("Made"))
    return Table(columns, tuple(_step(stage) for stage in stages), sortable=False)


def _step(stage: Stage) -> tuple[Cell, ...]:
    edits, epochs, took = number(stage.get("edits")), len(mappings(stage.get("history"))), number(stage.get("seconds"))
    reused = stage.get("reused")
    return (
        Cell.of(_text(stage)),
        Cell(MISSING if edits is None else f"{edits:,.0f}"),
        Cell(str(epochs) if epochs else "—"),
        Cell(MISSING if took is None else seconds(took)),
        Cell(MISSING if reused is None else "from the store" if reused else "this run"),
    )


def _text(stage: Stage) -> str:
    return str(stage.get("step") or f"step {MISSING}")


def _curves(stages: Sequence[Stage]) -> list[Part]:
    trained = [stage for stage in stages if mappings(stage.get("history"))]
    if not trained:
        return [Prose("No step trained, so there is no curve.")]
    charts = [_chart("Accuracy by epoch", ACCURACY, trained, "%", 100), _chart("Loss by epoch", LOSS, trained, "", 1)]
    found = [chart for chart in charts if chart is not None]
    sparse = _sparsity(stages)
    more = [] if sparse is None else [sparse]
    return [Beside(tuple(found)), *more] if found else [Prose("Neither accuracies nor losses of the epochs were recorded.")]


def _sparsity(stages: Sequence[Stage]) -> Chart | None:
    """Accuracy against the share of weights left, where a recipe prunes and trains in turns."""
    left, points = 1.0, list[tuple[float, float]]()
    for stage in stages:
        text = _text(stage)
        if text.startswith("prune.weights("):
            rate = number(getattr(parse(text), "rate", None))
            left = left if rate is None else 1 - rate
        history = mappings(stage.get("history"))
        accuracy = number(history[-1].get("val_accuracy")) if history else None
        if accuracy is not None:
            points.append((100 * left, 100 * accuracy))
    if len({x for x, _ in points}) < 3:
        return None
    title, lines = "Accuracy against weights left", [{"role": "after", "name": "validation split", "y": [y for _, y in points]}]
    data = {"unit": "%", "x": [x for x, _ in points], "x_title": "weights left, %", "lines": lines, "marks": []}
    return Chart("lines", title, (Choice(title, data),), (("after", "validation split"),))


def _chart(
    title: str, series: Sequence[tuple[str, str, str]], stages: Sequence[Stage], unit: str, scale: float
) -> Chart | None:
    """Epochs are counted through; None between two steps breaks the line."""
    lines = [(role, name, _line(key, stages, scale)) for key, name, role in series]
    lines = [line for line in lines if any(y is not None for y in line[2])]
    if not lines:
        return None
    data = {
        "unit": unit,
        "x": _epochs(stages),
        "lines": [{"role": role, "name": name, "y": y} for role, name, y in lines],
        "marks": _marks(stages),
    }
    return Chart("lines", title, (Choice(title, data),), tuple((role, name) for role, name, _ in lines))


def _line(key: str, stages: Sequence[Stage], scale: float) -> list[float | None]:
    values: list[float | None] = []
    for stage in stages:
        found = [number(row.get(key)) for row in mappings(stage.get("history"))]
        values += [None if value is None else scale * value for value in found] + [None]
    return values


def _epochs(stages: Sequence[Stage]) -> list[float | None]:
    epochs: list[float | None] = []
    start = 0
    for stage in stages:
        length = len(mappings(stage.get("history")))
        epochs += [*range(start + 1, start + length + 1), None]
        start += length
    return epochs


def _marks(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """Where each training step begins, if there are several."""
    if len(stages) < 2:
        return []
    starts = [0]
    for stage in stages[:-1]:
        starts.append(starts[-1] + len(mappings(stage.get("history"))))
    names = [f"{_text(stage).split('(')[0]} {i}" for i, stage in enumerate(stages, start=1)]
    return [{"x": x + 0.5, "text": plain(name, 16)} for x, name in zip(starts, names, strict=True)]
