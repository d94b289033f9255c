"""How long single layers take by their shape, in ONNX Runtime: the table that widths are chosen by.

Many shapes stand in one graph and are timed node by node in the same runs. A convolution is timed as networks hold it,
between a convolution that feeds it and one that reads it:

    x (16 channels) -> 1x1 -> [the convolution, ReLU] -> 1x1 -> 16 channels

because what a width costs is not the kernel alone: where the runtime's blocked kernels cannot take a width, it converts
the layout around the layer. Conversions before the layer are its own, and so are those into the blocked layout behind it.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lilliput.measure.hardware import hardware, versions

BRIDGE = 16  # channels on both sides of a chain: a width that every blocked kernel takes
_CHUNK_SHAPES, _CHUNK_BYTES = 192, 1 << 26
_SECONDS, _RUNS = 0.15, (9, 40)


@dataclass(frozen=True)
class LayerShape:
    """All that decides how long a layer takes. `size` is what one input has beside its channels: (h, w), or (rows,).

    `pads`: zeros before each dimension, then after each. `kind`: conv, transposed or linear.

    >>> shape = LayerShape("conv", 16, 32, (8, 8), kernel=(3, 3), stride=(2, 2), dilation=(1, 1), pads=(1, 1, 1, 1))
    >>> shape.macs, shape.weights, str(shape)
    (73728, 4608, 'conv 16>32 8x8 k3x3 s2x2 d1x1 p1x1x1x1 g1 n1')
    """

    kind: str
    inputs: int
    outputs: int
    size: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    groups: int = 1
    batch: int = 1

    @staticmethod
    def of(layer: nn.Module, input_shape: Sequence[int]) -> LayerShape | None:
        """The shape of a convolution or linear layer on an input, (n, …); None for a layer of another kind."""
        n, rest = input_shape[0], tuple(input_shape[1:])
        if isinstance(layer, nn.Linear):
            return LayerShape("linear", layer.in_features, layer.out_features, (prod(rest[:-1]),), batch=n)
        if not isinstance(layer, _ConvNd) or len(rest) != len(layer.kernel_size) + 1:
            return None
        kind = "transposed" if isinstance(layer, _ConvTransposeNd) else "conv"
        return LayerShape(
            kind, layer.in_channels, layer.out_channels, rest[1:], tuple(layer.kernel_size), tuple(layer.stride),
            tuple(layer.dilation), _pads(layer), layer.groups, n,
        )  # fmt: skip

    def resized(self, inputs: int, outputs: int, groups: int) -> LayerShape:
        """The same layer with other widths."""
        return replace(self, inputs=inputs, outputs=outputs, groups=groups)

    @property
    def weights(self) -> int:
        """Weights, without the bias."""
        return self.inputs * self.outputs // self.groups * prod(self.kernel)

    @property
    def macs(self) -> int:
        """Multiply-adds for one example."""
        return self.weights * prod(self.size if self.kind == "transposed" else self._reached)

    @property
    def _reached(self) -> tuple[int, ...]:
        """The size of a convolution's output."""
        if self.kind == "linear":
            return self.size
        dims = zip(self.size, self.kernel, self.stride, self.dilation, self.pads, self.pads[len(self.size) :], strict=False)
        return tuple((n + a + b - d * (k - 1) - 1) // s + 1 for n, k, s, d, a, b in dims)

    def __str__(self) -> str:
        names = zip("ksdp", (self.kernel, self.stride, self.dilation, self.pads), strict=True)
        parts = [f"{letter}{'x'.join(map(str, value))}" for letter, value in names if value]
        size = "x".join(map(str, self.size))
        return " ".join((self.kind, f"{self.inputs}>{self.outputs}", size, *parts, f"g{self.groups}", f"n{self.batch}"))


REFERENCE = LayerShape("conv", 64, 64, (28, 28), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1))


