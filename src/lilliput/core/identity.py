"""What makes two networks the same to whoever stores results of them: weights, structure, and the code that runs them."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from lilliput.core.record import Record, record

OURS = ("torch", "lilliput")  # whose code goes with their versions


def identity(model: nn.Module) -> str:
    """Text that differs for networks that differ in weights, architecture, edits, layers, their options, or source code.

    Options are plain values and tensors that modules hold, whatever their classes print of them.

    Of the source, the files that define the classes of layers, and that of a `file.py:function`; not what those import.
    """
    was = record(model)
    structure = json.dumps(Record(was.architecture, was.edits).to_json(), sort_keys=True)
    layers = re.sub(r" at 0x[0-9a-f]+", "", repr((model, [_options(module) for module in model.modules()])))
    code = hashlib.sha256(layers.encode() + b"".join(path.read_bytes() for path in _sources(model))).hexdigest()
    return f"model={_weights(model)}, structure={structure}, code={code}"


def _options(module: nn.Module) -> list[tuple[str, Any]]:
    """What a module holds beside its state dict: numbers, texts, tensors; and the code of one that was traced."""
    held = {**vars(module), **{name: module._buffers[name] for name in module._non_persistent_buffers_set}}
    found = [(name, _plain(value)) for name, value in sorted(held.items()) if name[0] != "_" and name != "training"]
    code = [("code", module.code)] if isinstance(module, fx.GraphModule) else []
    return [*((name, value) for name, value in found if value is not None), *code]


def _plain(value: Any) -> Any:
    """A value that prints alike wherever it is alike; nothing for any other."""
    if isinstance(value, torch.Tensor):
        return (tuple(value.shape), hashlib.sha256(_bytes(value)).hexdigest())
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value if isinstance(value, bool | int | float | str) else None


def _bytes(tensor: torch.Tensor) -> bytes:
    if not tensor.numel() or tensor.is_meta:
        return b""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


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
        content.update(_bytes(tensor))
    return content.hexdigest()


def _sources(model: nn.Module) -> list[Path]:
    """The files that say how this network runs, in order of their names."""
    found = {Path((record(model).architecture or "").partition(":")[0])}
    for layer in {type(module) for module in model.modules()}:
        if layer.__module__.partition(".")[0] not in OURS:
            with suppress(TypeError, OSError):  # built in, or made without a file
                found.add(Path(inspect.getsourcefile(layer) or ""))
    return sorted(path for path in found if path.suffix == ".py" and path.is_file())
