"""PyTorch's own exported program, for `torch.export.load` and what is built on it."""

from __future__ import annotations

import copy
import io
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lilliput.core.perform import bake
from lilliput.errors import ExportError
from lilliput.export.targets import Exported, distance, replacing, targets


@targets.register(".pt2")
def write(model: nn.Module, example: Tensor, path: Path) -> Exported:
    """The baked network for any batch size; quantizers of activations stay what they compute, in floats."""
    baked = bake(copy.deepcopy(model).cpu().eval()).eval()
    example = example.cpu()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.no_grad(), replacing(path) as sibling:
            held = io.BytesIO()
            torch.export.save(_program(baked, example), held)
            sibling.write_bytes(held.getbuffer())
            read = torch.export.load(sibling).module()
            error = distance(tree_leaves(baked(example)), tree_leaves(read(example)))
            if not error <= 1e-4:
                raise ExportError(f"read back, outputs differ by `{error:.3g}` of the largest, and `0.0001` is allowed")
            size = sibling.stat().st_size
    return Exported(path, size, error)


def _program(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1, max=2**16)
    try:
        return torch.export.export(model, (torch.cat([example, example])[:2],), dynamic_shapes=({0: batch},))
    except Exception as error:  # torch.export's errors share no base
        line = (str(error).strip().splitlines() or [""])[0]
        raise ExportError(f"torch.export cannot hold this network: {type(error).__name__}: {line}") from error