class ShapeTimes:
    """Milliseconds of layers by their shape. Every shape is measured once for a machine, and kept in `folder`.

    A machine is not always equally fast: it shares its clock and caches with others, or gets warm. So what is kept is in units
    of `REFERENCE`, measured in the same runs, and comes back in milliseconds by what that takes in this process.
    The file is named after the processor, its instruction sets, ONNX Runtime's version and the threads; one that cannot be
    read is written anew.
    """

    def __init__(self, folder: Path | None = None, threads: int = 1) -> None:
        self.threads = threads
        seen = hardware()
        self.machine = {k: seen[k] for k in ("cpu", "architecture", "flags")}
        self.machine |= {"onnxruntime": versions()["onnxruntime"], "threads": threads, "layout": 2}
        name = hashlib.sha256(json.dumps(self.machine, sort_keys=True).encode()).hexdigest()[:16]
        self.path = None if folder is None else folder / "layer_times" / f"{name}.json"
        self._times = self._stored()

    @cached_property
    def reference(self) -> float:
        """Milliseconds of the reference in this process."""
        return measure([REFERENCE], self.threads)[0]

    def __call__(self, shapes: Sequence[LayerShape]) -> list[float]:
        """Milliseconds of each shape; those not known yet are measured together, a few milliseconds each."""
        keys = {str(shape): shape for shape in shapes}
        missing = [shape for key, shape in keys.items() if key not in self._times]
        if missing:
            for chunk in _chunks(missing):
                *found, unit = measure([*chunk, REFERENCE], self.threads)
                self._times |= {str(s): ms / unit for s, ms in zip(chunk, found, strict=True)}
            self._store()
        return [self._times[str(shape)] * self.reference for shape in shapes]

    def _stored(self) -> dict[str, float]:
        if self.path is None or not self.path.is_file():
            return {}
        try:
            content = json.loads(self.path.read_text())
            return {str(k): float(v) for k, v in content["times"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, OSError):
            return {}

    def _store(self) -> None:
        """Write everything known, what other processes have stored meanwhile included, to a sibling and rename it."""
        if self.path is None:
            return
        self._times = self._stored() | self._times
        self.path.parent.mkdir(parents=True, exist_ok=True)
        sibling = self.path.with_suffix(f".{os.getpid()}")
        sibling.write_text(json.dumps({"machine": self.machine, "times": dict(sorted(self._times.items()))}, indent=1))
        sibling.replace(self.path)


def measure(shapes: Sequence[LayerShape], threads: int = 1) -> list[float]:
    """Milliseconds of each shape, measured in the same runs of one graph: the mean of the middle half of them."""
    import onnx
    import onnxruntime as ort  # type: ignore[import-untyped]

    model, inputs = _graph(shapes)
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
        options.optimized_model_filepath = str(Path(folder) / "runs.onnx")
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "nodes")
        opened = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        runs = _run(opened, inputs)
        events = json.loads(Path(opened.end_profiling()).read_text())
        graph = onnx.load(options.optimized_model_filepath).graph
    makers = {name: node for node in graph.node for name in node.output}
    spent = _spent(events, runs)
    return [sum(spent[name] for name in _own(makers, number, shape)) for number, shape in enumerate(shapes)]


def _run(opened: Any, inputs: dict[str, Any]) -> int:
    """Warm up, then run for a while; how many runs there were after the two of the warm-up."""
    import time

    opened.run(None, inputs)
    begun = time.perf_counter()
    opened.run(None, inputs)
    once = time.perf_counter() - begun
    runs = min(max(_RUNS[0], int(_SECONDS / max(once, 1e-6))), _RUNS[1])
    for _ in range(runs):
        opened.run(None, inputs)
    return runs


def _spent(events: Sequence[dict[str, Any]], runs: int) -> dict[str, float]:
    """Milliseconds of every node. The profile counts whole microseconds, so middle values are averaged."""
    taken: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            taken.setdefault(event["name"].removesuffix("_kernel_time"), []).append(event["dur"] / 1e3)
    return {name: _middle(ms[-runs:]) for name, ms in taken.items()}


def _middle(values: Sequence[float]) -> float:
    """The mean of the middle half.

    >>> _middle([9, 1, 2, 3])
    2.5
    """
    ordered, cut = sorted(values), len(values) // 4
    return statistics.fmean(ordered[cut : len(ordered) - cut])


