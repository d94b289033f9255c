"""From pixels to what a network sees: (x - mean) / std for each channel, x in [0, 1] for `uint8` pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lilliput.data.images import Array, Images
from lilliput.errors import ConfigError, DataError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Normalization:
    """A mean and a standard deviation for each channel; `scale` is 255 for `uint8` and 1 for floating point."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 255.0

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not all(0 < s < float("inf") for s in self.std):
            raise ConfigError(f"`normalize` (=({self.mean}, {self.std})): give one mean and one positive std a channel")

    def apply(self, images: Tensor, *, channels_last: bool = False) -> Tensor:
        """Images (n, H, W, C) as float32 (n, C, H, W), contiguous, or with channels innermost in memory."""
        count, height, width, channels = images.shape
        gain, offset = self._line(images.device)
        # Multiplied and added in two steps of one rounding each, so that no value depends on how the batch was cut; and
        # over whole lines or planes, because an innermost loop over three channels would be the slow one.
        if channels_last:
            lines = images.reshape(count * height, width * channels).float()
            lines.mul_(gain.repeat(width)).add_(offset.repeat(width))
            return lines.view(images.shape).permute(0, 3, 1, 2)
        planes = images.permute(0, 3, 1, 2).contiguous().view(count * channels, height * width).float()
        planes.mul_(gain.repeat(count)[:, None]).add_(offset.repeat(count)[:, None])
        return planes.view(count, channels, height, width)

    def invert(self, x: Tensor) -> Tensor:
        """Float32 (n, C, H, W) as pixels (n, H, W, C) in the unit they had; round them to get `uint8` back."""
        gain, offset = self._line(x.device)
        return (x.permute(0, 2, 3, 1) - offset) / gain

    def _line(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """(x / scale - mean) / std = x * gain + offset, both computed in double precision."""
        gain = [1 / (self.scale * s) for s in self.std]
        offset = [-m / s for m, s in zip(self.mean, self.std, strict=True)]
        return torch.tensor(gain, device=device), torch.tensor(offset, device=device)


def measure(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all pixels; exact sums where pixels are `uint8`.

    Raises `DataError` for a channel of one value.
    """
    count, first, second = 0, np.zeros(images.shape[0]), np.zeros(images.shape[0])
    scale = 255.0 if images.dtype == np.uint8 else 1.0
    for chunk in images.chunks():
        flat = chunk.reshape(-1, chunk.shape[-1])  # (pixels, C)
        total, squares = _levels(flat) if flat.dtype == np.uint8 else _moments(flat)
        count, first, second = count + len(flat), first + total, second + squares
    mean = first / count
    std = np.sqrt(np.maximum(second / count - mean**2, 0.0))
    for channel in np.flatnonzero(~(std > 1e-6 * np.maximum(np.abs(mean), 1e-6))):
        value = float(mean[channel] / scale)
        raise DataError(f"train: channel {channel} is `{value}` everywhere; give `normalize` as (mean, std)")
    return tuple((mean / scale).tolist()), tuple((std / scale).tolist())


def _levels(flat: Array) -> tuple[Array, Array]:
    """Sums and sums of squares of bytes, by counting: exact whatever the order."""
    levels = np.arange(256)
    counts = np.stack([np.bincount(channel, minlength=256) for channel in flat.T])  # (C, 256)
    return (counts @ levels).astype(np.float64), (counts @ levels**2).astype(np.float64)


def _moments(flat: Array) -> tuple[Array, Array]:
    wide = flat.astype(np.float64)
    return wide.sum(0), (wide**2).sum(0)
