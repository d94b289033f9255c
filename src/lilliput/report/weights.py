"""Histograms of the weights of every layer, before and after: masks leave a gap around zero, quantizers a comb."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lilliput.report.amounts import count, listing, mapping, number, plural
from lilliput.report.outcome import Outcome
from lilliput.report.parts import Folded, Mark, Panel, Panels, Part, Prose, Section

Histogram = Mapping[str, Any]
SHOWN, KEPT = 20, 100  # panels at once, and in all: more nobody reads, and every one takes a kilobyte
BULK = 0.995  # of the weights are in the picture; the rest is further out than it reaches
LOOSE = 3  # times as wide as the other: then each has an axis of its own
WIDTH, HEIGHT = 200, 80  # of a panel
LEGEND = (("hist before", "before"), ("hist after", "after"))
CAPTION = (
    "Weights as the layer uses them, through masks and quantizers, each side scaled to its own peak. Weights that are zero are "
    "counted in words and left out of the picture, and so is the outermost half percent."
)
OWN_AXES = " Where both sides differ widely, as where a norm was folded in, each has an axis of its own."


def section(outcome: Outcome) -> Section:
    """A small picture for each layer, in the order in which they stand; of very many, those with the most weights."""
    sides = mapping(outcome.details.get("weights"))
    was, now = ({n: h for n, h in mapping(sides.get(s)).items() if _known(h)} for s in ("baseline", "compressed"))
    names = _ordered(list(was), list(now))
    if not names:
        return Section("weights", "Weights", (Prose("The weights were not recorded."),))
    kept = _largest(names, was, now, KEPT)
    first = _largest(kept, was, now, SHOWN)
    panels = {name: _panel(name, was.get(name), now.get(name)) for name in kept}
    caption = CAPTION + OWN_AXES * any("→" in panel.across[0] for panel in panels.values() if panel.across)
    if len(kept) < len(names):
        caption += f" Of {len(names)} layers those with the fewest weights are left out."
    title = "Weights of each layer" if len(first) == len(names) else f"Weights of the {SHOWN} layers that have most of them"
    parts: list[Part] = [Panels(title, tuple(panels[name] for name in first), LEGEND, caption)]
    if rest := [name for name in kept if name not in first]:
        more = Panels("Weights of the other layers", tuple(panels[name] for name in rest), LEGEND)
        parts.append(Folded(f"The other {plural(len(rest), 'layer')}", more))
    return Section("weights", "Weights", tuple(parts))


def _known(value: object) -> bool:
    """Whether it is a histogram with anything in it."""
    found = mapping(value)
    counts = [number(n) for n in listing(found.get("counts"))]
    whole = bool(number(found.get("elements"))) and number(found.get("zeros")) is not None
    return (
        whole
        and isinstance(found.get("counts"), list)
        and (number(found.get("edge")) or -1) >= 0
        and None not in counts
        and all((n or 0) >= 0 for n in counts)
    )


def _ordered(before: Sequence[str], after: Sequence[str]) -> list[str]:
    """Every name once; one that only `after` has stands behind the one before it there."""
    names = list(before)
    place = 0
    for name in after:
        if name not in names:
            names.insert(place, name)
        place = names.index(name) + 1
    return names


def _largest(names: Sequence[str], was: Mapping[str, Histogram], now: Mapping[str, Histogram], many: int) -> list[str]:
    """The layers with most weights, in the order of `names`."""
    weight = {name: number((was.get(name) or now.get(name) or {}).get("elements")) or 0 for name in names}
    kept = set(sorted(names, key=lambda name: -weight[name])[:many])
    return [name for name in names if name in kept]


def _panel(name: str, was: Histogram | None, now: Histogram | None) -> Panel:
    sides = [(role, side, _reach(side)) for role, side in (("hist before", was), ("hist after", now)) if side]
    reaches = [reach for _, _, reach in sides if reach]
    apart = bool(reaches) and max(reaches) > LOOSE * min(reaches)
    widest = max(reaches, default=0.0)
    marks = tuple(
        Mark(role, outline([float(n) for n in side["counts"]], float(side["edge"]), reach if apart else widest))
        for role, side, reach in sides
        if reach
    )
    ends = [f"{reach:.2g}" for _, _, reach in sides if reach] if apart else [f"{widest:.2g}"] * bool(widest)
    across = (f"−{' → −'.join(ends)}", "0", " → ".join(ends)) if ends else ()
    return Panel(name or "(the model itself)", _note(was, now), marks, across)


def _reach(side: Histogram) -> float:
    """How far from zero the bulk of the weights goes, to the end of a bin."""
    counts, edge = [float(n) for n in side["counts"]], float(side["edge"])
    total, half = sum(counts), len(counts) / 2
    inside = 0.0
    for ring in range(1, int(half) + 1):
        inside += counts[int(half) - ring] + counts[len(counts) - int(half) + ring - 1]
        if inside >= BULK * total > 0:
            return edge * ring / half
    return edge if total else 0.0


def outline(counts: Sequence[float], edge: float, reach: float) -> str:
    """A histogram from -edge to edge as a closed path, in a panel that goes from -reach to reach.

    >>> outline([1, 0, 0, 2], 1.0, 1.0)
    'M0 80V40H50V80H100V80H150V0H200V80Z'
    """
    peak = max(counts, default=0.0) or 1.0
    scale = edge / reach
    places = [WIDTH / 2 * (1 + scale * (2 * i / len(counts) - 1)) for i in range(len(counts) + 1)]
    steps = "".join(f"V{HEIGHT * (1 - n / peak):.4g}H{x:.4g}" for n, x in zip(counts, places[1:], strict=True))
    return f"M{places[0]:.4g} {HEIGHT}{steps}V{HEIGHT}Z"


def _note(was: Histogram | None, now: Histogram | None) -> str:
    """How many there are, and how many of them are zero."""
    sides = [side for side in (was, now) if side]
    many = dict.fromkeys(int(side["elements"]) for side in sides)
    text = " → ".join(count(n) for n in many)
    text = plural(next(iter(many)), "weight") if len(many) == 1 and next(iter(many)) < 10_000 else f"{text} weights"
    zeros = dict.fromkeys(_percent(side["zeros"] / side["elements"]) for side in sides)
    if set(zeros) != {"0"}:
        text += f", {' → '.join(zeros)}\u00a0% zero"
    return text if was and now else f"{text}, {'before' if was else 'after'} alone"


def _percent(share: float) -> str:
    """
    >>> _percent(0.9), _percent(0.01424), _percent(0)
    ('90', '1.4', '0')
    """
    return f"{100 * share:.0f}" if share >= 0.1 else f"{100 * share:.2g}"
