"""Blocks that a network can do without: relu(x + f(x)), inverted residuals, bottlenecks with a plain shortcut.

A module can be replaced by the identity where its output has the shape of its only input, it holds a convolution, and a way
without convolutions leads from that input, through an addition, to its output. Of modules within each other the innermost
is meant, so that a stage of several blocks is none itself.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lilliput.core.watch import Call, Graph, watch

ADDITIONS = ("add", "aten::add")
MIXES = ("conv", "linear")
"""Operations that mix channels: a way through one of them is no shortcut."""


@dataclass(frozen=True)
class Blocks:
    """The modules that can be replaced by the identity, in the order they run, and why other containers cannot."""

    sites: tuple[str, ...]
    reasons: dict[str, str]


def blocks(model: nn.Module, example: Tensor) -> Blocks:
    """Find the removable blocks of a network by one watched forward on `example`, (n, c, h, w)."""
    graph = watch(model, example)
    shapes = _shapes(model, example)
    found, reasons = [], {}
    for call in sorted(graph.calls, key=lambda call: (call.start, -call.end)):
        module = model.get_submodule(call.path)
        if not call.path or not any(module.children()):
            continue
        why = _why_not(module, call, graph, shapes[call.path])
        if why is None:
            found.append(call.path)
        else:
            reasons[call.path] = why
    inner = [site for site in found if not any(other.startswith(f"{site}.") for other in found)]
    return Blocks(tuple(inner), reasons)


def _why_not(module: nn.Module, call: Call, graph: Graph, shapes: tuple[Any, Any]) -> str | None:
    """Why a module cannot be replaced by the identity."""
    if not any(isinstance(m, _ConvNd) for m in module.modules()):
        return "it holds no convolution"
    if graph.times_called[call.path] > 1:
        return f"it runs {graph.times_called[call.path]} times in a forward"
    if None in shapes:
        return "it takes or returns more than one tensor"
    if shapes[0] != shapes[1]:
        return f"it makes {_by(shapes[1])} of {_by(shapes[0])}"
    entered = _entered(call, graph)
    if len(entered) != 1:
        return f"it reads {len(entered)} tensors from outside"
    return None if _has_shortcut(call, graph, entered.pop()) else "no addition joins its input, as it came, to its output"


def _entered(call: Call, graph: Graph) -> set[int]:
    """The values that a call reads and that were there before."""
    ops = graph.ops[call.start : call.end]
    made = {value for op in ops for value in op.outputs}
    return {value for op in ops for value in op.inputs} - made


def _has_shortcut(call: Call, graph: Graph, start: int) -> bool:
    """Whether a way leads from a value to the call's output that meets an addition and no convolution or linear layer."""
    straight, joined = {start}, set[int]()
    for op in graph.ops[call.start : call.end]:
        if op.kind in MIXES:
            continue
        read = set(op.inputs)
        if read & joined or (read & straight and op.kind in ADDITIONS and len(op.inputs) > 1):
            joined.update(op.outputs)
        elif read & straight:
            straight.update(op.outputs)
    return call.output in joined


def _shapes(model: nn.Module, example: Tensor) -> dict[str, tuple[Any, Any]]:
    """The shapes of what each module takes and returns; None where that is not one tensor."""
    runner = copy.deepcopy(model).eval()
    found: dict[str, tuple[Any, Any]] = {}

    def note(path: str, args: Any, output: Any) -> None:
        found[path] = (_shape(args[0]) if len(args) == 1 else None, _shape(output))

    for path, module in runner.named_modules():
        module.register_forward_hook(lambda _, args, output, path=path: note(path, args, output))
    with torch.no_grad():
        runner(example[:1].to(next(runner.parameters(), example)))
    return found


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape[1:]))
