"""Networks beside each other on the same images: what they answer, and what they take."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lilliput.data import Task
from lilliput.errors import UsageError
from lilliput.evaluate import evaluate
from lilliput.export import export
from lilliput.export.files import readers
from lilliput.job import check_fit
from lilliput.measure import SESSIONS, Latency, Ratio, time_exports
from lilliput.measure.accuracy import Accuracy
from lilliput.measure.chance import difference, mcnemar
from lilliput.report import answers
from lilliput.store import load

STORED = ".lil"


@dataclass(frozen=True)
class Compared:
    """One network beside the first.

    agreement  the share of images that both answer alike, rightly or wrongly
    lost, gained   images that the first answers rightly and this one does not, and the other way round
    chance     how likely so uneven a split is where neither is better: exact McNemar test, two-sided
    bytes      of the file that was named; a `.lil` runs as the `.onnx` that it exports to
    """

    file: Path
    accuracy: Accuracy
    agreement: float
    lost: int
    gained: int
    chance: float
    bytes: int
    latency: Latency
    ratio: Ratio

    @property
    def difference(self) -> tuple[float, float, float]:
        """The accuracy that it has beyond the first, as a share, with its 95 % interval: value, low, high."""
        total = len(self.accuracy.hits)
        return (self.gained - self.lost) / total, *difference(self.lost, self.gained, total)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        beyond = dict(zip(("value", "low", "high"), self.difference, strict=True))
        return {"file": str(self.file), **self.accuracy.to_json(), "agreement": self.agreement, "lost": self.lost,
                "gained": self.gained, "mcnemar_p": self.chance, "difference": beyond, "bytes": self.bytes,
                "latency_ms": self.latency.to_json(), "ratio": self.ratio.to_json()}  # fmt: skip


def compare(files: Sequence[str | Path], task: Task, *, threads: int = 1, trust: bool = False) -> list[Compared]:
    """Accuracy on the test split with what could be chance in it, bytes, and latency in turns.

    Of `.lil`, `.onnx`, `.pte` and `.tflite` files; every image is answered by the very file that is timed. Raises `UsageError`
    for fewer than two files and for others.
    """
    named = [Path(file) for file in files]
    if len(named) < 2 or len(set(named)) < len(named):
        raise UsageError(f"`{' '.join(map(str, named))}`: name two files or more, each once")
    for file in named:
        if file.suffix not in (*readers, STORED):
            raise UsageError(
                f"{file}: `.lil`, `.onnx`, `.pte` and `.tflite` are compared; `lilliput export` makes one of a network"
            )
    with tempfile.TemporaryDirectory() as folder:
        ready = {str(file): _ready(file, task, Path(folder) / f"{number}.onnx", trust) for number, file in enumerate(named)}
        scores = [evaluate(ready[str(file)], task, "test") for file in named]
        times = time_exports(ready, task.example(), threads=threads, sessions=SESSIONS)
    first = times[str(named[0])]
    return [
        _beside(file, score, scores[0], times[str(file)], Ratio.of(times[str(file)], first))
        for file, score in zip(named, scores, strict=True)
    ]


def _ready(file: Path, task: Task, place: Path, trust: bool) -> Path:
    """The file that runs."""
    if file.suffix != STORED:
        return file
    model = load(file, trust=trust)
    check_fit(model, task)
    return export(model, task.example(), place).path


def _beside(file: Path, score: Accuracy, first: Accuracy, latency: Latency, ratio: Ratio) -> Compared:
    changed = answers(first.hits, score.hits)
    lost, gained = changed["lost"], changed["gained"]
    agreement = float((score.answers == first.answers).float().mean())
    return Compared(file, score, agreement, lost, gained, mcnemar(lost, gained), file.stat().st_size, latency, ratio)
