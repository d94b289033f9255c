"""One eager forward, seen operation by operation: which layer runs it, what it costs, what it keeps alive."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lilliput.measure.memory import Keys, Live, has_storage, key
from lilliput.measure.rules import is_free, rules

MAPS = ("weight_maps", "input_maps", "output_maps")  # where a layer keeps what stands before and behind it


@dataclass
class Row:
    """What one module did itself; its children have rows of their own."""

    calls: int = 0
    macs: int = 0
    effective_macs: int = 0
    peak: int = 0
    input_shape: tuple[int, ...] | None = None
    output_shape: tuple[int, ...] | None = None


def host(path: str) -> str:
    """The layer a map belongs to; any other module belongs to itself.

    >>> host("stem.conv.weight_maps.0"), host("stem.conv")
    ('stem.conv', 'stem.conv')
    """
    parts = path.split(".")
    return ".".join(parts[: next((i for i, part in enumerate(parts) if part in MAPS), len(parts))])


def tensors(value: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists and dicts."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


class Watch(TorchDispatchMode):
    """Counts while it is on. `ran` names the rows that did something, in the order of their first operation.

    What weight maps do is left out of every count: it is done once, before the network runs (`bake`). So is what maps on
    activations do, which only imitate a narrower arithmetic: peak memory is that of the same network in floats.
    """

    def __init__(self, model: nn.Module, example: Any) -> None:
        super().__init__()
        self.rows: dict[str, Row] = {}
        self.ran: dict[str, None] = {}
        self.uncounted: Counter[str] = Counter()
        self.live = Live()
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._stack: list[tuple[int, str]] = []
        self._weights = Keys(t for t in (*model.parameters(), *model.buffers()) if has_storage(t))
        self._kept = _Kept([*model.parameters(), *model.buffers(), *tensors(example)])
        for tensor in tensors(example):
            self.live.hold(tensor)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # telling the compiler to keep out imports it first, which takes longer than most profiles

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name
        if name not in rules and not is_free(func) and func._can_decompose():
            with self:  # under inference mode PyTorch hands over whole layers; their parts have rules
                return func.decompose(*args, **kwargs)
        self._kept.before(func, args, kwargs)
        out = func(*args, **kwargs)
        inputs = tensors((args, kwargs))
        if self._on_activations():
            return out
        self._follow(inputs, tensors(out))
        if not self._on_weights():
            self._count(func, name, args, kwargs, inputs, out)
        return out

    def _on_weights(self) -> bool:
        return bool(self._stack) and "weight_maps" in self._stack[-1][1].split(".")

    def _on_activations(self) -> bool:
        return bool(self._stack) and any(part in MAPS[1:] for part in self._stack[-1][1].split("."))

    def _row(self) -> Row:
        path = host(self._stack[-1][1] if self._stack else "")
        self.ran[path] = None
        return self.rows.setdefault(path, Row())

    def _follow(self, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        """New storages are activations, unless they hold weights for the layer to use."""
        known = {key(t) for t in inputs if has_storage(t)}
        from_weights = bool(inputs) and all(t in self._weights for t in inputs)
        for tensor in filter(has_storage, outputs):
            made = key(tensor) not in known
            if made and (from_weights or self._on_weights()):
                self._weights.add(tensor)
            if (made and not self._on_weights()) or tensor in self.live:
                self.live.add(tensor)

    def _count(self, func: Any, name: str, args: Any, kwargs: Any, inputs: list[Tensor], out: Any) -> None:
        row = self._row()
        row.peak = max(row.peak, self.live.now)
        if name in rules:
            macs = rules[name](out, *args, **kwargs)
            row.macs += macs
            row.effective_macs += round(macs * self._density(inputs))
        elif not is_free(func):
            self.uncounted[name] += 1

    def _density(self, inputs: list[Tensor]) -> float:
        """The share of the weight that is not zero; 1 where no single weight takes part or its values are not known."""
        weights = [t for t in inputs if t.dim() > 1 and t in self._weights]
        if len(weights) != 1 or not _has_values(weights[0]) or not weights[0].numel():
            return 1.0
        return int(torch.count_nonzero(weights[0])) / weights[0].numel()

    def enter(self, module: nn.Module, args: Any) -> None:
        """Forward pre-hook."""
        path = self._paths.get(id(module))
        if path is None:
            return
        self._stack.append((id(module), path))
        if host(path) != path:
            return
        row = self.rows.setdefault(path, Row())
        row.calls += 1
        row.input_shape = row.input_shape or _shape(args)

    def leave(self, module: nn.Module, args: Any, out: Any) -> Any:
        """Forward hook. A module that raised never gets here; whoever caught that takes it off the stack on leaving.

        Behind a map on activations the network goes on with what came in.
        """
        path = self._paths.get(id(module))
        if path is None:
            return None
        while self._stack and self._stack.pop()[0] != id(module):
            pass
        if host(path) == path:
            self.rows[path].output_shape = self.rows[path].output_shape or _shape(out)
        parts = path.split(".")
        return args[0] if len(parts) > 1 and parts[-2] in MAPS[1:] and args else None

    @property
    def site(self) -> str:
        """The module that is running, for messages."""
        return self._stack[-1][1] if self._stack and self._stack[-1][1] else "the model"

    @contextmanager
    def on(self) -> Iterator[None]:
        """Watch everything that runs inside, and put back whatever tensor was written to."""
        before = register_module_forward_pre_hook(self.enter)
        after = register_module_forward_hook(self.leave)
        try:
            with self:
                yield
        finally:
            before.remove()
            after.remove()
            self._kept.restore()


class _Kept:
    """Copies of tensors that must not change, made when something is about to write to them."""

    def __init__(self, protected: list[Tensor]) -> None:
        self._storages = {key(t): t.untyped_storage() for t in protected if _has_values(t)}
        self._copies: dict[int, torch.UntypedStorage] = {}

    def before(self, func: Any, args: Any, kwargs: Any) -> None:
        for tensor in _written(func, args, kwargs):
            k = key(tensor) if has_storage(tensor) else -1
            if k in self._storages and k not in self._copies:
                self._copies[k] = self._storages[k].clone()

    def restore(self) -> None:
        for k, copy in self._copies.items():
            self._storages[k].copy_(copy)
        self._copies.clear()


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors an operation writes to, by its schema. Batch norm writes its statistics without saying so."""
    if "batch_norm" in func._schema.name:
        return tensors(args[3:5])
    if not func._schema.is_mutable:
        return []
    declared = zip(func._schema.arguments, args, strict=False)
    positional = [value for argument, value in declared if argument.is_write]
    return tensors((positional, [kwargs.get(a.name) for a in func._schema.arguments if a.is_write]))


def _has_values(tensor: Tensor) -> bool:
    """Fake tensors claim a device, but their storage lies on "meta" as well."""
    return has_storage(tensor) and tensor.untyped_storage().device.type != "meta"


def _shape(value: Any) -> tuple[int, ...] | None:
    found = tensors(value)
    return tuple(found[0].shape) if found else None
