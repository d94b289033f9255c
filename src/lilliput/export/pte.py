"""ExecuTorch, for phones: not there yet, and it says so."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from lilliput.errors import ExportError
from lilliput.export.targets import Exported, targets


@targets.register(".pte")
def write(model: nn.Module, example: Tensor, path: Path) -> Exported:
    """Raises `ExportError`."""
    raise ExportError(f"{path}: ExecuTorch files cannot be written yet; `.onnx` and `.pt2` can")
