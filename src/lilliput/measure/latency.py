"""How long callables and ONNX files take: alternated in one run, medians with their spread, threads pinned.

Times of two runs cannot be compared, since machines drift between them; times taken in turns can. `interleave` calls
every contestant once a round, in an order that rotates, so that the i-th samples of all of them belong together and
`Ratio` can pair them.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lilliput.errors import ConfigError, LilliputError, ModelError
from lilliput.registry import Registry

Clock = Callable[[], float]
# What lets a session's options run the operations of a domain; who knows such operations adds it.
domains: Registry[Callable[[Any], Any]] = Registry("domain of operations")
_SAMPLE_SECONDS = 1e-3  # calls are gathered into samples of at least this length, well above a clock's own noise


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one call: the median and the first and last decile of `runs` samples.

    >>> Latency.of([0.001, 0.002, 0.003], runtime="onnxruntime", threads=1)
    Latency(median_ms=2.0, p10=1.2, p90=2.8, runs=3, runtime='onnxruntime', threads=1)
    """

    median_ms: float
    p10: float
    p90: float
    runs: int
    runtime: str
    threads: int
    samples: tuple[float, ...] = field(default=(), repr=False, compare=False)

    @staticmethod
    def of(seconds: list[float], *, runtime: str, threads: int) -> Latency:
        """Summarise samples given in seconds."""
        low, middle, high = (round(1e3 * quantile(seconds, q), 6) for q in (0.1, 0.5, 0.9))
        return Latency(middle, low, high, len(seconds), runtime, threads, tuple(1e3 * s for s in seconds))

    @staticmethod
    def pooled(parts: Sequence[Latency]) -> Latency:
        """All samples of several measurements together, in their order, so that those of two contestants still pair.

        >>> one = Latency.of([0.001, 0.002], runtime="torch", threads=1)
        >>> Latency.pooled([one, one]).runs
        4
        """
        seconds = [1e-3 * ms for part in parts for ms in part.samples]
        return Latency.of(seconds, runtime=parts[0].runtime, threads=parts[0].threads)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, without the samples."""
        spread = {"median": self.median_ms, "p10": self.p10, "p90": self.p90}
        return {**spread, "runs": self.runs, "runtime": self.runtime, "threads": self.threads}

    def __str__(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        spread = f"{self.p10:.3g} to {self.p90:.3g}, {self.runs} runs"
        return f"{self.median_ms:.3g} ms ({spread}, {self.runtime}, {threads})"


@dataclass(frozen=True)
class Ratio:
    """How many times as long one contestant takes as another: median and deciles of the ratios of paired samples.

    >>> one, other = (Latency.of(s, runtime="torch", threads=1) for s in ([1, 2, 4], [2, 4, 8]))
    >>> print(Ratio.of(one, other))
    0.5x (0.5 to 0.5, 3 pairs)
    """

    median: float
    p10: float
    p90: float
    pairs: int

    @staticmethod
    def of(one: Latency, other: Latency) -> Ratio:
        """`one / other`. Raises `ConfigError` unless both were measured in the same call of `interleave`."""
        if not one.samples or len(one.samples) != len(other.samples):
            raise ConfigError(
                f"`{len(one.samples)}` and `{len(other.samples)}` samples cannot be paired; measure both in one run"
            )
        ratios = [a / b for a, b in zip(one.samples, other.samples, strict=True)]
        return Ratio(quantile(ratios, 0.5), quantile(ratios, 0.1), quantile(ratios, 0.9), len(ratios))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"median": self.median, "p10": self.p10, "p90": self.p90, "pairs": self.pairs}

    def __str__(self) -> str:
        return f"{self.median:.3g}x ({self.p10:.3g} to {self.p90:.3g}, {self.pairs} pairs)"


def interleave(
    callables: Mapping[str, Callable[[], object]],
    *,
    runs: int | None = None,
    warmup: int = 3,
    seconds: float = 10.0,
    tolerance: float = 0.01,
    runtime: str = "python",
    threads: int = 1,
    clock: Clock = time.perf_counter,
) -> dict[str, Latency]:
    """Time callables in turns and return the latency of each.

    Every callable runs `warmup` times first. Then come rounds, in which each is sampled once and goes first in its
    turn: `runs` of them, or, without `runs`, as many as it takes (20 at least) until every median is known to
    `tolerance` (half the width of its 95 % confidence interval, relative), but no longer than `seconds`, and 5 rounds
    in any case. Calls much shorter than a millisecond are gathered into samples. Garbage collection is off meanwhile.
    `runtime` and `threads` are labels.
    """
    _check(callables, runs, warmup, seconds)
    order = list(callables)
    samples: dict[str, list[float]] = {name: [] for name in order}
    with _no_collection():
        calls = {name: _calls(call, warmup, clock) for name, call in callables.items()}
        end = clock() + seconds
        while not _enough(samples, runs, clock() >= end, tolerance):
            for name in order:
                samples[name].append(_sample(callables[name], calls[name], clock))
            order.append(order.pop(0))
    return {name: Latency.of(taken, runtime=runtime, threads=threads) for name, taken in samples.items()}


def time_files(
    files: Mapping[str, str | Path],
    example: Any,
    *,
    threads: int = 1,
    runs: int | None = None,
    seconds: float = 10.0,
) -> dict[str, Latency]:
    """Time ONNX files in turns in ONNX Runtime. `example` is one input, or a tuple of them in the order of the file's.

    Raises `ModelError` for a file that is missing, cannot be read, or does not take the example.
    """
    calls = {name: file_call(path, example, threads) for name, path in files.items()}
    return interleave(calls, runs=runs, seconds=seconds, runtime="onnxruntime", threads=threads)


def time_modules(
    modules: Mapping[str, Callable[..., object]],
    example: Any,
    *,
    threads: int = 1,
    runs: int | None = None,
    seconds: float = 10.0,
) -> dict[str, Latency]:
    """Time PyTorch modules (or functions) in turns, in evaluation mode without gradients.

    The number of threads and the mode of each module are as they were afterwards.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    calls: dict[str, Callable[[], object]] = {name: _bound(module, inputs) for name, module in modules.items()}
    with torch.inference_mode(), torch_threads(threads), evaluating(modules.values()):
        return interleave(calls, runs=runs, seconds=seconds, runtime="torch", threads=threads)


