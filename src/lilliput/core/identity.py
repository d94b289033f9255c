"""What makes two networks the same to whoever stores results of them: weights, structure, and the code that runs them."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from lilliput.core.record import Record, record

OURS = ("torch", "lilliput")  # whose code goes with their versions


def identity(model: nn.Module) -> str:
    """Text that differs for networks that differ in weights, architecture, edits, layers, their options, or source files.

    Of the source, the files that define the classes of layers, and that of a `file.py:function`; not what those import.
    """
    was = record(model)
    structure = json.dumps(Record(was.architecture, was.edits).to_json(), sort_keys=True)
    layers = re.sub(r" at 0x[0-9a-f]+", "", repr(model))
    code = hashlib.sha256(layers.encode() + b"".join(path.read_bytes() for path in _sources(model))).hexdigest()
    return f"model={_weights(model)}, structure={structure}, code={code}"


def file_identity(architecture: str) -> str:
    """Text that differs where the file that an architecture names does: a `.lil`, or `file.py:function`; else nothing."""
    path = Path(architecture.partition(":")[0])
    if path.suffix not in (".lil", ".py") or not path.is_file():
        return ""
    return f" # {path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}"


def _weights(model: nn.Module) -> str:
    content = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        content.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        if tensor.numel():
            content.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return content.hexdigest()


def _sources(model: nn.Module) -> list[Path]:
    """The files that say how this network runs, in order of their names."""
    found = {Path((record(model).architecture or "").partition(":")[0])}
    for layer in {type(module) for module in model.modules()}:
        if layer.__module__.partition(".")[0] not in OURS:
            with suppress(TypeError, OSError):  # built in, or made without a file
                found.add(Path(inspect.getsourcefile(layer) or ""))
    return sorted(path for path in found if path.suffix == ".py" and path.is_file())
