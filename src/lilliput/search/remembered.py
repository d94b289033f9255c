"""A clock that answers the same question once, for good: a search that was stopped goes on with what it knew."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from lilliput.clock import Clock, structure
from lilliput.core import state
from lilliput.measure import Latency
from lilliput.measure.shape_times import LayerShape


class Remembered:
    """What a clock measured, and whatever else was found once, in a JSON file; by structure, as no time depends on weights.

    `context` is what else decides: machine, threads, network, data. What was found in another is another question.
    """

    def __init__(self, clock: Clock, path: Path, context: str = "") -> None:
        self.clock, self.path, self.context = clock, path, context
        self.known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    @property
    def threads(self) -> int:
        """Of an inference."""
        return self.clock.threads

    def keep(self, key: str, find: Callable[[], Any]) -> Any:
        """The JSON value under a key, found now if it is not there."""
        key = f"{self.context} {key}"
        if key not in self.known:
            self.known[key] = find()
            state.write_json(self.path, self.known)
        return self.known[key]

    @contextmanager
    def counted(self, key: str) -> Iterator[Callable[[], float]]:
        """Seconds that a work has taken, with those of processes that were stopped at it, and noted whenever one asks."""
        key, begun = f"{self.context} {key}", time.perf_counter()
        before = float(self.known.get(key, 0.0))

        def seconds() -> float:
            self.known[key] = round(before + time.perf_counter() - begun, 1)
            state.write_json(self.path, self.known)
            return float(self.known[key])

        yield seconds

    def __call__(self, model: nn.Module) -> float:
        """The median of a model's milliseconds."""
        return float(self.keep(f"one {structure(model)}", lambda: self.clock(model)))

    def ratio(self, model: nn.Module, baseline: nn.Module) -> float:
        """The time of a model as a share of the baseline's."""
        key = f"ratio {structure(model)} {structure(baseline)}"
        return float(self.keep(key, lambda: self.clock.ratio(model, baseline)))

    def compare(self, models: Mapping[str, nn.Module], seconds: float = 10.0) -> dict[str, Latency]:
        """Latencies measured in turns."""
        names = list(models)
        key = f"turns {seconds:g} {' '.join(structure(models[name]) for name in names)}"
        found = self.keep(key, lambda: [asdict(one) for one in self.clock.compare(models, seconds).values()])
        return {name: Latency(**one) for name, one in zip(names, found, strict=True)}

    def layers(self, shapes: Sequence[LayerShape]) -> list[float]:
        """Milliseconds of single layers, as they were when they were first asked for."""
        key = hashlib.sha256(" ".join(map(str, shapes)).encode()).hexdigest()[:16]
        return [float(ms) for ms in self.keep(f"layers {key}", lambda: self.clock.layers(shapes))]

    def inside(self, model: nn.Module) -> dict[str, float]:
        """Milliseconds of each layer where it stands in its network."""
        found = self.keep(f"inside {structure(model)}", lambda: self.clock.inside(model))
        return {str(name): float(ms) for name, ms in found.items()}
