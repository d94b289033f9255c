"""ONNX, for ONNX Runtime and whatever else reads it: integers stay integers, and the file is run before it is believed."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lilliput.errors import ExportError, ModelError
from lilliput.export import packed
from lilliput.export.agree import agree
from lilliput.export.integer import MOVES, rewrite
from lilliput.export.lower import lower
from lilliput.export.rewrite import Net
from lilliput.export.targets import Exported, replacing, targets
from lilliput.kernels import translations
from lilliput.kernels.runtime import DOMAIN
from lilliput.measure.latency import feeds, prepare, session
from lilliput.measure.quiet import quiet
from lilliput.quant.scales import saturating

OPSET = 18
_INTEGER = {"QGemm", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"}
_FREE = {
    *MOVES,
    "QuantizeLinear",
    "DequantizeLinear",
    "ReorderInput",
    "ReorderOutput",
    "NhwcMaxPool",
    "Cast",
    "Shape",
    "Constant",
}


@targets.register(".onnx")
def write(model: nn.Module, example: Tensor, path: Path) -> Exported:
    """Any batch size, opset 18, weights inside the file. Quantizers of at most 8 bits become integers (export/lower).

    Packed layers become operations of domain `lilliput`. How far the file may be from PyTorch, `export.agree` says.
    """
    from onnx import checker

    with quiet():
        proto = _graph(lower(model), example)
    net = Net(proto)
    rewrite(net)
    packed.rewrite(net)
    checker.check_model(net.finish(), full_check=True)
    data = proto.SerializeToString(deterministic=True)
    with replacing(path) as sibling:
        sibling.write_bytes(data)
        opened, fused = _open(sibling)
        error = agree(model, example, [torch.from_numpy(a) for a in opened.run(None, feeds(opened, example))])
    counts = Counter(kind for kind in fused.values() if _is_integer(kind))
    ours = Counter(node.op_type for node in net.nodes if node.domain == DOMAIN)
    return Exported(path, len(data), error, dict(counts), _floats(net, fused), _saturating(net), dict(ours))


def predictor(path: str | Path, threads: int = 1) -> Callable[[Tensor], Tensor]:
    """A function from a batch of images to the outputs of an ONNX file in ONNX Runtime."""
    opened = session(path, threads)
    return lambda x: torch.from_numpy(opened.run(None, feeds(opened, x))[0])


def input_shape(path: str | Path) -> tuple[int, ...]:
    """The shape of one input of an ONNX file, without the batch: (c, h, w)."""
    shape = session(path).get_inputs()[0].shape[1:]
    if not all(isinstance(n, int) for n in shape):
        raise ModelError(f"{path}: takes inputs of any size ({', '.join(map(str, shape))}); say which")
    return tuple(shape)


def _graph(lowered: nn.Module, example: Tensor) -> Any:
    """The network as the exporter writes it. Two images are traced, since one would be taken for a constant."""
    traced = torch.cat([example, example])[:2].cpu()
    batch = torch.export.Dim("batch", min=1, max=2**16)
    try:
        program = torch.onnx.export(
            lowered, (traced,), dynamo=True, verbose=False, external_data=False, opset_version=OPSET,
            dynamic_shapes=({0: batch},), custom_translation_table=translations(),
        )  # fmt: skip
    except Exception as error:  # the exporter's errors share no base
        raise ExportError(f"ONNX cannot hold this network: {_reason(error)}") from error
    return program.model_proto  # type: ignore[union-attr]


def _reason(error: BaseException) -> str:
    """The line that says something, of the innermost error."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _open(path: Path) -> tuple[Any, dict[str, str]]:
    """The file in ONNX Runtime, and the nodes that it really runs: name to kind."""
    import onnx
    import onnxruntime as ort  # type: ignore[import-untyped]

    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        prepare(options, path)
        try:
            opened = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's errors share no base
            raise ExportError(f"ONNX Runtime cannot run this network: {_reason(error)}") from error
        nodes = onnx.load(options.optimized_model_filepath, load_external_data=False).graph.node
    return opened, {re.sub(r"_token_\d+$", "", n.name) or f"{n.op_type}~{i}": n.op_type for i, n in enumerate(nodes)}


def _is_integer(kind: str) -> bool:
    return kind.startswith("QLinear") or kind in _INTEGER


def _floats(net: Net, fused: dict[str, str]) -> dict[str, str]:
    """What a quantized network computes in floats, and why: layers by name, other operations by kind."""
    if not any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in net.nodes):
        return {}
    makers, readers = net.makers, net.readers
    found = {
        node.name: _why(makers, readers, node) for node in net.nodes if node.name and not _is_integer(fused.get(node.name, ""))
    }
    weighted = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "ConvTranspose")
    if not any(node.op_type == "QuantizeLinear" for node in net.nodes):
        return found
    others = Counter(k for k in fused.values() if not _is_integer(k) and k not in _FREE and k not in weighted)
    return found | {kind: f"`{n}` run in floats" for kind, n in sorted(others.items())}


def _why(makers: dict[str, Any], readers: dict[str, list[Any]], node: Any) -> str:
    sides = [makers.get(name) for name in node.input[:2]]
    for side, what in zip(sides, ("input", "weight"), strict=True):
        if side is None or side.op_type != "DequantizeLinear":
            return f"its {what} is not quantized"
    behind = readers.get(node.output[0], [])
    if len(behind) != 1 or behind[0] is None or behind[0].op_type != "QuantizeLinear":
        return "its output is not quantized"
    return "the runtime has no integer kernel for it"


def _saturating(net: Net) -> tuple[str, ...]:
    """Layers with uint8 inputs whose int8 weights hold a pair that can overflow 16 bits; depthwise ones have another kernel."""
    found, makers = [], net.makers
    for node in net.nodes:
        data, weight = (makers.get(name) for name in node.input[:2]) if node.name else (None, None)
        if data is None or weight is None or weight.op_type != "DequantizeLinear" or data.op_type != "DequantizeLinear":
            continue
        codes = torch.from_numpy(net.constants[weight.input[0]].copy())
        depthwise = codes.dim() == 4 and codes.shape[1] == 1
        if not depthwise and bool(saturating(codes).any()):
            found.append(node.name)
    return tuple(found)