def session(path: str | Path, threads: int = 1, *, profile_prefix: str | None = None) -> Any:
    """An ONNX Runtime session on the CPU: `threads` inside an operator, one operator at a time, all optimisations.

    Idle threads do not spin between runs, so that a session at rest does not slow the one being timed.
    With `profile_prefix` it writes the time of each node to a file that begins so.
    Operations of other domains run where `domains` knows them. Raises `ModelError` for a file that cannot be loaded.
    """
    import onnxruntime as ort  # type: ignore[import-untyped]

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0" if threads == 1 else "1")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if profile_prefix is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile_prefix
    if not Path(path).is_file():
        raise ModelError(f"{path}: there is no such file")
    prepare(options, path)
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's errors share no base but RuntimeError and Exception
        raise ModelError(f"{path}: ONNX Runtime cannot load it: {first_line(error)}") from error


def prepare(options: Any, path: str | Path) -> None:
    """Let a session's options run what this file holds. Raises `ModelError` where a domain's library is missing."""
    for domain in used_domains(path):
        if domain in domains:
            try:
                domains[domain](options)
            except LilliputError as error:
                raise ModelError(f"{path}: holds operations of domain `{domain}`, which cannot run here: {error}") from error


def used_domains(path: str | Path) -> tuple[str, ...]:
    """The domains that an ONNX file's operations are from, beside ONNX's own; none for what is no such file."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        return tuple(o.domain for o in onnx.load(str(path), load_external_data=False).opset_import if o.domain)
    except DecodeError:  # the runtime says it better
        return ()


def feeds(opened: Any, example: Any) -> dict[str, Any]:
    """The example as the session's named inputs, in their order."""
    import numpy as np

    values = example if isinstance(example, tuple | list) else (example,)
    names = [i.name for i in opened.get_inputs()]
    if len(values) != len(names):
        raise ModelError(f"the file takes `{len(names)}` inputs ({', '.join(names)}) and the example has `{len(values)}`")
    arrays = (v.detach().cpu().numpy() if isinstance(v, torch.Tensor) else np.asarray(v) for v in values)
    return dict(zip(names, arrays, strict=True))


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """PyTorch works with this many threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def evaluating(modules: Any) -> Iterator[None]:
    """All modules among these are in evaluation mode inside, and each part is back in its own mode afterwards."""
    parts = {m: m.training for module in modules if isinstance(module, nn.Module) for m in module.modules()}
    for module in parts:
        module.training = False
    try:
        yield
    finally:
        for module, mode in parts.items():
            module.training = mode


def quantile(values: list[float], q: float) -> float:
    """The q-quantile, linear between order statistics.

    >>> quantile([3, 1, 2], 0.5), quantile([0, 10], 0.1)
    (2.0, 1.0)
    """
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return float(ordered[low] + (place - low) * (ordered[high] - ordered[low]))


def spread(values: list[float]) -> float:
    """Half the width of the median's confidence interval, as a share of the median."""
    low, high = interval(values)
    return (high - low) / 2 / max(statistics.median(values), 1e-12)


