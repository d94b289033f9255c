"""What a source yields, and the law by which a validation split is carved from train."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lilliput.data.images import Images
from lilliput.data.seeds import generator
from lilliput.errors import ConfigError, DataError


@dataclass(frozen=True)
class Options:
    """How a source is read: one size (height, width) for all images, and whether unusable images are left out."""

    size: tuple[int, int] | None = None
    skip_bad: bool = False

    def __post_init__(self) -> None:
        if self.size is not None and not all(1 <= side <= 4096 for side in self.size):
            raise ConfigError(f"`size` (={self.size}): both sides must be from 1 to 4096 pixels")


@dataclass(frozen=True)
class Splits:
    """Train, test and perhaps validation images of one data set, with the names of its classes in label order."""

    train: Images
    test: Images
    val: Images | None
    class_names: tuple[str, ...]
    skipped: tuple[str, ...] = ()


def carve(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Places to keep and places to hold out, stratified: of each class the same fraction, at least one image.

    Disjoint, complete and each in ascending order; the same labels, fraction and seed give the same places.
    A class of one image stays whole. Raises `ConfigError` where the fraction is not between 0 and 1.
    """
    if not 0.0 < fraction < 1.0:
        raise ConfigError(f"`val_fraction` (={fraction}) must be between 0 and 1; give `val` to keep all of train")
    random = generator("carve", seed)
    out = torch.zeros(len(labels), dtype=torch.bool)
    for places in labels.argsort(stable=True).split(labels.bincount().tolist()):
        count = min(max(round(fraction * len(places)), 1), len(places) - 1)
        out[places[torch.randperm(len(places), generator=random)[:count]]] = True
    if not out.any():
        raise DataError("train: no class has 2 images, so no validation split can be carved; give `val`")
    return (~out).nonzero()[:, 0], out.nonzero()[:, 0]
