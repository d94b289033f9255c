"""LiteRT files on this machine: loaded and run, with the number of threads pinned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lilliput.errors import ModelError
from lilliput.measure.latency import first_line
from lilliput.measure.quiet import quiet, unheard

INSTALL = "`pip install 'lilliput[litert]'` brings it"


@dataclass(frozen=True)
class Operation:
    """One operation of a file: its kind as LiteRT calls it, and the tensors it reads and makes, by number and by type."""

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    reads: tuple[str, ...]
    makes: tuple[str, ...]


class Lite:
    """A `.tflite` file that runs: `lite(x)` is its outputs for one batch of the size it was made for, in floats.

    Where the file takes or gives bytes, as an integer network's does, floats are turned into them and back.
    Raises `ModelError` where LiteRT is missing, for a file it cannot load, and for an input the file does not take.
    """

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        self.path, self.threads = Path(path), threads
        if not self.path.is_file():
            raise ModelError(f"{path}: there is no such file")
        interpreter = runtime(str(path))
        try:
            with unheard():
                self._interpreter = interpreter(model_path=str(path), num_threads=threads)
                self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"{path}: LiteRT cannot load it: {first_line(error)}") from error
        self._outputs = self._interpreter.get_output_details()
        self._input = self._only_input()

    def __call__(self, x: Tensor) -> list[Tensor]:
        return [_values(each, about) for each, about in zip(self.ready(x)(), self._outputs, strict=True)]

    def ready(self, x: Tensor) -> Callable[[], list[Any]]:
        """One inference on an input, as often as it is called: from what the file itself takes, to what it gives."""
        if tuple(x.shape) != self.shape:
            taken = ", ".join(map(str, self.shape))
            raise ModelError(f"{self.path}: takes ({taken}) and was given {tuple(x.shape)}")
        given, runs, numbers = _given(x, self._input), self._interpreter, [each["index"] for each in self._outputs]

        def run() -> list[Any]:
            runs.set_tensor(self._input["index"], given)  # each time: LiteRT may use its memory for what comes later
            runs.invoke()
            return [runs.get_tensor(number) for number in numbers]

        return run

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the one input it takes, (n, c, h, w)."""
        return tuple(int(n) for n in self._input["shape"])

    @property
    def operations(self) -> list[Operation]:
        """Every operation of the file, whoever runs it."""
        found = self._interpreter._get_ops_details()  # what was handed to XNNPACK is listed too, and once more as `DELEGATE`
        return [_operation(each) for each in found if each["op_name"] != "DELEGATE"]

    def _only_input(self) -> Any:
        found = self._interpreter.get_input_details()
        if len(found) != 1:
            raise ModelError(f"{self.path}: takes `{len(found)}` inputs, and one is given here")
        if found[0]["dtype"] is not np.float32 and not found[0]["quantization"][0]:
            raise ModelError(f"{self.path}: takes `{found[0]['dtype'].__name__}` without a scale, and images are floats here")
        return found[0]


def runtime(what: str) -> Any:
    """LiteRT's interpreter of files. Raises `ModelError` where it is not installed."""
    with quiet(), unheard():
        try:
            from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-not-found]
        except ImportError as error:
            raise ModelError(f"{what}: `{error.name}` is not installed; {INSTALL}") from None
        return Interpreter


def _given(x: Tensor, about: Any) -> Any:
    """An input as the file takes it: floats, or the integers nearest to them."""
    x = x.detach().float()
    if about["dtype"] is np.float32:
        return x.numpy()
    scale, zero = about["quantization"]
    bounds = np.iinfo(about["dtype"])
    return (x / scale).round().add(zero).clamp(bounds.min, bounds.max).numpy().astype(about["dtype"])


def _values(found: Any, about: Any) -> Tensor:
    """An output in floats."""
    scale, zero = about["quantization"]
    return (torch.from_numpy(found).float() - zero) * scale if scale else torch.from_numpy(found)


def _operation(found: Any) -> Operation:
    inputs, outputs = (tuple(int(n) for n in found[side]) for side in ("inputs", "outputs"))
    reads, makes = (tuple(t.__name__ for t in found[side]) for side in ("operand_types", "result_types"))
    return Operation(found["op_name"], inputs, outputs, reads, makes)
