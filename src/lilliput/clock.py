"""The time of a *model* on a runtime: exported first where the runtime needs a file, measured once for each structure."""

from __future__ import annotations

import hashlib
import shutil
import statistics
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lilliput.core.record import record
from lilliput.data.cache import root
from lilliput.errors import ConfigError, UnknownName
from lilliput.export import export
from lilliput.export.running import LayerKernel, running
from lilliput.kernels.break_even import full_of_zeros
from lilliput.measure import lite, phone
from lilliput.measure.exports import SESSIONS, time_exports
from lilliput.measure.latency import Latency, Ratio, time_modules
from lilliput.measure.layer_times import LayerTime, layer_times
from lilliput.measure.shape_times import LayerShape, ShapeTimes

FILES = {"onnxruntime": ".onnx", "executorch": ".pte", "litert": ".tflite"}
RUNTIMES = (*FILES, "torch")
_OPTIONAL = {"executorch": phone.runtime, "litert": lite.runtime}
_SECONDS = 10.0


def latency(model_or_file: nn.Module | str | Path, example: Tensor, runtime: str = "onnxruntime", threads: int = 1) -> Latency:
    """Milliseconds of one inference on `example`, (n, c, h, w), with the number of threads pinned.

    A module is exported first, unless the runtime is "torch", which times the module itself; a file is an `.onnx`, a `.pte`
    for "executorch", or a `.tflite` for "litert". Raises `ModelError` where that runtime is not installed.
    """
    _check(runtime)
    with tempfile.TemporaryDirectory() as folder:
        return _time({"it": model_or_file}, example, runtime, threads, Path(folder))["it"]


def layers(
    model_or_file: nn.Module | str | Path, example: Tensor, runtime: str = "onnxruntime", threads: int = 1
) -> tuple[LayerTime, ...]:
    """Milliseconds of every layer, in the order they run: of the exported graph, or with "torch" of the modules.

    Looking costs time itself, so these add up to more than `latency`.
    """
    _check(runtime)
    if runtime in _OPTIONAL:
        raise ConfigError(f"`{runtime}` times whole networks; `onnxruntime` and `torch` also single layers")
    if runtime == "torch":
        if not isinstance(model_or_file, nn.Module):
            raise ConfigError(
                f"`{model_or_file}`: `torch` times modules, not files; take `onnxruntime`, or load the file first"
            )
        return layer_times(model_or_file, example, threads)
    with tempfile.TemporaryDirectory() as folder:
        return layer_times(_exported(model_or_file, example, Path(folder) / "it", runtime), example, threads)


def kernels(
    model_or_file: nn.Module | str | Path, example: Tensor, runtime: str = "onnxruntime", threads: int = 1
) -> tuple[tuple[LayerKernel, ...], float]:
    """Which kernel runs every layer in ONNX Runtime, with its milliseconds; and those of everything else together."""
    if runtime != "onnxruntime":
        raise ConfigError(f"which kernel runs a layer is known of `onnxruntime`, and not of `{runtime}`")
    with tempfile.TemporaryDirectory() as folder:
        return running(_exported(model_or_file, example, Path(folder) / "it", runtime), example, threads)


