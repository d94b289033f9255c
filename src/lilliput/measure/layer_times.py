"""Where the time goes: milliseconds of every node of an ONNX file, or of every module of a PyTorch model.

Looking costs time itself, so these add up to more than the latency of the whole; use them to compare layers.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from lilliput.errors import ConfigError, ModelError
from lilliput.measure.latency import evaluating, feeds, first_line, quantile, session, torch_threads


@dataclass(frozen=True)
class LayerTime:
    """Milliseconds of one layer in one run, its children left out: median and deciles.

    `inputs`: the shapes of what a node of a file reads.
    """

    name: str
    kind: str
    median_ms: float
    p10: float
    p90: float
    runs: int
    inputs: tuple[tuple[int, ...], ...] = field(default=(), repr=False)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def layer_times(
    model: nn.Module | str | Path, example: Any, threads: int = 1, *, runs: int = 20, warmup: int = 3
) -> tuple[LayerTime, ...]:
    """Time every node of an ONNX file in ONNX Runtime, or every module of a PyTorch model, in the order they run.

    The names of an ONNX file are those of the graph that really runs: fused, and with the layout changes the runtime
    inserts. It resolves microseconds. Raises `ModelError` for a file that cannot be read or does not take the example.
    """
    if runs < 1 or warmup < 0:
        raise ConfigError(f"`runs` (={runs}) is 1 or more and `warmup` (={warmup}) 0 or more")
    if isinstance(model, nn.Module):
        return _module_times(model, example, threads, runs, warmup)
    return _node_times(model, example, threads, runs, warmup)


def _node_times(path: str | Path, example: Any, threads: int, runs: int, warmup: int) -> tuple[LayerTime, ...]:
    with tempfile.TemporaryDirectory() as folder:
        opened = session(path, threads, profile_prefix=str(Path(folder) / "nodes"))
        inputs = feeds(opened, example)
        try:
            for _ in range(warmup + runs):
                opened.run(None, inputs)
        except Exception as error:  # the runtime's errors share no base
            raise ModelError(f"{path}: does not run on the example: {first_line(error)}") from error
        events = json.loads(Path(opened.end_profiling()).read_text())
    taken: dict[str, list[float]] = {}
    kinds: dict[str, str] = {}
    shapes: dict[str, tuple[tuple[int, ...], ...]] = {}
    for event in events:
        name = event.get("name", "").removesuffix("_kernel_time")
        if event.get("cat") == "Node" and name != event["name"]:
            taken.setdefault(name, []).append(event["dur"] / 1e3)
            kinds[name] = event["args"]["op_name"]
            shapes[name] = tuple(tuple(dims) for each in event["args"]["input_type_shape"] for dims in each.values())
    kept = {name: ms[len(ms) * warmup // (warmup + runs) :] for name, ms in taken.items()}
    return tuple(replace(_summary(name, kinds[name], ms), inputs=shapes[name]) for name, ms in kept.items())


def _module_times(model: nn.Module, example: Any, threads: int, runs: int, warmup: int) -> tuple[LayerTime, ...]:
    inputs = example if isinstance(example, tuple) else (example,)
    watch = _Stopwatch(model)
    with torch.inference_mode(), torch_threads(threads), evaluating([model]):
        for _ in range(warmup):
            model(*inputs)
        with watch.on():
            for _ in range(runs):
                model(*inputs)
                watch.lap()
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    return tuple(_summary(name, kinds[name], ms) for name, ms in watch.laps.items())


class _Stopwatch:
    """Gives the time between two hooks to the module on top of the stack, so that a module's time is its own alone."""

    def __init__(self, model: nn.Module) -> None:
        self.laps: dict[str, list[float]] = {}
        self._now: dict[str, float] = {}
        self._names = {id(module): name for name, module in model.named_modules()}
        self._stack: list[str] = []
        self._mark = 0.0

    def lap(self) -> None:
        """One run is over."""
        for name, seconds in self._now.items():
            self.laps.setdefault(name, []).append(1e3 * seconds)
        self._now.clear()

    def _enter(self, module: nn.Module, args: Any) -> None:
        if id(module) in self._names:
            self._settle()
            self._stack.append(self._names[id(module)])
            self._mark = time.perf_counter()

    def _leave(self, module: nn.Module, args: Any, out: Any) -> None:
        if id(module) in self._names:
            self._settle()
            self._stack.pop()
            self._mark = time.perf_counter()

    def _settle(self) -> None:
        if self._stack:
            name = self._stack[-1]
            self._now[name] = self._now.get(name, 0.0) + time.perf_counter() - self._mark

    @contextmanager
    def on(self) -> Iterator[None]:
        """Take times inside."""
        hooks = (register_module_forward_pre_hook(self._enter), register_module_forward_hook(self._leave))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _summary(name: str, kind: str, ms: list[float]) -> LayerTime:
    return LayerTime(name, kind, quantile(ms, 0.5), quantile(ms, 0.1), quantile(ms, 0.9), len(ms))
