"""Networks by what a person writes: a name of the zoo or of a library, `file.py:function`, a `.lil`, or a `.pt2` to look at."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from lilliput import zoo
from lilliput.core.record import attach
from lilliput.errors import ModelError, UnknownName, UsageError, at
from lilliput.store import factory, fill, load, load_weights
from lilliput.zoo import libraries

PRETRAINED = "pretrained"


def open_model(text: str, *, weights: str | Path | None = None, trust: bool = False, seed: int = 0) -> nn.Module:
    """The network that `text` names, in eval mode, with `weights` loaded where given; `seed` decides what it starts from.

    `text` is a zoo name, `timm:NAME`, `torchvision:NAME`, `file.py:function`, a `.lil` or a `.pt2`. `weights` is a file, or
    `pretrained` for those that a library publishes. Without them names give fresh weights (`is_fresh`).
    Naming `file.py:function` is what trusts it. A `.lil` that says such a thing of itself is refused unless `trust`.
    Raises `UnknownName` with the nearest zoo names, or `ModelError`, for what cannot be opened.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _open(text, trust)
    if str(weights) == PRETRAINED:
        _publish(model, text)
    elif weights is not None:
        load_weights(model, weights)
    return model.eval()


def _publish(model: nn.Module, text: str) -> None:
    """Give a library's network the weights that the library publishes for it; they must fit as they are."""
    if not libraries.is_library(text):
        raise UsageError(f"{text}: only networks of timm and torchvision have published weights; give `--weights FILE`")
    with at(f"{text}, {PRETRAINED}"):
        fill(model, libraries.published(text))


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
    if libraries.is_library(text):
        return libraries.build(text)
    try:
        return zoo.create(text)
    except UnknownName as error:
        raise UsageError(
            f"{error} A model is also `timm:NAME`, `torchvision:NAME`, `file.py:function`, a `.lil` or a `.pt2`."
        ) from None


def _program(path: Path) -> nn.Module:
    try:
        return torch.export.load(path).module()
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelError(f"{path}: not an exported program: {str(error).splitlines()[0]}") from None
