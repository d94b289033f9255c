"""An ONNX graph that can be rewritten: who makes a value, who reads it, what is constant; and the tidying every export gets."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from lilliput.kernels.runtime import DOMAIN

# Attributes that say what is the case anyway.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "Conv": {"auto_pad": b"NOTSET", "dilations": [1, 1], "strides": [1, 1], "group": 1, "pads": [0, 0, 0, 0]},
    "Gemm": {"alpha": 1.0, "beta": 1.0, "transA": 0},
    "MaxPool": {"auto_pad": b"NOTSET", "dilations": [1, 1], "ceil_mode": 0, "storage_order": 0, "pads": [0, 0, 0, 0]},
    "AveragePool": {"auto_pad": b"NOTSET", "ceil_mode": 0, "pads": [0, 0, 0, 0]},
    "ReduceMean": {"noop_with_empty_axes": 0},
    "Reshape": {"allowzero": 0},
    "Pad": {"mode": b"constant"},
}


class Net:
    """Nodes in order and constants by name. Values are named as in the file; a rewrite keeps the name of what it replaces."""

    def __init__(self, model: Any) -> None:
        from onnx import numpy_helper

        self.model = model
        self._nodes = {id(node): node for node in model.graph.node}
        self.constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self.inputs = [i.name for i in model.graph.input]
        self.outputs = [o.name for o in model.graph.output]
        self._made = 0
        self._makers: dict[str, Any] | None = None
        self._readers: dict[str, list[Any]] | None = None

    @property
    def nodes(self) -> list[Any]:
        """All nodes."""
        return list(self._nodes.values())

    @property
    def makers(self) -> dict[str, Any]:
        """The node that makes each value."""
        if self._makers is None:
            self._makers = {output: node for node in self.nodes for output in node.output}
        return self._makers

    @property
    def readers(self) -> dict[str, list[Any]]:
        """The nodes that read each value; the end of the network counts as one."""
        if self._readers is None:
            self._readers = {name: [None] for name in self.outputs}
            for node in self.nodes:
                for name in dict.fromkeys(node.input):
                    self._readers.setdefault(name, []).append(node)
        return self._readers

    def add(self, kind: str, inputs: Iterable[str], output: str | Sequence[str] | None = None, **attributes: Any) -> str:
        """A new node; the name of its output, the first if there are several."""
        from onnx import helper

        outputs = [output or self.fresh(kind.lower())] if isinstance(output, str | None) else list(output)
        node = helper.make_node(kind, list(inputs), outputs, **attributes)
        self._nodes[id(node)] = node
        self._makers = self._readers = None
        return outputs[0]

    def constant(self, name: str, value: Any) -> str:
        """A new constant of about this name; an equal one is used again."""
        value = np.asarray(value)
        while name in self.constants:
            if _same(self.constants[name], value):
                return name
            name = self.fresh(name)
        self.constants[name] = value
        return name

    def fresh(self, stem: str) -> str:
        """A name nothing has yet."""
        self._made += 1
        return f"{stem}.{self._made}~"

    def remove(self, *nodes: Any) -> None:
        """Take nodes out."""
        for node in nodes:
            del self._nodes[id(node)]
        self._makers = self._readers = None

    def connect(self, node: Any, place: int, name: str) -> None:
        """Let a node read another value."""
        node.input[place] = name
        self._readers = None

    def read_instead(self, old: str, new: str) -> None:
        """Every node that read `old` reads `new`."""
        for node in self.readers.get(old, []):
            for i in (i for i, name in enumerate(node.input if node is not None else ()) if name == old):
                node.input[i] = new
        self._readers = None

    def rewrite(self, *rules: Callable[[Net, Any], bool]) -> None:
        """Apply rules in turn to every node until they change nothing any more."""
        while any([self._apply(rule) for rule in rules]):
            pass

    def _apply(self, rule: Callable[[Net, Any], bool]) -> bool:
        changed = False
        for node in list(self.nodes):
            if id(node) in self._nodes:  # an earlier change may have taken it out
                changed |= rule(self, node)
        return changed

    def layer(self, node: Any) -> str:
        """The path of the layer a convolution or matrix product stands for; "" for other nodes."""
        if node.domain == DOMAIN and len(node.input) > 1:
            return str(node.input[1].rpartition(".")[0])
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            return ""
        makers = self.makers
        for name in node.input:
            maker = makers.get(name)
            name = maker.input[0] if maker is not None and maker.op_type in ("DequantizeLinear", "Cast") else name
            if name in self.constants and ".weight" in name:
                return name.partition(".weight")[0]
        return ""

    def finish(self) -> Any:
        """The model again: dead nodes gone, sorted, named shortly, without anything a runtime does not read."""
        from onnx import TensorProto, numpy_helper

        self._nodes = {id(node): node for node in self._sorted(self._alive())}
        for node in self.nodes:
            _plain(node)
        self._rename()
        used = {name for node in self.nodes for name in node.input} | set(self.outputs)
        graph = self.model.graph
        del graph.node[:], graph.initializer[:], graph.value_info[:], graph.metadata_props[:]
        graph.node.extend(self.nodes)
        tensors: list[TensorProto] = [numpy_helper.from_array(v, k) for k, v in self.constants.items() if k in used]
        graph.initializer.extend(tensors)
        graph.name, graph.doc_string = "network", ""
        for value in (*graph.input, *graph.output):
            value.doc_string = ""
            del value.metadata_props[:]
        del self.model.metadata_props[:], self.model.functions[:]
        self.model.ir_version = 8  # all that opset 18 needs, and all that older runtimes read
        self.model.producer_name, self.model.producer_version, self.model.doc_string = "lilliput", "", ""
        return self.model

    def _alive(self) -> list[Any]:
        """The nodes something depends on."""
        makers, wanted, kept = self.makers, list(self.outputs), {}
        while wanted:
            node = makers.get(wanted.pop())
            if node is not None and id(node) not in kept:
                kept[id(node)] = node
                wanted.extend(node.input)
        return [n for n in self.nodes if id(n) in kept]

    def _sorted(self, nodes: list[Any]) -> list[Any]:
        """The nodes so that each comes after what it reads, otherwise in the order they stand in."""
        makers = {output: i for i, node in enumerate(nodes) for output in node.output}
        waits = [{makers[name] for name in node.input if name in makers} for node in nodes]
        after: dict[int, list[int]] = {}
        for i, before in enumerate(waits):
            for j in before:
                after.setdefault(j, []).append(i)
        ready, order = [i for i, before in enumerate(waits) if not before], []
        while ready:
            order.append(heapq.heappop(ready))
            for i in after.get(order[-1], []):
                waits[i].discard(order[-1])
                if not waits[i]:
                    heapq.heappush(ready, i)
        return [nodes[i] for i in order]

    def _rename(self) -> None:
        """Values are numbered; layers keep their paths, as the names of their nodes and constants."""
        names = {name: name.replace("_maps.0", "").replace("weight.codes", "weight") for name in self.constants}
        if len(set(names.values())) < len(names):
            names = {name: name for name in self.constants}
        names |= _ends("input", self.inputs) | _ends("output", self.outputs) | {"": ""}
        values = (output for node in self.nodes for output in node.output)
        for i, name in enumerate(v for v in values if v not in names):
            names[name] = f"v{i}"
        for node in self.nodes:
            node.name = self.layer(node)
        self._makers = self._readers = None
        for node in self.nodes:
            node.input[:] = [names[name] for name in node.input]
            node.output[:] = [names[name] for name in node.output]
        for value in (*self.model.graph.input, *self.model.graph.output):
            value.name = names[value.name]
        self.inputs, self.outputs = ([names[name] for name in ends] for ends in (self.inputs, self.outputs))
        self.constants = {names[name]: value for name, value in self.constants.items()}


def _ends(name: str, values: list[str]) -> dict[str, str]:
    """Names of the network's inputs or outputs: one has no number."""
    return {value: name if len(values) == 1 else f"{name}{i}" for i, value in enumerate(values)}


def attributes(node: Any) -> dict[str, Any]:
    """A node's attributes as plain values."""
    from onnx import helper

    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _plain(node: Any) -> None:
    """Without remarks, and without attributes that say the default."""
    node.doc_string = ""
    del node.metadata_props[:]
    defaults, given = _DEFAULTS.get(node.op_type, {}), attributes(node)
    kept = [a for a in node.attribute if a.name not in defaults or given[a.name] != defaults[a.name]]
    kept = [a for a in kept if (node.op_type, a.name) != ("Conv", "kernel_shape")]  # the weight's shape says it
    del node.attribute[:]
    node.attribute.extend(kept)


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
