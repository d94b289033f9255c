"""ExecuTorch, for phones: a network in floats, in XNNPACK's kernels, read back and run."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lilliput.core.layers import Mapped, OutputMaps
from lilliput.core.method import Look
from lilliput.core.perform import bake
from lilliput.errors import ExportError
from lilliput.export.targets import Exported, distance, replacing, targets
from lilliput.quant.fold import Fold


@targets.register(".pte")
def write(model: nn.Module, example: Tensor, path: Path) -> Exported:
    """For inputs of the example's size, one tensor out. Weight maps are computed in and norms folded before.

    XNNPACK runs what it can, ExecuTorch's own kernels the rest. Raises `ExportError` where ExecuTorch is missing, and for a
    network whose activations pass through maps: quantizers and signs would run as chains of floats.
    """
    if (site := _mapped(model)) is not None:
        raise ExportError(
            f"{path}: activations of `{site}` pass through a quantizer or sign, and ExecuTorch files are written in floats. "
            "Export the network as it was before that step, or write an `.onnx`."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ExecuTorch warns about itself
        lower, runtime = _executorch(path)
        floats = Fold()(bake(copy.deepcopy(model).cpu().eval()), Look(example)).eval()
        with torch.no_grad(), replacing(path) as sibling:
            wanted = floats(example)
            sibling.write_bytes(lower(floats, example))
            found = runtime.get().load_program(str(sibling)).load_method("forward").execute([example])
            error = distance([wanted], found)
            if not error <= 1e-4:
                raise ExportError(f"read back, outputs differ by `{error:.3g}` of the largest, and `0.0001` is allowed")
            size = sibling.stat().st_size
    return Exported(path, size, error)


def _mapped(model: nn.Module) -> str | None:
    """The first module whose inputs or outputs pass through maps."""
    for name, module in model.named_modules():
        if (isinstance(module, Mapped) and len(module.input_maps)) or (isinstance(module, OutputMaps) and len(module)):
            return name
    return None


def _executorch(path: Path) -> tuple[Any, Any]:
    """What lowers a network to the bytes of a file, and the runtime that reads one."""
    try:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import (  # type: ignore[import-not-found]
            XnnpackPartitioner,
        )
        from executorch.exir import to_edge_transform_and_lower  # type: ignore[import-not-found]
        from executorch.runtime import Runtime  # type: ignore[import-not-found]
    except ImportError as error:
        raise ExportError(f"{path}: `{error.name}` is not installed; `pip install executorch` brings it") from None

    def lower(model: nn.Module, example: Tensor) -> bytes:
        try:
            program = torch.export.export(model, (example,))
            made = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
        except Exception as error:  # neither exporter's errors share a base
            line = (str(error).strip().splitlines() or [""])[0]
            raise ExportError(f"ExecuTorch cannot hold this network: {type(error).__name__}: {line}") from error
        return bytes(made.buffer)

    return lower, Runtime
