"""The kinds of exported files that run on this machine, by suffix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from torch import Tensor

from lilliput.export import onnx, pte, tflite


class Reader(Protocol):
    """What a target's file has for running what it wrote."""

    def predictor(self, path: str | Path, threads: int = 1) -> Callable[[Tensor], Tensor]: ...

    def input_shape(self, path: str | Path) -> tuple[int, ...]: ...


readers: dict[str, Reader] = {".onnx": onnx, ".pte": pte, ".tflite": tflite}
