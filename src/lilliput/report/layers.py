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
    share,
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


def _sparsity(layer: Layer) -> float | None:
    """The share of multiply-adds whose weight is zero, of layers that multiply."""
    density = share(layer.get("density"))
    return None if density is None or not number(layer.get("macs")) else 1 - density


# A row here is a button above the bars and two columns of the table, wherever a run recorded it.
QUANTITIES = (
    Quantity("MACs", _at("macs"), amounts.count),
    Quantity("Bytes", _at("bytes"), amounts.size, "B"),
    Quantity("Milliseconds", _at("ms"), milliseconds, "ms"),
    Quantity("Bits", _at("bits"), "{:.3g}".format, additive=False),
    Quantity("Sparsity", _sparsity, percent, "%", additive=False, dull=0),
    Quantity("Rank", _at("rank"), "{:g}".format, additive=False),
    Quantity("Channels", _channels, "{:g}".format, additive=False),
    Quantity("Parameters", _at("params"), amounts.count),
    Quantity("Activations", _at("peak_activation_bytes"), amounts.size, "B", additive=False),
)
WHAT = {
    "Milliseconds": "Milliseconds: the exported file's layers on ONNX Runtime one by one; looking costs time itself, so "
    "they add up to more than the latency",
    "Sparsity": "Sparsity: the share of multiply-adds whose weight is zero",
    "Rank": "Rank: the most that the rank of a layer's matrix can be, of factors the narrowest point",
    "Activations": "Activations: the most alive at once while the layer runs",
}
ROLES = (("conv", "Convolutions"), ("linear", "Linear layers"), ("norm", "Norms"))


def section(outcome: Outcome) -> Section:
    """Bars for whatever was counted, the sums by kind of layer, and every layer in a table."""
    pairs = [pair for pair in paired(*sides(outcome)) if _works(pair)]
    found = [quantity for quantity in QUANTITIES if _tells(quantity, pairs)]
    if not found:
        return Section("layers", "Layers", (Prose("The layers were not recorded."),))
    legend = (("before", "before"), ("after", "after"))
    where = "all of them stand in the table of layers below"
    choices = tuple(_choice(q, pairs) for q in found)
    chart = Chart("bars", "Per layer, in the order in which they run", choices, legend, where)
    told = ["Sums by kind of layer, before → after", *(WHAT[q.title] for q in found if q.title in WHAT), *_rest(outcome)]
    kinds = _kinds(pairs, found, ". ".join(told) + ".")
    return Section("layers", "Layers", (chart, kinds, Folded("Every layer in a table", _table(pairs, found))))


def sides(outcome: Outcome) -> tuple[list[Layer], list[Layer]]:
    """The layers of both networks with what was measured of them; factors summed up as the layer that they replace."""
    before, after = (
        [_measured(outcome, side, layer) for layer in mappings(mapping(outcome.details.get("layers")).get(side))]
        for side in ("baseline", "compressed")
    )
    return before, joined(after, [str(layer.get("name", "")) for layer in before if number(layer.get("macs"))])


def _measured(outcome: Outcome, side: str, layer: Layer) -> Layer:
    name = str(layer.get("name", ""))
    time = mapping(mapping(mapping(mapping(outcome.details.get("times")).get(side)).get("layers")).get(name))
    rank = mapping(mapping(outcome.details.get("ranks")).get(side)).get(name)
    more = {"ms": time.get("ms"), "kernel": time.get("kernel"), "rank": rank}
    return {**layer, **{key: value for key, value in more.items() if value is not None}}


def joined(layers: Sequence[Layer], wholes: Sequence[str]) -> list[Layer]:
    """Layers that stand inside one of `wholes`, such as the factors `conv.first` and `conv.last` in `conv`, as one."""
    groups: dict[str, list[Layer]] = {}
    known = set(wholes)
    for layer in layers:
        name = str(layer.get("name", ""))
        above = (name[:i] for i, letter in enumerate(name) if letter == ".")
        whole = name if name in known else next((each for each in above if each in known), name)
        groups.setdefault(whole, []).append(layer)
    return [group[0] if len(group) == 1 else _join(name, group) for name, group in groups.items()]


def _join(name: str, group: Sequence[Layer]) -> Layer:
    """The sum of a layer and what stands in it. Bits are the mean over the parameters."""
    own = next((layer for layer in group if layer.get("name") == name), group[-1])
    inner = [layer for layer in group if layer is not own]
    sums = {key: _total(key, group) for key in ("params", "macs", "effective_macs", "bytes", "ms")}
    heavy = [(number(layer.get("params")) or 0, number(layer.get("bits"))) for layer in group]
    total = sum(many for many, bits in heavy if bits is not None)
    macs, effective = sums["macs"], sums["effective_macs"]
    kernels = dict.fromkeys(str(layer["kernel"]) for layer in group if layer.get("kernel"))
    return {
        **own, **sums, "name": name,
        "kind": f"{own.get('kind')}: {' and '.join(str(layer.get('kind')) for layer in inner)}",
        "bits": sum(many * bits for many, bits in heavy if bits is not None) / total if total else None,
        "density": effective / macs if macs and effective is not None else None,
        "peak_activation_bytes": max((number(each.get("peak_activation_bytes")) or 0 for each in group), default=0),
        "kernel": ", ".join(kernels) or None,
    }  # fmt: skip


