"""Networks by what a person writes: a zoo name, `file.py:function`, a `.lil`, or (to look at, not to change) a `.pt2`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from lilliput import zoo
from lilliput.core.record import attach
from lilliput.errors import ModelError, UnknownName, UsageError
from lilliput.store import factory, load, load_weights


def open_model(text: str, *, weights: str | Path | None = None, trust: bool = False, seed: int = 0) -> nn.Module:
    """The network that `text` names, in eval mode, with `weights` loaded where given; `seed` decides what it starts from.

    Naming `file.py:function` is what trusts it. A `.lil` that says such a thing of itself is refused unless `trust`.
    Raises `UnknownName` with the nearest zoo names, or `ModelError`, for what cannot be opened.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _open(text, trust)
    if weights is not None:
        load_weights(model, weights)
    return model.eval()


def is_fresh(text: str) -> bool:
    """Whether what `text` names has no trained weights of its own."""
    return Path(text.partition(":")[0]).suffix not in (".lil", ".pt2")


def _open(text: str, trust: bool) -> nn.Module:
    path = Path(text.partition(":")[0])
    if path.suffix in (".lil", ".pt2"):
        if not path.exists():
            raise ModelError(f"{text}: there is no such file")
        return load(path, trust=trust) if path.suffix == ".lil" else _program(path)
    if path.suffix == ".py":
        return attach(factory(text, trust=True)(), architecture=text)
    try:
        return zoo.create(text)
    except UnknownName as error:
        raise UsageError(f"{error} A model is also `file.py:function`, a `.lil` or a `.pt2`.") from None


def _program(path: Path) -> nn.Module:
    try:
        return torch.export.load(path).module()
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelError(f"{path}: not an exported program: {str(error).splitlines()[0]}") from None
