"""Weights alone, as other tools read them: a baked state dict, nothing pickled."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from lilliput.core.perform import bake
from lilliput.core.record import record
from lilliput.errors import ExportError
from lilliput.export.targets import Exported, replacing, targets


@targets.register(".safetensors")
def write(model: nn.Module, example: Tensor, path: Path) -> Exported:
    """The state dict with weight maps computed in. The architecture's name, where it has one, is in the metadata."""
    from safetensors.torch import load_file, save

    state = {k: v.detach().cpu().contiguous().clone() for k, v in bake(model).state_dict().items()}
    meta = {"format": "pt", "architecture": record(model).architecture or ""}
    with replacing(path) as sibling:
        sibling.write_bytes(save(state, metadata=meta))
        read = load_file(sibling)
        for name, tensor in state.items():
            if not torch.equal(read[name], tensor):
                raise ExportError(f"read back, `{name}` holds something else")
        size = sibling.stat().st_size
    return Exported(path, size, 0.0)
