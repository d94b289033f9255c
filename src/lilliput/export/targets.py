"""Export: a target a suffix. Every target writes a file, reads it back, runs it, and compares it with the network."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
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
    same, and why. `saturating`: layers in which kernels for x86 without VNNI can overflow (quant/scales). `packed_nodes`:
    operations of this package's own kernels, by kind, which need its library. `dense_nodes`: layers full of zeros that stay
    dense all the same, and why.
    """

    path: Path
    bytes: int
    max_error: float
    integer_nodes: dict[str, int] = field(default_factory=dict)
    float_nodes: dict[str, str] = field(default_factory=dict)
    saturating: tuple[str, ...] = ()
    packed_nodes: dict[str, int] = field(default_factory=dict)
    dense_nodes: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"file": str(self.path), "bytes": self.bytes, "max_error": self.max_error, "integer_nodes": self.integer_nodes,
                "float_nodes": self.float_nodes, "saturating": list(self.saturating), "packed_nodes": self.packed_nodes,
                "dense_nodes": self.dense_nodes}  # fmt: skip

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.bytes:,} bytes, within {self.max_error:.2g} of PyTorch when read back"]
        if self.integer_nodes:
            lines.append(f"integer: {_counted(self.integer_nodes)}")
        if self.packed_nodes:
            lines.append(f"packed (needs lilliput's library): {_counted(self.packed_nodes)}")
        lines += [f"dense: {name}: {why}" for name, why in self.dense_nodes.items()]
        lines += [f"in floats: {name}: {why}" for name, why in self.float_nodes.items()]
        if self.saturating:
            lines.append(f"can saturate on x86 without VNNI: {', '.join(self.saturating)}")
        return "\n".join(lines)


Target = Callable[[nn.Module, Tensor, Path], Exported]
targets: Registry[Target] = Registry("export target")
# By suffix, what packs a network's layers for the runtime that reads such files; and why layers that look like it stay dense.
Packer = Callable[[nn.Module, Tensor], tuple[nn.Module, dict[str, str]]]
packers: Registry[Packer] = Registry("export target with packed layers")


def export(model: nn.Module, example: Tensor, path: str | Path, *, plain: bool = False) -> Exported:
    """Write a network for a runtime, chosen by the suffix: `.onnx`, `.pt2` (torch.export), `.pte` (ExecuTorch),
    `.tflite` (LiteRT) or `.safetensors` (weights alone).

    `example`: one input batch, (n, c, h, w); the file takes any n, but for a `.pte` and a `.tflite`, which take this one. What
    was there before is replaced only when the new file is whole and has been compared.
    In an `.onnx`, layers whose weights or inputs are signs, and layers full of zeros that are faster so on this machine, become
    operations of domain `lilliput`, which need this package's library (`kernels.register`); with `plain` none do.
    Raises `ExportError` where the target cannot hold the network or computes something else, and `UnknownName` for a suffix
    nothing is registered under.
    """
    path, target = Path(path), targets[Path(path).suffix]
    if any(p.device.type != "cpu" for p in model.parameters()):
        model = copy.deepcopy(model).cpu()
    example = example.detach().cpu()
    if plain or path.suffix not in packers:
        return target(model, example, path)
    packed, stays = packers[path.suffix](model, example)
    return replace(target(packed, example, path), dense_nodes=stays)


def _counted(kinds: dict[str, int]) -> str:
    return ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items()))


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
