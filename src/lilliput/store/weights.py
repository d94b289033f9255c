"""Weights from elsewhere into a network: safetensors, or a state-dict checkpoint read without running any code."""

from __future__ import annotations

import difflib
import os
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lilliput.errors import ModelError, at
from lilliput.store.disk import read_whole

CHECKPOINTS = (".pt", ".pth", ".th", ".ckpt", ".bin", ".tar")
NESTS = ("state_dict", "model", "model_state_dict", "net")
WRAPPERS = ("module.", "_orig_mod.", "model.")


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Copy the tensors of a file into a model, in place, and return it.

    Reads `.safetensors`, and checkpoints (`.pt`, `.pth`) with `weights_only=True`; a state dict may lie under
    `state_dict` or `model`, and its names may begin with `module.` as those of parallel training do. A missing
    `num_batches_tracked` is no fault. Raises `ModelError` for the first tensor that does not fit, before copying any.
    """
    with at(str(path)):
        return fill(model, _read(Path(path)))


def fill(model: nn.Module, tensors: Mapping[str, Any]) -> nn.Module:
    """Copy tensors by name into a model, in place, as `load_weights` does, and return it."""
    found = _unwrapped(tensors, model)
    own = model.state_dict(keep_vars=True)
    _check(own, found)
    with torch.no_grad():
        model.load_state_dict({**own, **found})
    return model


def _read(path: Path) -> Mapping[str, Any]:
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if path.suffix in CHECKPOINTS:
        return _checkpoint(path)
    raise ModelError(f"`{path.suffix}` is not a kind of weights; there are .safetensors and {', '.join(CHECKPOINTS)}")


def _safetensors(path: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(read_whole(path))
    except SafetensorError as error:
        raise ModelError(f"not a safetensors file: {error}") from None


def _checkpoint(path: Path) -> Mapping[str, Any]:
    import io

    data = io.BytesIO(read_whole(path))
    try:
        content = torch.load(data, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ModelError(
            "this checkpoint needs pickle code to load, which can do anything to your machine. "
            "Where it was made, save `model.state_dict()` alone, best as safetensors"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, ImportError) as error:
        first = str(error).split("\n")[0]
        raise ModelError(f"not a checkpoint that PyTorch reads: {first}") from None
    for nest in NESTS:
        if isinstance(content, Mapping) and isinstance(content.get(nest), Mapping):
            content = content[nest]
    if not isinstance(content, Mapping) or not content:
        raise ModelError(f"there is a {type(content).__name__} in it, not a state dict")
    return content


def _unwrapped(found: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """The tensors without what a wrapper put in front of all their names."""
    own = model.state_dict(keep_vars=True)
    for name, value in found.items():
        if not isinstance(value, Tensor):
            raise ModelError(f"`{name}` in it is a {type(value).__name__}, not a tensor")
    for prefix in WRAPPERS:
        if found and all(name.startswith(prefix) for name in found) and not all(name in own for name in found):
            found = {name.removeprefix(prefix): value for name, value in found.items()}
    return dict(found)


def _check(own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Every tensor of the model has one of its shape, and none is left over."""
    for name, tensor in own.items():
        if name in found and found[name].shape != tensor.shape:
            raise ModelError(f"{name} is {list(found[name].shape)} in the file and {list(tensor.shape)} in the model")
    missing = [name for name in own if name not in found and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in found if name not in own]
    if missing:
        raise ModelError(f"{missing[0]}, and {len(missing) - 1} more of the model's, are not in it.{_near(missing[0], found)}")
    if unexpected:
        raise ModelError(f"the model has no {unexpected[0]}, nor {len(unexpected) - 1} more in it.{_near(unexpected[0], own)}")


def _near(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)
    return f" Nearest there: {', '.join(near)}." if near else ""
