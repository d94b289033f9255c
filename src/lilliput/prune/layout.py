"""The layers of a network as functions of its groups' widths: shapes, counts by formula, and milliseconds by a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from torch import nn
from torch.nn.modules.conv import _ConvNd

from lilliput.core.channels import Slot
from lilliput.measure.shape_times import LayerShape
from lilliput.prune.thinning import Counts, Thinning

Times = Callable[[Sequence[LayerShape]], list[float]]
"""Milliseconds of layers by their shape."""

_PAIRS = 1024  # combinations of widths around one layer that are measured beforehand; beyond, as they come up


@dataclass(frozen=True, eq=False)
class Axis:
    """The channels on one side of a layer: those that always stay, and how many the first 0, 1, … atoms of each group are."""

    fixed: int
    groups: dict[int, list[int]]

    def width(self, counts: Counts) -> int:
        """How many channels are left."""
        return self.fixed + sum(of[counts[g]] for g, of in self.groups.items())

    def widths(self, candidates: Sequence[Sequence[int]]) -> set[int]:
        """All that can be left when groups have candidate widths."""
        found = {self.fixed}
        for g, of in self.groups.items():
            found = {n + of[k] for n in found for k in candidates[g]}
            if len(found) > _PAIRS:
                break
        return found


@dataclass(frozen=True, eq=False)
class Place:
    """A layer that takes time, how often it runs, and the two sides of it.

    `grouped` says what becomes of a convolution's groups when it shrinks: "whole" ones leave, or they "shrink" evenly.
    """

    shape: LayerShape
    calls: int
    inputs: Axis | None
    outputs: Axis | None
    grouped: str = "shrink"

    def sides(self, counts: Counts) -> tuple[int, int]:
        """Channels in and out. A depthwise convolution has one set of channels, named as its outputs."""
        outs = self.shape.outputs if self.outputs is None else self.outputs.width(counts)
        if self.inputs is not None:
            return self.inputs.width(counts), outs
        return (outs * self.shape.inputs // self.shape.outputs if self.grouped == "whole" else self.shape.inputs), outs

    def reachable(self, candidates: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
        """All channels in and out that candidate widths of groups can lead to; none where they are too many."""
        outs = {self.shape.outputs} if self.outputs is None else self.outputs.widths(candidates)
        if self.inputs is None and self.grouped == "whole":
            return [(o * self.shape.inputs // self.shape.outputs, o) for o in sorted(outs)]
        ins = {self.shape.inputs} if self.inputs is None else self.inputs.widths(candidates)
        return sorted(product(ins, outs)) if len(ins) * len(outs) <= _PAIRS else []

    def at(self, sides: tuple[int, int]) -> LayerShape:
        """The layer with so many channels in and out."""
        ins, outs = sides
        groups = self.shape.groups * outs // self.shape.outputs if self.grouped == "whole" else self.shape.groups
        return self.shape.resized(ins, outs, max(groups, 1))


class Layout:
    """What a network costs at given widths, added up over its convolutions and linear layers."""

    def __init__(self, thinning: Thinning, times: Times) -> None:
        self.thinning, self._times = thinning, times
        self.places = _places(thinning)
        self.touched = [
            [i for i, p in enumerate(self.places) if any(a is not None and g in a.groups for a in (p.inputs, p.outputs))]
            for g in range(len(thinning.groups))
        ]
        self._known: dict[tuple[int, tuple[int, int]], tuple[float, float, float]] = {}

    def prepare(self, candidates: Sequence[Sequence[int]]) -> None:
        """Ask for all the times that candidate widths of groups can need, at once."""
        shapes = (_grid(place.at(sides)) for place in self.places for sides in place.reachable(candidates))
        self._times(list({str(shape): shape for shape in shapes}.values()))

    def costs(self, counts: Counts, places: Iterable[int] | None = None) -> tuple[float, float, float]:
        """Milliseconds, multiply-adds and weights, of all layers or of some."""
        ms = macs = weights = 0.0
        for i in range(len(self.places)) if places is None else places:
            one = self._one(i, self.places[i].sides(counts))
            ms, macs, weights = ms + one[0], macs + one[1], weights + one[2]
        return ms, macs, weights

    def _one(self, i: int, sides: tuple[int, int]) -> tuple[float, float, float]:
        if (i, sides) not in self._known:
            place = self.places[i]
            shape = place.at(sides)
            ms = self._times([_grid(shape)])[0]
            self._known[i, sides] = (ms * place.calls, float(shape.macs * place.calls), float(shape.weights))
        return self._known[i, sides]


def candidates(size: int, multiple: int) -> list[int]:
    """Widths to choose among, ascending: up to a dozen multiples of 4, or of `multiple`, and the whole.

    >>> candidates(16, 1), candidates(6, 1), candidates(100, 8)
    ([4, 8, 12, 16], [1, 2, 3, 4, 5, 6], [16, 32, 48, 64, 80, 96, 100])
    """
    step = multiple if multiple > 1 else 4 if size >= 8 else 1
    while size > 12 * step:
        step *= 2
    return [*range(step, size, step), size]


def _places(thinning: Thinning) -> list[Place]:
    """The layers that ran, with their axes."""
    slots: dict[tuple[str, str], Slot] = {(s.site, s.axis): s for s in thinning.found.slots}
    found = []
    for row in thinning.profile(thinning.whole).layers:
        layer = thinning.model.get_submodule(row.name)
        shape = LayerShape.of(layer, row.input_shape) if row.input_shape and row.calls else None
        if shape is None:
            continue
        ins, outs = (slots.get((row.name, axis)) for axis in ("in", "out"))
        found.append(Place(shape, row.calls, _axis(thinning, ins), _axis(thinning, outs), _grouped(layer, ins, outs)))
    return found


def _axis(thinning: Thinning, slot: Slot | None) -> Axis | None:
    """How the channels of a slot go with the groups."""
    if slot is None:
        return None
    atoms = slot.atoms.tolist()
    standing: dict[int, int] = {}
    for atom in atoms:
        standing[atom] = standing.get(atom, 0) + 1
    groups: dict[int, list[int]] = {}
    for g, (group, order) in enumerate(zip(thinning.groups, thinning.orders, strict=True)):
        if any(atom in standing for atom in group.atoms):
            groups[g] = [0]
            for i in order:
                groups[g].append(groups[g][-1] + standing.get(group.atoms[i], 0))
    return Axis(len(atoms) - sum(of[-1] for of in groups.values()), groups)


def _grouped(layer: nn.Module, ins: Slot | None, outs: Slot | None) -> str:
    """Whether a convolution's groups leave whole: each of them is one atom on its output."""
    if not isinstance(layer, _ConvNd) or layer.groups == 1:
        return "shrink"
    if outs is None or ins is None:
        return "whole"
    each = outs.atoms.view(layer.groups, -1)
    return "whole" if bool((each == each[:, :1]).all()) and layer.groups > 1 else "shrink"


def _grid(shape: LayerShape) -> LayerShape:
    """The shape whose time stands for this one: wide layers are told apart more coarsely, so that the table stays small."""
    ins, outs = _nearby(shape.inputs), _nearby(shape.outputs)
    if shape.groups == 1:
        return shape.resized(ins, outs, 1)
    if shape.groups == shape.inputs:
        return shape.resized(ins, ins * (shape.outputs // shape.inputs), ins)
    return shape


def _nearby(width: int) -> int:
    """A width itself where it is small or no multiple of four, else the next of about 16 steps to the next power of two."""
    if width <= 64 or width % 4:
        return width
    step = 1 << (width.bit_length() - 5)
    return -(-width // step) * step