def interval(values: list[float]) -> tuple[float, float]:
    """The median's 95 % confidence interval; without bounds for fewer samples than it takes to have one.

    It lies between the order statistics n/2 ± 0.98·√n, whatever the distribution (a sign test turned round).

    >>> interval(list(range(100)))
    (40.0, 59.0)
    """
    ordered, n = sorted(values), len(values)
    reach = 0.98 * math.sqrt(n)
    low, high = math.floor(n / 2 - reach), math.ceil(n / 2 + reach) - 1
    if low < 0 or high >= n:
        return -math.inf, math.inf
    return float(ordered[low]), float(ordered[high])


def _enough(samples: Mapping[str, list[float]], runs: int | None, late: bool, tolerance: float) -> bool:
    done = len(next(iter(samples.values())))
    if runs is not None:
        return done >= runs
    if late:
        return done >= 5
    return done >= 20 and all(spread(taken) <= tolerance for taken in samples.values())


def _calls(call: Callable[[], object], warmup: int, clock: Clock) -> int:
    """Warm up, and say how many calls make a sample."""
    fastest = math.inf
    for _ in range(max(warmup, 1)):
        fastest = min(fastest, _sample(call, 1, clock))
    return max(1, math.ceil(_SAMPLE_SECONDS / max(fastest, 1e-7)))


def _sample(call: Callable[[], object], calls: int, clock: Clock) -> float:
    start = clock()
    for _ in range(calls):
        call()
    return (clock() - start) / calls


@contextmanager
def _no_collection() -> Iterator[None]:
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _check(callables: Mapping[str, Any], runs: int | None, warmup: int, seconds: float) -> None:
    if not callables:
        raise ConfigError("there is nothing to time; give at least one callable")
    if runs is not None and runs < 1:
        raise ConfigError(f"`runs` (={runs}) is a number of rounds: 1 or more")
    if warmup < 0 or seconds <= 0:
        raise ConfigError(f"`warmup` (={warmup}) is 0 or more and `seconds` (={seconds}) above 0")


def file_call(path: str | Path, example: Any, threads: int = 1) -> Callable[[], object]:
    """One inference of an `.onnx` file on ONNX Runtime, to be called again and again."""
    opened = session(path, threads)
    inputs = feeds(opened, example)
    try:
        opened.run(None, inputs)
    except Exception as error:  # see `session`
        raise ModelError(f"{path}: does not run on the example: {first_line(error)}") from error
    return lambda: opened.run(None, inputs)


def _bound(call: Callable[..., object], inputs: tuple[Any, ...]) -> Callable[[], object]:
    return lambda: call(*inputs)


def first_line(error: Exception) -> str:
    """What an error says first."""
    return (str(error).splitlines() or [type(error).__name__])[0]
