"""Any number of images for a file that takes a fixed number at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor


class Fixed(Protocol):
    """A file that runs: outputs of one batch of the shape it takes, (n, c, h, w)."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __call__(self, x: Tensor) -> list[Tensor]: ...


def in_batches(file: Fixed) -> Callable[[Tensor], Tensor]:
    """A function from any number of images to the file's first output; the last batch is filled up with the first image."""
    size = file.shape[0]

    def predict(x: Tensor) -> Tensor:
        short = -len(x) % size
        padded = torch.cat([x, x[:1].expand(short, *x.shape[1:])]) if short else x
        return torch.cat([file(part.contiguous())[0] for part in padded.split(size)])[: len(x)]

    return predict