class Clock:
    """Milliseconds of models on one example and runtime: `clock(model)` is the median.

    Times do not depend on the numbers in the weights but for zeros, so a model is measured once for each structure. What was
    exported is kept as long as the clock, in a folder that goes with it. Times of single layers are kept in the cache, by
    machine.
    """

    def __init__(self, example: Tensor, runtime: str = "onnxruntime", threads: int = 1) -> None:
        _check(runtime)
        self.example, self.runtime, self.threads = example, runtime, threads
        self._times: dict[str, Latency] = {}
        self._ratios: dict[tuple[str, str], float] = {}
        self._shapes: ShapeTimes | None = None
        self._folder = Path(tempfile.mkdtemp(prefix="lilliput-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._files: dict[str, Path] = {}

    def __call__(self, model: nn.Module) -> float:
        """The median, measured now or before."""
        key = structure(model)
        if key not in self._times:
            self._times[key] = self.compare({"it": model})["it"]
        return self._times[key].median_ms

    def compare(self, models: Mapping[str, nn.Module], seconds: float = _SECONDS) -> dict[str, Latency]:
        """Latencies measured alternately in one run, so that their ratios hold on a machine that drifts. Never cached."""
        if self.runtime == "torch":
            return time_modules(models, self.example, threads=self.threads, seconds=seconds)
        files = {name: self._file(model) for name, model in models.items()}
        return time_exports(files, self.example, threads=self.threads, seconds=seconds)

    def ratio(self, model: nn.Module, baseline: nn.Module) -> float:
        """The time of a model as a share of the baseline's: both measured in turns, once for each pair of structures.

        The median of several measurements, each with sessions of its own (`SESSIONS`).
        """
        key = (structure(model), structure(baseline))
        if key not in self._ratios:
            each = [self.compare({"it": model, "baseline": baseline}, _SECONDS / SESSIONS) for _ in range(SESSIONS)]
            self._ratios[key] = statistics.median(Ratio.of(times["it"], times["baseline"]).median for times in each)
        return self._ratios[key]

    def layers(self, shapes: Sequence[LayerShape]) -> list[float]:
        """Milliseconds of single layers by their shape, from the cache or measured now; of ONNX Runtime alone."""
        if self.runtime != "onnxruntime":
            raise ConfigError(
                f"times of single layers are measured on `onnxruntime`, and this clock's runtime is `{self.runtime}`"
            )
        if self._shapes is None:
            self._shapes = ShapeTimes(root(), self.threads)
        return self._shapes(shapes)

    def inside(self, model: nn.Module) -> dict[str, float]:
        """Milliseconds of each layer where it stands, by name; with all that is no layer they add up to `clock(model)`."""
        if self.runtime != "onnxruntime":
            raise ConfigError(
                f"layers are timed inside a network by `onnxruntime`, and this clock's runtime is `{self.runtime}`"
            )
        found, other = running(self._file(model), self.example, self.threads)
        scale = self(model) / (sum(layer.median_ms for layer in found) + other)  # looking costs time itself
        names = dict.fromkeys(layer.name for layer in found)
        return {name: scale * sum(layer.median_ms for layer in found if layer.name == name) for name in names}

    def _file(self, model: nn.Module) -> Path:
        key = structure(model)
        if key not in self._files:
            self._files[key] = export(model, self.example, self._folder / f"{key}{FILES[self.runtime]}").path
        return self._files[key]


def structure(model: nn.Module) -> str:
    """A digest of all that decides how long a model takes: layers, their options, shapes and types; not the numbers.

    Of those only how many are zero, in percent, where they are most: such layers may be packed (`kernels.worth`).
    """
    digest = hashlib.sha256(repr(record(model).architecture).encode())
    for path, module in model.named_modules():
        options = sorted((k, v) for k, v in vars(module).items() if k[0] != "_" and k != "training" and _is_plain(v))
        tensors = [*module._parameters.items(), *module._buffers.items()]
        shapes = [(name, None if t is None else (tuple(t.shape), str(t.dtype))) for name, t in tensors]
        kind = f"{type(module).__module__}.{type(module).__qualname__}"
        digest.update(repr((path, kind, module.extra_repr(), options, shapes, *full_of_zeros(module))).encode())
    return digest.hexdigest()[:16]


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_plain(v) for v in value)
    return value is None or isinstance(value, bool | int | float | str)


def _time(
    models: Mapping[str, nn.Module | str | Path], example: Tensor, runtime: str, threads: int, folder: Path
) -> dict[str, Latency]:
    if runtime == "torch":
        modules = {name: model for name, model in models.items() if isinstance(model, nn.Module)}
        if len(modules) < len(models):
            raise ConfigError('`torch` times modules, not files; use `runtime="onnxruntime"`, or load the file first')
        return time_modules(modules, example, threads=threads)
    files = {name: _exported(model, example, folder / name, runtime) for name, model in models.items()}
    return time_exports(files, example, threads=threads)


def _exported(model: nn.Module | str | Path, example: Tensor, path: Path, runtime: str) -> Path:
    suffix = FILES[runtime]
    if isinstance(model, nn.Module):
        return export(model, example, path.with_suffix(suffix)).path
    if Path(model).suffix != suffix:
        raise ConfigError(f"`{model}`: `{runtime}` times `{suffix}` files and modules")
    return Path(model)


def _check(runtime: str) -> None:
    if runtime not in RUNTIMES:
        raise UnknownName("runtime", runtime, RUNTIMES)
    if runtime in _OPTIONAL:
        _OPTIONAL[runtime]("this runtime")
