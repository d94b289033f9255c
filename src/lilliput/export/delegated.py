"""What became of a network's operations in an ExecuTorch program: integers, floats, or left to kernels beside XNNPACK's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch import fx

_FUSED = ("relu", "hardtanh")  # a clip that the operation before it does by itself
_LAST = ("convolution", "linear", "add", "sub", "mul")
_FREE = ("getitem", "executorch_call_delegate", "alloc", "dequantize_per_channel")


def delegated(program: Any) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """Operations by kind: those that XNNPACK computes on bytes, those it computes in floats, and those it does not run.

    `program`: the lowered program, in which each part given to XNNPACK still has the graph it was made from.
    """
    whole, floats, beside = Counter[str](), Counter[str](), Counter[str]()
    graph = program.graph_module
    for node in _calls(graph):
        if _kind(node) not in _FREE:
            beside[_kind(node)] += 1
        if _kind(node) == "executorch_call_delegate":
            inside = getattr(graph, str(node.args[0].target)).original_module.graph_module  # type: ignore[union-attr]
            for part in (n for n in _calls(inside) if not _is_level(n) and not _is_fused(n)):
                (whole if _is_integer(part) else floats)[_kind(part)] += 1
    return dict(whole), dict(floats), dict(beside)


def _calls(graph: fx.GraphModule) -> Iterator[fx.Node]:
    return (node for node in graph.graph.nodes if node.op == "call_function")


def _kind(node: fx.Node) -> str:
    """An operation's name without its library and variant: `convolution`."""
    name = getattr(node.target, "__name__", str(node.target))
    parts = [part for part in name.split(".") if part not in ("aten", "quantized_decomposed", "dim_order_ops")]
    return parts[0].removesuffix("_copy").strip("_")


def _is_level(node: fx.Node) -> bool:
    return _kind(node).startswith(("quantize_", "dequantize_"))


def _is_fused(node: fx.Node) -> bool:
    before = node.args[0] if node.args else None
    return _kind(node) in _FUSED and isinstance(before, fx.Node) and before.op == "call_function" and _kind(before) in _LAST


def _is_integer(node: fx.Node) -> bool:
    """Whether everything a kernel reads comes from bytes, and what it writes becomes bytes."""
    readers = list(node.users)
    while len(readers) == 1 and _is_fused(readers[0]):
        readers = list(readers[0].users)
    read = [n for n in node.all_input_nodes if n.op == "call_function"]
    from_bytes = bool(read) and all(_kind(n).startswith("dequantize_") for n in read)
    return from_bytes and len(readers) == 1 and _kind(readers[0]).startswith("quantize_")
