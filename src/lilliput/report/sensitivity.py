"""How accuracy falls as a single layer is compressed: per layer and method, against the amount."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lilliput.report.amounts import MISSING, mappings, percent, plural, share
from lilliput.report.outcome import Outcome
from lilliput.report.parts import Cell, Column, Folded, Mark, Panel, Panels, Prose, Section, Table

SHOWN = 60  # layers with a picture; the table has all of them
STYLES = 6  # looks of lines in `page.css`
WIDTH, HEIGHT, ABOVE, BELOW = 200, 80, 18, 5  # of a panel, and what is kept free in it
POINT = 0.01  # of accuracy: what a layer may cost alone to count as able to bear an amount


@dataclass(frozen=True)
class Curve:
    """Accuracy of the network where one layer bears a method: pairs of amount and accuracy, by amount."""

    layer: str
    method: str
    points: tuple[tuple[float, float], ...]

    @property
    def worst(self) -> float:
        """The lowest accuracy."""
        return min(accuracy for _, accuracy in self.points)

    def bears(self, least: float) -> float | None:
        """The largest amount up to which accuracy never falls below `least`; None where already the first is too much."""
        held = None
        for amount, accuracy in self.points:
            if accuracy < least:
                break
            held = amount
        return held


def section(outcome: Outcome) -> Section | None:
    """A small picture a layer, what every layer bears, and every measurement; nothing where none was taken."""
    curves = read(outcome)
    if not curves:
        return None
    start = share(outcome.before.get("val_accuracy"))
    reference = start if start is not None else max(accuracy for curve in curves for _, accuracy in curve.points)
    return Section(
        "sensitivity", "Sensitivity",
        (
            Prose(_sentence(curves, reference)), _panels(curves, start, reference),
            Folded("What every layer bears", _bearing(curves, reference)),
            Folded("Every measurement in a table", _measurements(curves, reference)),
        ),
    )  # fmt: skip


def read(outcome: Outcome) -> list[Curve]:
    """The curves in the order in which layers and methods first appear; rows without numbers are left out."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in mappings(outcome.metrics.get("sensitivity")):
        amount, accuracy = share(row.get("amount")), share(row.get("accuracy"))
        if amount is not None and accuracy is not None:
            key = (str(row.get("layer") or f"layer {MISSING}"), str(row.get("method") or f"method {MISSING}"))
            found.setdefault(key, []).append((amount, accuracy))
    return [Curve(layer, method, tuple(sorted(points))) for (layer, method), points in found.items()]


def _sentence(curves: Sequence[Curve], reference: float) -> str:
    worst, best = min(curves, key=lambda c: c.worst), max(curves, key=lambda c: c.worst)
    amount = next(amount for amount, accuracy in worst.points if accuracy == worst.worst)
    text = (
        f"One layer was compressed at a time, the others left alone: {plural(len(_layers(curves)), 'layer')}, "
        f"{plural(len(_methods(curves)), 'method')}, accuracy on validation. The most sensitive is {worst.layer}: "
        f"{worst.method} at {_share(amount)} leaves {percent(worst.worst)} of {percent(reference)}."
    )
    return text if best.layer == worst.layer else f"{text} {best.layer} bears {best.method} best."


def _layers(curves: Sequence[Curve]) -> list[str]:
    return list(dict.fromkeys(curve.layer for curve in curves))


def _methods(curves: Sequence[Curve]) -> list[str]:
    return list(dict.fromkeys(curve.method for curve in curves))


def _share(value: float) -> str:
    """
    >>> _share(0.5), _share(0.125)
    ('50 %', '12.5 %')
    """
    return f"{100 * value:.3g} %"


def _panels(curves: Sequence[Curve], start: float | None, reference: float) -> Panels:
    layers, methods = _layers(curves), _methods(curves)
    worst = {layer: min(c.worst for c in curves if c.layer == layer) for layer in layers}
    kept = set(sorted(layers, key=lambda layer: worst[layer])[:SHOWN])
    most = max(abs(amount) for curve in curves for amount, _ in curve.points) or 1.0
    low, high = min(worst.values()), max(reference, *(accuracy for curve in curves for _, accuracy in curve.points))
    frame = (most, low, high if high > low else low + POINT)
    panels = tuple(
        _panel(layer, [c for c in curves if c.layer == layer], methods, start, frame) for layer in layers if layer in kept
    )
    legend = tuple((f"curve method-{i % STYLES}", method) for i, method in enumerate(methods))
    caption = "Accuracy against amount, all on the same axes; the dashed line is the uncompressed network."
    if len(kept) < len(layers):
        caption += f" Shown are the {SHOWN} most sensitive of {len(layers)} layers."
    return Panels("Accuracy against amount, layer by layer", panels, legend, caption)


def _panel(
    layer: str, curves: Sequence[Curve], methods: Sequence[str], start: float | None, frame: tuple[float, float, float]
) -> Panel:
    most, low, high = frame

    def place(amount: float, accuracy: float) -> str:
        y = ABOVE + (HEIGHT - ABOVE - BELOW) * (high - accuracy) / (high - low)
        return f"{WIDTH * (0.02 + 0.96 * amount / most):.4g} {y:.4g}"

    marks = [] if start is None else [Mark("reference", f"M{place(0, start)}L{place(most, start)}")]
    for curve in curves:
        role = f"method-{methods.index(curve.method) % STYLES}"
        marks.append(Mark(f"curve {role}", "M" + "L".join(place(*point) for point in curve.points)))
        marks += [
            Mark(f"dot {role}", f"M{place(*point)}h0", f"{curve.method} at {_share(point[0])}: {percent(point[1])}")
            for point in curve.points
        ]
    worst = min(curves, key=lambda c: c.worst)
    note = f"down to {percent(worst.worst)}" + (f" by {worst.method}" if len(methods) > 1 else "")
    return Panel(layer, note, tuple(marks), ("0 %", _share(most)), (percent(high), percent(low)))


def _bearing(curves: Sequence[Curve], reference: float) -> Table:
    """Of each layer and method the amount that costs at most a point."""
    methods = _methods(curves)
    by = {(curve.layer, curve.method): curve for curve in curves}
    rows = []
    for layer in _layers(curves):
        found = [by.get((layer, method)) for method in methods]
        held = [None if curve is None else curve.bears(reference - POINT) for curve in found]
        cells = [
            Cell("—") if curve is None else Cell("nothing measured", -1.0) if value is None else Cell(_share(value), value)
            for curve, value in zip(found, held, strict=True)
        ]
        rows.append((Cell.of(layer), *cells))
    columns = (Column("Layer"), *(Column(method, True) for method in methods))
    return Table(columns, tuple(rows), "The largest amount measured that costs at most one point of accuracy, alone.")


def _measurements(curves: Sequence[Curve], reference: float) -> Table:
    columns = (Column("Layer"), Column("Method"), *(Column(title, True) for title in ("Amount", "Accuracy", "Change")))
    rows = tuple(
        (
            Cell.of(curve.layer), Cell.of(curve.method), Cell(_share(amount), amount), Cell(percent(accuracy), accuracy),
            Cell(f"{100 * (accuracy - reference):+.2f} points".replace("-", "−"), accuracy - reference),
        )
        for curve in curves for amount, accuracy in curve.points
    )  # fmt: skip
    return Table(columns, rows, f"{plural(len(rows), 'measurement')}.")
