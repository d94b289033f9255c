"""What a network does, written down: one eager forward as operations, the values between them and the layers that ran.

Everything that must know which layer's output goes where reads this: folding a norm into the convolution before it, and
placing quantizers. Like channel names it is taken from one forward at the level of ATen operations, so any Python control
flow works.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from lilliput.core.copies import copied


@dataclass(frozen=True)
class Op:
    """One operation. Values are numbered tensors; an operation in place reads one value and makes another.

    `kind`: "conv", "linear", "batch_norm", "add", "relu", "mean", "cat", "move" (values only change place: views, slices,
    zero padding, max pooling), else the ATen name. `site`: the innermost layer that was running. `others`: how many
    tensors of real numbers it read that are not values (parameters, constants). `limit`: where a "relu" stops (6 for ReLU6).
    """

    time: int
    kind: str
    site: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    others: int = 0
    limit: float = math.inf


@dataclass(frozen=True)
class Call:
    """One call of a module, from `start` to `end` (times as in `Op`); `output` is the value it returned, if it was one."""

    path: str
    start: int
    end: int
    output: int | None


@dataclass(frozen=True)
class Graph:
    """The record of one forward. `ops` in the order they ran, `calls` in the order they ended."""

    ops: tuple[Op, ...]
    calls: tuple[Call, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @cached_property
    def makers(self) -> dict[int, Op]:
        """The operation that made each value; the network's inputs have none."""
        return {value: op for op in self.ops for value in op.outputs}

    @cached_property
    def readers(self) -> dict[int, list[Op]]:
        """The operations that read each value, in order."""
        found: dict[int, list[Op]] = {}
        for op in self.ops:
            for value in dict.fromkeys(op.inputs):
                found.setdefault(value, []).append(op)
        return found

    @cached_property
    def returned(self) -> dict[int, list[Call]]:
        """The calls that returned each value, innermost first."""
        found: dict[int, list[Call]] = {}
        for call in self.calls:
            if call.output is not None:
                found.setdefault(call.output, []).append(call)
        return found

    @cached_property
    def times_called(self) -> dict[str, int]:
        """How often each module ran."""
        found: dict[str, int] = {}
        for call in self.calls:
            found[call.path] = found.get(call.path, 0) + 1
        return found

    def only_reader(self, value: int) -> Op | None:
        """The operation that reads a value, where there is just one and the network does not return the value."""
        readers = self.readers.get(value, [])
        return readers[0] if len(readers) == 1 and value not in self.outputs else None


def watch(model: nn.Module, example: Tensor) -> Graph:
    """Run a copy of the network once on the first image of `example`, (n, c, h, w), in eval mode, and write down what ran."""
    runner = copied(model).eval()
    watcher = _Watcher(runner)
    example = (example[:1] if example.dim() > 1 else example).detach().clone().to(next(runner.parameters(), example))
    watcher.number(example)
    with torch.no_grad(), watcher:
        outputs = [t for t in tree_leaves(runner(example)) if isinstance(t, Tensor)]
    ends = tuple(watcher.values[t] for t in outputs if t in watcher.values)
    return Graph(tuple(watcher.ops), tuple(watcher.calls), (0,), ends)


class _Watcher(TorchDispatchMode):
    """Numbers tensors as they appear. Tensors made from parameters alone (a masked weight, say) get no number."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.values = WeakTensorKeyDictionary()
        self.ops: list[Op] = []
        self.calls: list[Call] = []
        self._running: list[tuple[str, int]] = []
        self._count = 0
        for path, module in model.named_modules():
            module.register_forward_pre_hook(lambda _, __, path=path: self._running.append((path, len(self.ops))))
            module.register_forward_hook(self._leave)

    def number(self, tensor: Tensor) -> int:
        """Give a tensor the next number."""
        self.values[tensor] = self._count
        self._count += 1
        return self._count - 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and t.is_floating_point()]
        read = [self.values[t] for t in tensors if t in self.values]
        out = func(*args, **kwargs)
        if read:
            written = [t for t in tree_leaves(out) if isinstance(t, Tensor) and t.is_floating_point() and t.numel()]
            made = tuple(self.number(t) for t in written)
            self._note(func, args, kwargs, tuple(read), made, len(tensors) - len(read))
            if func._schema.is_mutable:
                self._spread(written)
        return out

    def _note(self, func: Any, args: Any, kwargs: Any, read: tuple[int, ...], made: tuple[int, ...], others: int) -> None:
        kind, limit = _kind(func, args, kwargs)
        site = self._running[-1][0] if self._running else ""
        self.ops.append(Op(len(self.ops), kind, site, read, made, others, limit))

    def _spread(self, written: Sequence[Tensor]) -> None:
        """Whatever else shares memory with a tensor written to holds something new, of unknown kind."""
        memory = {t.untyped_storage()._cdata for t in written}
        for tensor, value in list(self.values.items()):
            if tensor.untyped_storage()._cdata in memory and not any(tensor is t for t in written):
                site = self._running[-1][0] if self._running else ""
                self.ops.append(Op(len(self.ops), "written", site, (value,), (self.number(tensor),)))

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        path, start = self._running.pop()
        value = self.values.get(output) if isinstance(output, Tensor) else None
        self.calls.append(Call(path, start, len(self.ops), value))


_KINDS = {
    "aten::convolution": "conv", "aten::addmm": "linear", "aten::mm": "linear", "aten::linear": "linear",
    "aten::native_batch_norm": "batch_norm", "aten::_native_batch_norm_legit_no_training": "batch_norm",
    "aten::cudnn_batch_norm": "batch_norm", "aten::_batch_norm_no_update": "batch_norm", "aten::cat": "cat",
    "aten::avg_pool2d": "mean", "aten::_adaptive_avg_pool2d": "mean",
}  # fmt: skip
_MOVES = {
    "aten::max_pool2d_with_indices", "aten::clone", "aten::contiguous", "aten::channel_shuffle", "aten::flip",
    "aten::native_channel_shuffle", "aten::index_select", "aten::upsample_nearest2d", "aten::native_dropout",
    "aten::pixel_shuffle", "aten::pixel_unshuffle", "aten::_unsafe_view", "aten::reshape", "aten::roll", "aten::stack",
}  # fmt: skip


def _kind(func: Any, args: Any, kwargs: Any) -> tuple[str, float]:
    """The kind of an operation, and the limit of a ReLU."""
    op = func._schema.name.rstrip("_")
    if op == "aten::relu":
        return "relu", math.inf
    if op in ("aten::hardtanh", "aten::clamp", "aten::clamp_min"):
        low, high = (*args[1:3], None, None)[:2]
        return ("relu", math.inf if high is None else float(high)) if low == 0 else (op, math.inf)
    if op == "aten::add":
        plain = len(args) > 1 and isinstance(args[1], Tensor) and kwargs.get("alpha", 1) == 1
        return ("add" if plain else op), math.inf
    if op == "aten::mean":
        dims = {d % args[0].dim() for d in args[1]} if len(args) > 1 and isinstance(args[1], list | tuple) else set()
        return ("mean" if args[0].dim() == 4 and dims == {2, 3} else op), math.inf
    if op == "aten::constant_pad_nd":
        return ("move" if not any(args[2:3]) and min(args[1]) >= 0 else op), math.inf
    moved = func.is_view or op in _MOVES
    return ("move" if moved else _KINDS.get(op, op)), math.inf
