"""Export: a target a suffix. Every target writes a file, reads it back, runs it, and compares it with the network."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lilliput.errors import ExportError
from lilliput.registry import Registry


@dataclass(frozen=True)
class Exported:
    """A file that was written, read back and compared.

    `max_error`: the largest difference from PyTorch, as a share of the largest output. `integer_nodes`: the operations the
    runtime fused into integer kernels, by kind. `float_nodes`: in a quantized network, what it computes in floats all the
    same, and why. `saturating`: layers in which kernels for x86 without VNNI can overflow (quant/scales).
    """

    path: Path
    bytes: int
    max_error: float
    integer_nodes: dict[str, int] = field(default_factory=dict)
    float_nodes: dict[str, str] = field(default_factory=dict)
    saturating: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"file": str(self.path), "bytes": self.bytes, "max_error": self.max_error, "integer_nodes": self.integer_nodes,
                "float_nodes": self.float_nodes, "saturating": list(self.saturating)}  # fmt: skip

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.bytes:,} bytes, within {self.max_error:.2g} of PyTorch when read back"]
        if self.integer_nodes:
            lines.append(f"integer: {', '.join(f'{n} {kind}' for kind, n in sorted(self.integer_nodes.items()))}")
        lines += [f"in floats: {name}: {why}" for name, why in self.float_nodes.items()]
        if self.saturating:
            lines.append(f"can saturate on x86 without VNNI: {', '.join(self.saturating)}")
        return "\n".join(lines)


Target = Callable[[nn.Module, Tensor, Path], Exported]
targets: Registry[Target] = Registry("export target")


def export(model: nn.Module, example: Tensor, path: str | Path) -> Exported:
    """Write a network for a runtime, chosen by the suffix: `.onnx`, `.pt2` (torch.export) or `.safetensors` (weights alone).

    `example`: one input batch, (n, c, h, w); the file takes any n. What was there before is replaced only when the new file
    is whole and has been compared.
    Raises `ExportError` where the target cannot hold the network or computes something else, and `UnknownName` for a suffix
    nothing is registered under.
    """
    path, target = Path(path), targets[Path(path).suffix]
    if any(p.device.type != "cpu" for p in model.parameters()):
        model = copy.deepcopy(model).cpu()
    return target(model, example.detach().cpu(), path)


def distance(wanted: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """The largest difference over the largest magnitude, of the worst output; infinite where something is not a number."""
    worst = [float((w - f).abs().max()) / max(float(w.abs().max()), 1e-6) for w, f in zip(wanted, found, strict=True)]
    return max(e if e == e else float("inf") for e in worst)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A sibling to write to, renamed to `path` if all goes well and removed if not."""
    sibling = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield sibling
        os.replace(sibling, path)
    except OSError as error:
        raise ExportError(f"{path}: cannot be written: {error.strerror or error}. What was there is untouched.") from None
    finally:
        with suppress(OSError):
            sibling.unlink(missing_ok=True)
