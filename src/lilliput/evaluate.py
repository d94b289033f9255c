"""Accuracy of anything that can predict: a module, a `.lil` or an exported file, each run by what will really run it."""

from __future__ import annotations

import math
from pathlib import Path

from torch import nn

from lilliput.data import Task
from lilliput.data.progress import watched
from lilliput.errors import UsageError
from lilliput.export.files import readers
from lilliput.measure.accuracy import Accuracy, accuracy
from lilliput.store import load


def evaluate(model_or_file: nn.Module | str | Path, task: Task, split: str = "test", *, batch_size: int = 250) -> Accuracy:
    """The accuracy of a network on one split of a task.

    A module or a `.lil` (which must need no code of its own) runs in PyTorch, an `.onnx` in ONNX Runtime, a `.pte` in
    ExecuTorch, a `.tflite` in LiteRT.
    """
    predict = model_or_file if isinstance(model_or_file, nn.Module) else _predictor(Path(model_or_file))
    batches = math.ceil(len(task.split(split)) / batch_size)
    return accuracy(predict, watched(task.batches(split, batch_size), f"evaluating on {split}", batches), task.metric)


def _predictor(path: Path):  # type: ignore[no-untyped-def] # either kind is a callable
    if path.suffix in readers:
        return readers[path.suffix].predictor(path)
    if path.suffix == ".lil":
        return load(path)
    raise UsageError(f"{path}: accuracy is measured of an `.onnx`, a `.pte`, a `.tflite`, a `.lil` or a module")
