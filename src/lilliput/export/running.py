"""Which kernel runs every layer of an ONNX file, and how long it takes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lilliput.export.rewrite import Net, attributes
from lilliput.kernels import dispatch
from lilliput.kernels.runtime import DOMAIN
from lilliput.measure.layer_times import LayerTime, layer_times

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_INTEGER = re.compile(r"^(QLinear|QGemm|ConvInteger|MatMulInteger|DynamicQuantizeMatMul)")
_BLOCKED = "_nchwc"  # how ONNX Runtime marks the convolutions that it gave its blocked layout


@dataclass(frozen=True)
class LayerKernel:
    """One layer as it runs: by whose kernel (`onnxruntime` or `lilliput`), which one, and its milliseconds.

    ONNX Runtime's are `float`, `float, blocked` and `int8`; ours are rows of csrc/kernels.inc (`avx512`, `portable`, …).
    """

    name: str
    kind: str
    runner: str
    kernel: str
    median_ms: float
    p10: float
    p90: float
    runs: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def running(path: str | Path, example: Any, threads: int = 1) -> tuple[tuple[LayerKernel, ...], float]:
    """The layers of a file in the order they run, and the milliseconds of everything else together.

    Layers are named as in the file, also where the runtime has fused or renamed them.
    """
    import onnx

    times = layer_times(path, example, threads)
    file = _File(Net(onnx.load(str(path))))
    found = [(each, file.node(each)) for each in times]
    layers = tuple(file.kernel(each, node) for each, node in found if file.is_layer(each, node))
    return layers, sum(each.median_ms for each, node in found if not file.is_layer(each, node))


class _File:
    """The nodes of a file by the names that the runtime's profile gives them."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.named = {node.name: node for node in net.nodes if node.name}
        self.numbered = {f"{node.op_type}_{i}": node for i, node in enumerate(net.nodes) if not node.name}

    def node(self, time: LayerTime) -> Any:
        """The node of the file that stands behind a row of the profile, if any does."""
        name = re.sub(r"_token_\d+$", "", time.name)
        if name in self.named:
            return self.named[name]
        if name.endswith(_BLOCKED):
            return next(self._before(name.removesuffix(_BLOCKED)), None)
        node = self.numbered.get(name)
        return node if node is not None and node.op_type == time.kind else None

    def _before(self, value: str) -> Iterator[Any]:
        """The layers that a value comes from through operations on it alone: a ReLU fused into a convolution names it."""
        node = self.net.makers.get(value)
        while node is not None:
            if node.op_type in LAYERS:
                yield node
            node = self.net.makers.get(node.input[0]) if node.input else None

    def is_layer(self, time: LayerTime, node: Any) -> bool:
        """Whether a row is a layer: one with weights, or one of ours."""
        return node is not None and (node.op_type in LAYERS or node.domain == DOMAIN)

    def kernel(self, time: LayerTime, node: Any) -> LayerKernel:
        """What runs it."""
        if node.domain == DOMAIN:
            arrays = [self.net.constants[name] for name in node.input[1:]]
            runner, kernel = "lilliput", dispatch.row(node.op_type, attributes(node), arrays, time.inputs[0])
        else:
            blocked = "float, blocked" if time.name.endswith(_BLOCKED) else "float"
            runner, kernel = "onnxruntime", "int8" if _INTEGER.match(time.kind) else blocked
        return LayerKernel(self._name(time, node), node.op_type, runner, kernel, time.median_ms, time.p10, time.p90, time.runs)

    def _name(self, time: LayerTime, node: Any) -> str:
        if node.op_type != "Binarize":
            return str(node.name or time.name)
        readers = [reader.name for reader in self.net.readers.get(node.output[0], []) if reader is not None]
        return f"{' and '.join(readers)} (signs)"
