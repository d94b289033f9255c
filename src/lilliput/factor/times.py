"""What layers take, on the clock of the look: so that a layer is factorized only where that is faster."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from lilliput.core.edits import Edit
from lilliput.core.perform import perform
from lilliput.factor.chain import Chain, spec_of
from lilliput.factor.ranks import Rung
from lilliput.factor.shape import Link, Pair
from lilliput.factor.sites import Site
from lilliput.measure.shape_times import LayerShape

FEW, SOME = 6, 10  # ranks of a form tried where every one means timing a whole network, and where there is a table


@runtime_checkable
class Layered(Protocol):
    """A clock that also knows what single layers take."""

    def layers(self, shapes: Sequence[LayerShape]) -> list[float]:
        """Milliseconds of each shape."""
        ...


@runtime_checkable
class Inside(Protocol):
    """A clock that also knows what each layer takes where it stands in its network."""

    def inside(self, model: nn.Module) -> dict[str, float]:
        """Milliseconds by the name of the layer."""
        ...


@runtime_checkable
class Paired(Protocol):
    """A clock that can time two networks in turns, so that their ratio holds on a machine that drifts."""

    def ratio(self, model: nn.Module, baseline: nn.Module) -> float:
        """The time of a model as a share of the baseline's."""
        ...


def share(clock: Callable[[nn.Module], float], model: nn.Module, baseline: nn.Module) -> float:
    """What a model takes as a share of what the baseline does."""
    return clock.ratio(model, baseline) if isinstance(clock, Paired) else clock(model) / clock(baseline)


def times(
    model: nn.Module, ladders: Sequence[tuple[Site, list[Rung]]], clock: Callable[[nn.Module], float], batch: int
) -> list[tuple[float, list[float]]]:
    """Milliseconds of each layer as it is, and of each of its rungs, in the order of the ladders.

    From the clock's table of layers where it has one: the table says how a rung compares with the layer, and the network,
    where the clock can look inside, what the layer takes there, so that a machine which is faster or slower than when the
    table was made changes nothing. Any other clock times the whole network with that one change, and a layer is taken to
    take what its fastest rung saves.
    """
    if isinstance(clock, Layered):
        table = clock.layers
        shapes = [[_shapes(site.links, site, batch), *[_shapes(_links(site, r), site, batch) for r in rungs]]
                  for site, rungs in ladders]  # fmt: skip
        known = dict(zip(flat := [s for site in shapes for rung in site for s in rung], table(flat), strict=True))
        totals = [[sum(known[s] for s in rung) for rung in site] for site in shapes]
        inside = clock.inside(model) if isinstance(clock, Inside) else {}
        scales = _scales([site for site, _ in ladders], [own for own, *_ in totals], inside)
        return [(scale * own, [scale * ms for ms in rungs]) for scale, (own, *rungs) in zip(scales, totals, strict=True)]
    whole = clock(model)
    added = [[clock(outlined(model, edits(site, rung))) - whole for rung in rungs] for site, rungs in ladders]
    owns = [max(0.0, -min(rungs, default=0.0)) for rungs in added]
    return [(own, [own + ms for ms in rungs]) for own, rungs in zip(owns, added, strict=True)]


def _scales(here: Sequence[Site], owns: Sequence[float], inside: dict[str, float]) -> list[float]:
    """What each layer takes in its network for every millisecond of the table; of layers not seen there, as the others."""
    found = []
    for site, own in zip(here, owns, strict=True):
        seen = sum(ms for name, ms in inside.items() if name == site.name or name.startswith(f"{site.name}."))
        found.append(seen / own if seen and own and len(site.sizes) == 1 else None)  # runs of one layer are named apart
    usual = statistics.median([scale for scale in found if scale is not None] or [1.0])
    return [usual if scale is None else scale for scale in found]


def outlined(model: nn.Module, planned: Sequence[Edit]) -> nn.Module:
    """The network that these edits make, to be timed: no number is computed, and none is zero.

    Chains of zeros would be packed on export as layers that need no time at all.
    """
    made = perform(model, planned, weights=False)
    with torch.no_grad():
        for chain in (module for module in made.modules() if isinstance(module, Chain)):
            for weight in (p for p in chain.parameters() if p.dim() > 1):
                weight.fill_(weight[0].numel() ** -0.5)
    return made


def thinned(rungs: list[Rung], clock: Callable[[nn.Module], float]) -> list[Rung]:
    """The rungs worth timing, since every shape takes a while: of each form a few, evenly by what they lose."""
    count = SOME if isinstance(clock, Layered) else FEW
    kept = []
    for form in dict.fromkeys(rung.form for rung in rungs):
        ordered = sorted((r for r in rungs if r.form is form), key=lambda r: (r.error, r.macs))
        places = {round(i * (len(ordered) - 1) / (count - 1)) for i in range(count)}
        kept += [ordered[place] for place in sorted(places)]
    return kept


def edits(site: Site, rung: Rung) -> list:  # type: ignore[type-arg]
    """The edits that put a rung at its site."""
    return rung.form.edits(site.name, spec_of(rung.ranks, rung.options, rung.form.options))


def _links(site: Site, rung: Rung) -> list[Link]:
    return rung.form.links(site.seen, rung.ranks, **rung.options)


def _shapes(links: Sequence[Link], site: Site, batch: int) -> list[LayerShape]:
    """The shapes of a chain's links, for every time the layer runs."""
    found = []
    for size in site.sizes:
        for link in links:
            found.append(_shape(link, size, site.seen.linear, batch))
            size = link.after(size)
    return found


def _shape(link: Link, size: Pair, linear: bool, batch: int) -> LayerShape:
    if linear:
        return LayerShape("linear", link.inputs, link.outputs, (size[0],), batch=batch)
    if isinstance(link.padding, str):
        whole = [d * (k - 1) if link.padding == "same" else 0 for d, k in zip(link.dilation, link.kernel, strict=True)]
        pads = (*(n // 2 for n in whole), *(n - n // 2 for n in whole))
    else:
        pads = (*link.padding, *link.padding)
    return LayerShape(
        "conv", link.inputs, link.outputs, size, link.kernel, link.stride, link.dilation, pads, link.groups, batch
    )
