"""One pass over a split in batches, assembled ahead of time in a thread.

Which images make a batch, and what augmentation does to each, follows from the seed, the epoch and the place in the
epoch's order. So a pass that is begun again repeats itself bit for bit, and the shares of several processes, put one
behind the other, are the batch that a single process would have had.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lilliput.data.augment import CropFlip
from lilliput.data.images import Images
from lilliput.data.normalize import Normalization
from lilliput.data.prefetch import ahead
from lilliput.data.seeds import generator
from lilliput.errors import ConfigError


@dataclass(frozen=True)
class Layout:
    """How a pass is cut: the batch of all processes together, this process's rank, and where and how tensors lie."""

    batch_size: int
    rank: int = 0
    world: int = 1
    drop_last: bool = False
    channels_last: bool = False
    device: torch.device | str = "cpu"
    depth: int = 2

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"`batch_size` (={self.batch_size}): it must be 1 or more")
        if not 0 <= self.rank < self.world:
            raise ConfigError(f"`rank` (={self.rank}) must be from 0 to `world` (={self.world}) - 1")
        if self.world > 1 and self.batch_size % self.world:
            raise ConfigError(f"`batch_size` (={self.batch_size}) must be a multiple of the processes (={self.world})")

    def share(self, first: int, last: int) -> tuple[int, int]:
        """This process's part of the places first to last - 1: parts differ by one place at most."""
        count = last - first
        return first + count * self.rank // self.world, first + count * (self.rank + 1) // self.world


@dataclass(frozen=True, eq=False)
class Batches:
    """Batches (x, y): x float32 (b, C, H, W), normalised; y int64 (b).

    `order` holds places in `images`; `chance`, where images are augmented, one row of uniform numbers for each place of
    the order. The last batch may be smaller; a process whose part of it is empty has one batch fewer, which `drop_last`
    avoids.
    """

    images: Images
    normalization: Normalization
    order: Tensor
    layout: Layout
    augmentation: CropFlip | None = None
    chance: Tensor | None = None

    def __len__(self) -> int:
        whole, rest = divmod(len(self.order), self.layout.batch_size)
        first, last = self.layout.share(0, rest)
        return whole + int(not self.layout.drop_last and last > first)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return ahead(self.batch, len(self), depth=self.layout.depth)

    def batch(self, number: int) -> tuple[Tensor, Tensor]:
        """Batch number `number` of this process."""
        layout = self.layout
        start = number * layout.batch_size
        first, last = layout.share(start, min(start + layout.batch_size, len(self.order)))
        pixels, labels = self.images.gather(self.order[first:last])
        pixels, labels = pixels.to(layout.device), labels.to(layout.device)
        if self.augmentation is not None and self.chance is not None:
            pixels = self.augmentation(pixels, self.chance[first:last].to(layout.device))
        return self.normalization.apply(pixels, channels_last=layout.channels_last), labels


def order(count: int, seed: int | None, epoch: int) -> Tensor:
    """The places of an epoch: 0 to count - 1, shuffled where there is a seed."""
    return torch.arange(count) if seed is None else torch.randperm(count, generator=generator("shuffle", seed, epoch))


def chances(count: int, draws: int, seed: int, epoch: int) -> Tensor:
    """Uniform numbers (count, draws) in [0, 1) for the places of an epoch."""
    return torch.rand(count, draws, generator=generator("augment", seed, epoch))
