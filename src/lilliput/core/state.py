"""Exact training state on disk: nested lists and dicts of tensors and plain values, in one safetensors file, no pickle."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lilliput.errors import FormatError, WorkError


def write(path: Path, tree: Any) -> None:
    """Store a tree of dicts (text or whole-number keys), lists, tensors, numbers, texts, booleans and None.

    Written to a temporary sibling and renamed, so that a file of that name is always whole.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    meta = {"tree": json.dumps(_flatten(tree, tensors))}
    sibling = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, sibling, metadata=meta)
        os.replace(sibling, path)
    except (OSError, SafetensorError) as error:  # a full disk is either
        why = getattr(error, "strerror", None) or error
        raise WorkError(f"{path}: cannot be written: {why}. What was there before is untouched.") from None
    finally:
        sibling.unlink(missing_ok=True)


def read(path: Path) -> Any:
    """The tree that `write` stored. Raises `FormatError` if the file is not one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            tree = json.loads(file.metadata()["tree"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise FormatError(f"{path}: not a stored state: {error}") from None
    return _unflatten(tree, tensors)


def write_json(path: Path, value: Any) -> None:
    """Store plain JSON the same careful way."""
    sibling = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sibling.write_text(json.dumps(value, indent=2) + "\n")
        os.replace(sibling, path)
    except OSError as error:
        raise WorkError(f"{path}: cannot be written: {error.strerror or error}. What was there before is untouched.") from None
    finally:
        sibling.unlink(missing_ok=True)


def _flatten(tree: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(tree, Tensor):
        name = f"t{len(tensors)}"
        tensors[name] = tree.detach().cpu().contiguous().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(tree, dict):
        return {"dict": [[key, _flatten(value, tensors)] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        return {"list": [_flatten(value, tensors) for value in tree]}
    return {"value": tree}


def _unflatten(tree: Any, tensors: dict[str, Tensor]) -> Any:
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _unflatten(value, tensors) for key, value in content}
    if kind == "list":
        return [_unflatten(value, tensors) for value in content]
    return content
