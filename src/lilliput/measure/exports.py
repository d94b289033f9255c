"""How long exported files take in turns, each on the runtime that reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from lilliput.measure.latency import Latency, file_call, interleave
from lilliput.measure.lite import Lite
from lilliput.measure.phone import Phone

Call = Callable[[], object]
SESSIONS = 3
"""In which a time that is told is measured: where a session's memory happens to lie changes small networks by some percent for
as long as it lives, and what else runs on the machine for a second or two is in one of them alone."""


def time_exports(
    files: Mapping[str, str | Path], example: Tensor, *, threads: int = 1, runs: int | None = None, seconds: float = 10.0,
    sessions: int = 1,
) -> dict[str, Latency]:  # fmt: skip
    """Time files in turns, each on its runtime: a `.pte` on ExecuTorch, a `.tflite` on LiteRT, any other on ONNX Runtime.

    `runs` of each of `sessions` and `seconds` of all together, as in `interleave`; a session opens the files anew, and the
    samples of all are taken together. Raises `ModelError` for a file that is missing, cannot be read, or does not take the
    example.
    """
    parts = [_session(files, example, threads, runs, seconds / sessions) for _ in range(sessions)]
    return {name: Latency.pooled([part[name] for part in parts]) for name in files}


def _session(
    files: Mapping[str, str | Path], example: Tensor, threads: int, runs: int | None, seconds: float
) -> dict[str, Latency]:
    ways = {name: _RUN_BY.get(Path(path).suffix, ("onnxruntime", file_call)) for name, path in files.items()}
    calls = {name: ways[name][1](Path(path), example, threads) for name, path in files.items()}
    found = interleave(calls, runs=runs, seconds=seconds, threads=threads)
    return {name: replace(each, runtime=ways[name][0]) for name, each in found.items()}


def _phone(path: Path, example: Tensor, threads: int) -> Call:
    phone = Phone(path, threads)
    phone(example)  # an input it does not take is found now
    return lambda: phone(example)


def _lite(path: Path, example: Tensor, threads: int) -> Call:
    return Lite(path, threads).ready(example)


_RUN_BY: dict[str, tuple[str, Callable[[Path, Tensor, int], Call]]] = {
    ".pte": ("executorch", _phone),
    ".tflite": ("litert", _lite),
}
