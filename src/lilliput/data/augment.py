"""Random crops and flips of whole batches by index arithmetic, before pixels become floating point.

An augmentation is a value. It takes images and one row of uniform numbers an image, so that what happens to an image
depends on its row alone: not on the batch it is in, the number of processes, or any global generator.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lilliput.config import Config, config
from lilliput.errors import ConfigError


@config("augment.crop_flip")
class CropFlip(Config):
    """Shift every image by up to `pad` pixels and mirror every second one.

    out(i, j) = in(i + a, j + b) or in(i + a, W - 1 - j + b);   a, b uniform on -pad, ..., pad
    Beyond the border stands black (`fill="zero"`) or the mirrored image (`"reflect"`).
    He et al. 2015, arXiv:1512.03385, section 4.2 (pad 4, zero).
    """

    pad: int = 4
    flip: bool = True
    fill: Literal["zero", "reflect"] = "zero"

    draws: ClassVar[int] = 3

    def check(self) -> None:
        """Raise `ConfigError` for a negative pad or an unknown fill."""
        if self.pad < 0 or self.fill not in ("zero", "reflect"):
            raise ConfigError(f"`{self.text()}`: `pad` must be 0 or more and `fill` zero or reflect")

    def __call__(self, images: Tensor, chance: Tensor) -> Tensor:
        """Augmented copies of images (n, H, W, C), by uniform numbers (n, 3) in [0, 1)."""
        count, height, width, channels = images.shape
        if self.pad >= min(height, width):
            raise ConfigError(f"`pad` (={self.pad}) must be below the image's smaller side (={min(height, width)})")
        shift = (chance[:, :2] * (2 * self.pad + 1)).floor().long() - self.pad  # (n, 2)
        rows = torch.arange(height, device=images.device) + shift[:, :1]  # (n, H)
        columns = torch.arange(width, device=images.device).expand(count, -1)  # (n, W)
        if self.flip:
            columns = torch.where(chance[:, 2:] < 0.5, width - 1 - columns, columns)
        columns = columns + shift[:, 1:]
        if self.fill == "zero":
            images = F.pad(images, (0, 0, self.pad, self.pad, self.pad, self.pad))  # (n, H + 2 pad, W + 2 pad, C)
            rows, columns = rows + self.pad, columns + self.pad
        else:
            rows, columns = _reflect(rows, height), _reflect(columns, width)
        start = torch.arange(count, device=images.device)[:, None] * images.shape[1]
        places = (start + rows)[:, :, None] * images.shape[2] + columns[:, None, :]  # (n, H, W)
        # One gather of whole pixels is faster than advanced indexing by three tensors.
        return images.reshape(-1, channels).index_select(0, places.reshape(-1)).view(count, height, width, channels)


def _reflect(places: Tensor, size: int) -> Tensor:
    """Fold places beyond 0 and size - 1 back; the border pixel is not repeated."""
    return (size - 1) - ((size - 1) - places.abs()).abs()


def default(shape: tuple[int, int, int]) -> CropFlip | None:
    """What images (C, H, W) stand as a rule: colour is shifted by an eighth and mirrored, grey shifted by a fourteenth.

    Grey images are not mirrored because they may be characters. Images of 1 pixel are left alone.

    >>> print(default((3, 32, 32)), default((1, 28, 28)), default((1, 8, 8)))
    augment.crop_flip() augment.crop_flip(flip=false, pad=2) augment.crop_flip(flip=false, pad=1)
    """
    channels, *sides = shape
    if min(sides) < 2:
        return None
    colour = channels > 1
    return CropFlip(pad=max(1, min(sides) // (8 if colour else 14)), flip=colour)