def _own(makers: dict[str, Any], number: int, shape: LayerShape) -> Iterator[str]:
    """The nodes of the graph that really runs which a shape has to pay for: walk back from the chain's output."""
    chain = []
    node = makers.get(f"{number}/out")
    while node is not None:
        chain.append(node)
        node = makers.get(node.input[0])
    if shape.kind == "linear":
        yield from (node.name for node in chain)
        return
    weighted = [i for i, node in enumerate(chain) if "Conv" in node.op_type]
    reads, feeds = weighted[0], weighted[-1]
    for i, node in enumerate(chain):
        behind = reads < i < weighted[1]
        if (weighted[1] <= i < feeds) or (behind and node.op_type != "ReorderOutput"):
            yield node.name


def _graph(shapes: Sequence[LayerShape]) -> tuple[Any, dict[str, Any]]:
    """A model with one chain a shape, and its inputs. Times do not depend on the numbers, so all weights are one pattern."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    pattern = np.random.default_rng(0).standard_normal(4099).astype(np.float32) * 0.05
    nodes: list[Any] = []
    weights: list[Any] = []
    inputs: dict[str, Any] = {}
    for number, shape in enumerate(shapes):
        outside = (shape.batch * shape.size[0], shape.inputs) if shape.kind == "linear" else (shape.batch, BRIDGE, *shape.size)
        name = "x" + "x".join(map(str, outside))
        inputs.setdefault(name, np.resize(pattern, outside))
        chain, tensors = _chain(f"{number}/", name, shape)
        nodes += chain
        weights += [numpy_helper.from_array(np.resize(pattern, dims), key) for key, dims in tensors.items()]
    values = [helper.make_tensor_value_info(k, TensorProto.FLOAT, v.shape) for k, v in inputs.items()]
    ends = [helper.make_tensor_value_info(f"{i}/out", TensorProto.FLOAT, None) for i in range(len(shapes))]
    graph = helper.make_graph(nodes, "shapes", values, ends, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), inputs


def _chain(key: str, source: str, shape: LayerShape) -> tuple[list[Any], dict[str, tuple[int, ...]]]:
    """The nodes of one shape, and the tensors they need by name."""
    from onnx import helper

    if shape.kind == "linear":
        tensors: dict[str, tuple[int, ...]] = {key + "w": (shape.outputs, shape.inputs), key + "b": (shape.outputs,)}
        return [helper.make_node("Gemm", [source, key + "w", key + "b"], [key + "out"], key + "own", transB=1)], tensors
    ones = (1,) * len(shape.size)
    first, second = (shape.inputs, shape.outputs) if shape.kind == "transposed" else (shape.outputs, shape.inputs)
    tensors = {
        key + "feed": (shape.inputs, BRIDGE, *ones), key + "w": (first, second // shape.groups, *shape.kernel),
        key + "b": (shape.outputs,), key + "read": (BRIDGE, shape.outputs, *ones),
    }  # fmt: skip
    own = helper.make_node(
        "ConvTranspose" if shape.kind == "transposed" else "Conv",
        [key + "in", key + "w", key + "b"], [key + "made"], key + "own",
        kernel_shape=shape.kernel, strides=shape.stride, dilations=shape.dilation, pads=shape.pads, group=shape.groups,
    )  # fmt: skip
    return [
        helper.make_node("Conv", [source, key + "feed"], [key + "in"], key + "feed", kernel_shape=ones),
        own,
        helper.make_node("Relu", [key + "made"], [key + "active"], key + "relu"),
        helper.make_node("Conv", [key + "active", key + "read"], [key + "out"], key + "read", kernel_shape=ones),
    ], tensors


def _chunks(shapes: Sequence[LayerShape]) -> Iterator[list[LayerShape]]:
    """Shapes in lists that fit into memory together."""
    chunk: list[LayerShape] = []
    size = 0
    for shape in shapes:
        bytes_ = 4 * shape.weights + 8 * shape.batch * prod(shape.size) * (shape.inputs + shape.outputs)
        if chunk and (len(chunk) == _CHUNK_SHAPES or size + bytes_ > _CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(shape)
        size += bytes_
    if chunk:
        yield chunk


def _pads(layer: _ConvNd) -> tuple[int, ...]:
    """Zeros before every dimension, then after."""
    if layer.padding == "valid":
        return (0,) * (2 * len(layer.kernel_size))
    if layer.padding == "same":
        whole = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        return (*(n // 2 for n in whole), *(n - n // 2 for n in whole))
    return (*layer.padding, *layer.padding)  # type: ignore[arg-type]
