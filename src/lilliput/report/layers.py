"""Every layer before and after."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lilliput.report import amounts
from lilliput.report.amounts import (
    MISSING,
    listing,
    mapping,
    mappings,
    milliseconds,
    number,
    percent,
    plural,
    shape,
    times,
)
from lilliput.report.outcome import Outcome
from lilliput.report.parts import Cell, Chart, Choice, Column, Folded, Part, Prose, Section, Table, plain

Layer = Mapping[str, Any]
Pair = tuple[Layer, Layer]  # one layer before and after; empty where a network has no such layer


@dataclass(frozen=True)
class Quantity:
    """Something counted for each layer.

    `additive` where the sum over layers means something; `dull` is the value that says nothing if all layers have it.
    """

    title: str
    get: Callable[[Layer], float | None]
    show: Callable[[float], str]
    unit: str = ""
    additive: bool = True
    dull: float | None = None


def _at(key: str) -> Callable[[Layer], float | None]:
    return lambda layer: number(layer.get(key))


def _channels(layer: Layer) -> float | None:
    """Output channels, of layers that multiply."""
    outputs = listing(layer.get("output_shape"))
    return number(outputs[1]) if number(layer.get("macs")) and len(outputs) > 1 else None


# A row here is a button above the bars and two columns of the table, wherever a run recorded it.
QUANTITIES = (
    Quantity("MACs", _at("macs"), amounts.count),
    Quantity("Bytes", _at("bytes"), amounts.size, "B"),
    Quantity("Bits", _at("bits"), "{:g}".format, additive=False),
    Quantity("Channels", _channels, "{:g}".format, additive=False),
    Quantity("Parameters", _at("params"), amounts.count),
    Quantity("Nonzero", _at("density"), percent, additive=False, dull=1),
    Quantity("Rank", _at("rank"), "{:g}".format, additive=False),
    Quantity("Milliseconds", _at("ms"), milliseconds, "ms"),
    Quantity("Activations", _at("peak_activation_bytes"), amounts.size, "B", additive=False),
)


def section(outcome: Outcome) -> Section:
    """Bars for whatever was counted, the sums by kind of layer, and every layer in a table."""
    rows = mapping(outcome.details.get("layers"))
    pairs = [pair for pair in paired(mappings(rows.get("baseline")), mappings(rows.get("compressed"))) if _works(pair)]
    found = [quantity for quantity in QUANTITIES if _tells(quantity, pairs)]
    if not found:
        return Section("layers", "Layers", (Prose("The layers were not recorded."),))
    legend = (("before", "before"), ("after", "after"))
    chart = Chart("bars", "Per layer, in the order in which they run", tuple(_choice(q, pairs) for q in found), legend)
    return Section("layers", "Layers", (chart, _kinds(pairs, found), Folded("Every layer in a table", _table(pairs, found))))


def paired(before: Sequence[Layer], after: Sequence[Layer]) -> list[Pair]:
    """Layers of one name side by side; one that only the compressed network has comes after the one before it."""
    was, now = ({str(layer.get("name", "")): layer for layer in layers} for layers in (before, after))
    names, place = list(was), 0
    for name in now:
        if name in was:
            place = names.index(name) + 1
        else:
            names.insert(place, name)
            place += 1
    return [(was.get(name, {}), now.get(name, {})) for name in names]


def _works(pair: Pair) -> bool:
    return any(number(layer.get(key)) for layer in pair for key in ("macs", "params", "bytes"))


def _tells(quantity: Quantity, pairs: Sequence[Pair]) -> bool:
    return any(value not in (None, quantity.dull) for pair in pairs for value in _values(quantity, pair))


def _values(quantity: Quantity, pair: Pair) -> tuple[float | None, float | None]:
    return quantity.get(pair[0]), quantity.get(pair[1])


def _name(pair: Pair) -> str:
    return str((pair[0] or pair[1]).get("name") or "(the model itself)")


def _choice(quantity: Quantity, pairs: Sequence[Pair]) -> Choice:
    """Bars of the layers where there is something to show: two values each, with a text for the pointer."""
    shown = [pair for pair in pairs if any(_values(quantity, pair))]
    values = [_values(quantity, pair) for pair in shown]
    data = {
        "unit": quantity.unit,
        "labels": [plain(_name(pair), 28) for pair in shown],
        "before": [was for was, _ in values],
        "after": [now for _, now in values],
        "hover": [_hover(quantity, pair) for pair in shown],
    }
    return Choice(quantity.title, data)


def _hover(quantity: Quantity, pair: Pair) -> str:
    was, now = _values(quantity, pair)
    lines = [f"<b>{plain(_name(pair))}</b>  {plain(_kind(pair))}"]
    lines += [f"{when}: {_shown(quantity, layer)}" for when, layer in zip(("before", "after"), pair, strict=True)]
    if was and now:
        lines.append(times(was, now, "smaller", "larger"))
    return "<br>".join(lines)


def _shown(quantity: Quantity, layer: Layer) -> str:
    """A value, or why there is none."""
    value = quantity.get(layer)
    return quantity.show(value) if value is not None else "—" if layer else "no such layer"


def _kind(pair: Pair) -> str:
    kinds = dict.fromkeys(str(layer.get("kind") or f"kind {MISSING}") for layer in pair if layer)
    return " → ".join(kinds)


def _kinds(pairs: Sequence[Pair], found: Sequence[Quantity]) -> Part:
    """Sums by kind of layer, as they stand in each network."""
    sums = [quantity for quantity in found if quantity.additive]
    kinds: dict[str, tuple[list[Layer], list[Layer]]] = {}
    for pair in pairs:
        for side, layer in enumerate(pair):
            if layer:
                kinds.setdefault(str(layer.get("kind") or f"kind {MISSING}"), ([], []))[side].append(layer)
    rows = tuple(
        (Cell.of(kind), _change(len(was), len(now), str), *(_change(_sum(q, was), _sum(q, now), q.show) for q in sums))
        for kind, (was, now) in kinds.items()
    )
    columns = (Column("Kind"), Column("Layers", True), *(Column(q.title, True) for q in sums))
    return Table(columns, rows, "Sums by kind of layer, before → after.")


def _sum(quantity: Quantity, layers: Sequence[Layer]) -> float:
    return sum(quantity.get(layer) or 0 for layer in layers)


def _change(was: float, now: float, show: Callable[[Any], str]) -> Cell:
    """Two values in one cell, or one where nothing changed; sorted by what is left."""
    return Cell(show(now) if was == now else f"{show(was)} → {show(now)}", now)


def _table(pairs: Sequence[Pair], found: Sequence[Quantity]) -> Table:
    columns = (Column("Layer"), Column("Kind"), Column("Output"), *(Column(q.title, True) for q in found))
    rows = tuple((Cell.of(_name(pair)), Cell.of(_kind(pair)), _output(pair), *_cells(pair, found)) for pair in pairs)
    caption = f"{plural(len(rows), 'layer')}, before → after; those without parameters or multiply-adds are left out."
    return Table(columns, rows, caption)


def _output(pair: Pair) -> Cell:
    shapes = dict.fromkeys(shape(layer.get("output_shape")) or MISSING for layer in pair if layer)
    return Cell.of(" → ".join(shapes))


def _cells(pair: Pair, found: Sequence[Quantity]) -> Iterator[Cell]:
    """A cell for each quantity; sorted by what is left, a layer that left comes last."""
    for quantity in found:
        was, now = _values(quantity, pair)
        same = was == now and all(pair)
        yield Cell(_shown(quantity, pair[1]) if same else " → ".join(_shown(quantity, layer) for layer in pair), now)