def _total(key: str, layers: Sequence[Layer]) -> float | None:
    values = [value for layer in layers if (value := number(layer.get(key))) is not None]
    return number(sum(values)) if values else None


def _rest(outcome: Outcome) -> list[str]:
    """What runs beside the layers, such as sums and pooling."""
    times_of = mapping(outcome.details.get("times"))
    other = [number(mapping(times_of.get(side)).get("other")) for side in ("baseline", "compressed")]
    return [f"Everything else takes {_arrow(other, milliseconds)}"] if None not in other else []


def _arrow(values: Sequence[float | None], show: Callable[[float], str]) -> str:
    return " → ".join(dict.fromkeys(MISSING if value is None else show(value) for value in values))


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
        "before": [_scaled(quantity, was) for was, _ in values],
        "after": [_scaled(quantity, now) for _, now in values],
        "hover": [_hover(quantity, pair) for pair in shown],
    }
    return Choice(quantity.title, data)


def _scaled(quantity: Quantity, value: float | None) -> float | None:
    return value if value is None or quantity.unit != "%" else 100 * value


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
    kinds = dict.fromkeys(str(layer.get("kind") or f"kind {MISSING}").removeprefix("Mapped") for layer in pair if layer)
    return " → ".join(kinds)


def _kinds(pairs: Sequence[Pair], found: Sequence[Quantity], caption: str) -> Part:
    """Sums by kind of layer; what replaces a layer counts as of its kind."""
    summed = [quantity for quantity in found if quantity.additive]
    kinds: dict[str, list[Pair]] = {}
    for pair in pairs:
        kinds.setdefault(_role(pair), []).append(pair)
    rows = tuple(
        (Cell.of(kind), _counted(group), *(_change(*_sums(q, group), q.show) for q in summed)) for kind, group in kinds.items()
    )
    columns = (Column("Kind"), Column("Layers", True), *(Column(q.title, True) for q in summed))
    return Table(columns, rows, caption)


def _role(pair: Pair) -> str:
    """The kind by which layers are summed up."""
    kind = str((pair[0] or pair[1]).get("kind") or "").lower()
    return next((role for part, role in ROLES if part in kind), "Others")


def _counted(group: Sequence[Pair]) -> Cell:
    """How many of them are there, which a layer is not whose work another one took over."""
    was, now = (sum(bool(pair[side]) and _works((pair[side], {})) for pair in group) for side in (0, 1))
    return _change(was, now, str)


def _sums(quantity: Quantity, group: Sequence[Pair]) -> tuple[float | None, float | None]:
    was, now = ([value for pair in group if (value := quantity.get(pair[side])) is not None] for side in (0, 1))
    return (sum(was) if was else None), (sum(now) if now else None)


def _change(was: float | None, now: float | None, show: Callable[[Any], str]) -> Cell:
    """Two values in one cell, or one where nothing changed; sorted by what is left."""
    return Cell(" → ".join(dict.fromkeys("—" if value is None else show(value) for value in (was, now))), now)


def _table(pairs: Sequence[Pair], found: Sequence[Quantity]) -> Table:
    kernel = any(layer.get("kernel") for pair in pairs for layer in pair)
    words = ("Layer", "Kind", "Output", *(("Kernel",) if kernel else ()))
    columns = (*map(Column, words), *(Column(q.title, True) for q in found))
    rows = tuple((*_words(pair)[: len(words)], *_cells(pair, found)) for pair in pairs)
    caption = f"{plural(len(rows), 'layer')}, before → after; those without parameters or multiply-adds are left out."
    return Table(columns, rows, caption)


def _words(pair: Pair) -> tuple[Cell, ...]:
    """Name, kind, shape of the output, and which kernel runs it."""
    shapes = dict.fromkeys(shape(layer.get("output_shape")) or MISSING for layer in pair if layer)
    kernels = dict.fromkeys(str(layer.get("kernel") or "—") for layer in pair if layer)
    return (Cell.of(_name(pair)), Cell.of(_kind(pair)), Cell.of(" → ".join(shapes)), Cell.of(" → ".join(kernels)))


def _cells(pair: Pair, found: Sequence[Quantity]) -> Iterator[Cell]:
    """A cell for each quantity; sorted by what is left, a layer that left comes last."""
    for quantity in found:
        was, now = _values(quantity, pair)
        same = was == now and all(pair)
        yield Cell(_shown(quantity, pair[1]) if same else " → ".join(_shown(quantity, layer) for layer in pair), now)
