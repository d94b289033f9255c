"""Where quantizers stand, so that a runtime finds integers on every side of an operation it can fuse.

ONNX Runtime turns quantized inputs → Conv (→ Relu) → quantizer into one integer kernel, and so Add, Concat, Gemm and average
pools. So every value that such an operation reads gets one quantizer, never two: at the "input" of the layer that is its
only reader, else at the "output" of the module that returns it, else before the ReLU that makes it (an unsigned quantizer
with zero point 0 is a ReLU itself). Where sums have a width of their own, the layers that read one quantize it once more at
their "input". Operations that only move values (views, slices, max pooling) are looked through; what a
concatenation joins shares one grid, so that joining needs no arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from lilliput.core.layers import HOSTS, Mapped
from lilliput.core.maps import Quantizer
from lilliput.core.watch import Graph, Op


@dataclass(frozen=True)
class Spot:
    """A place for a quantizer. `limit`: it stands before a ReLU that stops there, and takes over its work."""

    site: str
    tensor: str
    limit: float | None = None

    def seen(self, x: torch.Tensor) -> torch.Tensor:
        """What the quantizer must cover."""
        return x if self.limit is None else x.clamp(0, self.limit)


@dataclass
class Placement:
    """The layers whose weights become integers, the spots of activations (those in one tuple share a grid), which of these
    tuples each layer's input is on the grid of, which are of sums (what additions and means read), where these are apart, and
    what stays in floats, with the reason."""

    layers: list[str] = field(default_factory=list)
    spots: list[tuple[Spot, ...]] = field(default_factory=list)
    inputs: dict[str, int] = field(default_factory=dict)
    sums: set[int] = field(default_factory=set)
    floats: dict[str, str] = field(default_factory=dict)


def place(model: nn.Module, graph: Graph, skip: Callable[[str], bool], apart: bool = False) -> Placement:
    """Decide for a network whose norms are folded. `skip(site)` keeps a layer in floats; `apart`: sums have their own width."""
    return _Placer(model, graph, skip, apart).run()


class _Placer:
    def __init__(self, model: nn.Module, graph: Graph, skip: Callable[[str], bool], apart: bool) -> None:
        self.model, self.graph, self.skip, self.apart = model, graph, skip, apart
        self.found = Placement()
        self.integer: set[Op] = set()
        self.needs: dict[int, list[Op]] = {}  # the readers for which a value must be quantized
        self.joined: dict[int, int] = {}  # union-find over values that a concatenation brings together

    def run(self) -> Placement:
        for op in self.graph.ops:
            self._decide(op)
        for op in self.graph.ops:
            if op in self.integer:
                self._need(op)
        for op in self.graph.ops:
            if op in self.integer and op.kind == "conv" and not self._is_covered(op.outputs[0]):
                self.needs.setdefault(self._settled(op.outputs[0]), [])
        groups: dict[int, list[int]] = {}
        for value in self.needs:
            groups.setdefault(self._root(value), []).append(value)
        for values in groups.values():
            self._stand(values)
        return self.found

    # --- which operations compute with integers -----------------------------------------------------------------------

    def _decide(self, op: Op) -> None:
        if op.kind in ("conv", "linear"):
            why = self._why_float(op)
            if why is None:
                self.found.layers.append(op.site)
        elif op.kind in ("add", "mean"):
            able = op.others == 0 and all(self._comes_from_integers(v) for v in op.inputs)
            why = None if able else "not all of its inputs come from integer operations"
        elif op.kind in ("move", "relu", "cat"):
            return
        else:
            why = f"no quantizers are placed for `{op.kind.replace('::', '.')}`"
        if why is None:
            self.integer.add(op)
        else:
            self.found.floats.setdefault(op.site or op.kind, why)

    def _why_float(self, op: Op) -> str | None:
        layer = self.model.get_submodule(op.site)
        if type(layer) not in HOSTS and not isinstance(layer, Mapped):
            return f"a `{type(layer).__name__}` has no mapped form"
        if self.skip(op.site):
            return "it is skipped on request"
        if isinstance(layer, Mapped) and any(_computes(m) for m in (*layer.weight_maps, *layer.input_maps)):
            return "it is quantized already"
        if len(op.inputs) > 1:
            return "its weight is computed during the forward"
        if self.graph.times_called[op.site] > 1:
            return f"it runs {self.graph.times_called[op.site]} times in one forward"
        return None

    def _comes_from_integers(self, value: int) -> bool:
        makers = [self.graph.makers.get(v) for v in self._sources(value, through_relu=True)]
        return all(op is not None and op in self.integer for op in makers)

    # --- which values must be quantized ---------------------------------------------------------------------------------

    def _sources(self, value: int, through_relu: bool = False) -> list[int]:
        """The values that a value is put together from without arithmetic."""
        op = self.graph.makers.get(value)
        seen_through = ("move", "cat", "relu") if through_relu else ("move", "cat")
        if op is None or op.kind not in seen_through or op.others:
            return [value]
        return list(dict.fromkeys(v for each in op.inputs for v in self._sources(each, through_relu)))

    def _need(self, op: Op) -> None:
        for value in dict.fromkeys(op.inputs):
            sources = self._sources(value)
            for source in sources:
                self.needs.setdefault(source, []).append(op)
                self.joined[self._root(source)] = self._root(sources[0])

    def _root(self, value: int) -> int:
        while (above := self.joined.get(value, value)) != value:
            value = above
        return value

    def _is_covered(self, value: int) -> bool:
        """Whether a quantizer stands somewhere behind a layer, with nothing but moves and ReLUs in between."""
        if value in self.needs or value in self.graph.outputs:
            return True
        readers = self.graph.readers.get(value, [])
        passed = all(r.kind in ("move", "relu", "cat") for r in readers)
        return bool(readers) and passed and all(self._is_covered(v) for r in readers for v in r.outputs)

    def _settled(self, value: int) -> int:
        """The value behind the ReLU that alone reads a value, or the value itself."""
        reader = self.graph.only_reader(value)
        return reader.outputs[0] if reader is not None and reader.kind == "relu" else value

    # --- where the quantizers stand ---------------------------------------------------------------------------------------

    def _stand(self, values: Sequence[int]) -> None:
        readers = list(dict.fromkeys(op for value in values for op in self.needs[value]))
        count = len(self.found.spots)
        self._choose(values, readers)
        if len(self.found.spots) == count:
            return
        layers = [op.site for op in readers if op.kind in ("conv", "linear")]
        if self.apart and (len(layers) < len(readers) or any(self._summed(value) for value in values)):
            self.found.sums.add(count)
            self.found.spots.extend((Spot(site, "input"),) for site in layers)
            self.found.inputs.update({site: count + 1 + i for i, site in enumerate(layers)})
        else:
            self.found.inputs.update(dict.fromkeys(layers, count))

    def _summed(self, value: int) -> bool:
        """Whether an addition reads a value, in integers or in floats."""
        readers = self.graph.readers.get(value, [])
        return any(op.kind == "add" or (op.kind == "move" and any(map(self._summed, op.outputs))) for op in readers)

    def _choose(self, values: Sequence[int], readers: Sequence[Op]) -> None:
        hosts = all(op.kind in ("conv", "linear") for op in readers)
        if len(readers) == 1 and hosts and all(self._flows_only_to(v, readers[0]) for v in values):
            self.found.spots.append((Spot(readers[0].site, "input"),))
            return
        behind = [self._behind(value) for value in values]
        if all(behind):
            self.found.spots.append(tuple(s for s in behind if s is not None))
        elif readers and hosts:
            self.found.spots.append(tuple(Spot(op.site, "input") for op in readers))
        else:
            for op in (r for r in readers if r.kind not in ("conv", "linear")):
                self.found.floats.setdefault(op.site or op.kind, "no module returns what it reads, so a quantizer has no place")
            lone = tuple(Spot(op.site, "input") for op in readers if op.kind in ("conv", "linear"))
            self.found.spots.extend([lone] if lone else [])

    def _flows_only_to(self, value: int, op: Op) -> bool:
        reader = self.graph.only_reader(value)
        if reader is op:
            return True
        if reader is None or reader.kind not in ("move", "cat") or len(reader.outputs) > 1:
            return False
        return self._flows_only_to(reader.outputs[0], op)

    def _behind(self, value: int) -> Spot | None:
        """The spot at the output of the module that returns a value, or that returns what a ReLU makes it from."""
        path = self._returner(value)
        if path is not None:
            return Spot(path, "output")
        op = self.graph.makers.get(value)
        if op is None or op.kind != "relu" or self.graph.only_reader(op.inputs[0]) is not op:
            return None
        path = self._returner(op.inputs[0])
        return None if path is None else Spot(path, "output", op.limit)

    def _returner(self, value: int) -> str | None:
        """The innermost module, run once, in which a value is made and behind which all its readers stand."""
        made = self.graph.makers.get(value)
        for call in self.graph.returned.get(value, []):
            inside = made is not None and call.start <= made.time
            after = all(reader.time >= call.end for reader in self.graph.readers.get(value, []))
            if inside and after and call.path and self.graph.times_called[call.path] == 1:
                return call.path
        return None


def _computes(mapping: Any) -> bool:
    """Whether a runtime would compute with the codes of this map."""
    return isinstance(mapping, Quantizer) and not mapping.for_files
