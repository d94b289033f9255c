"""Image files to arrays: one mode, one size, within limits.

Grey images (modes L and 1) become one channel, colour images (RGB, and palettes) three. Alpha, CMYK and 16-bit images
are refused rather than flattened, because what they mean on a background is not ours to decide. EXIF orientation is
not applied. An image is brought to a size by scaling its shorter side (bilinear, antialiased) and cutting the centre.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from lilliput.data.images import Array

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".webp", ".tif", ".tiff"})
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "WEBP", "TIFF")
LARGEST_FILE = 1 << 26  # bytes
LARGEST_IMAGE = 1 << 26  # pixels: 8192 x 8192
_CHANNELS = {"L": "L", "1": "L", "RGB": "RGB", "P": "RGB"}


class Unusable(Exception):
    """An image that cannot be used, with the reason; counted and reported by whoever reads many."""


def decode(data: bytes, size: tuple[int, int] | None) -> Array:
    """The pixels (H, W, C) of an image file, `uint8`. Raises `Unusable`, whatever the bytes are."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > LARGEST_IMAGE:
                raise Unusable(f"{image.width} x {image.height} pixels exceed the limit of {LARGEST_IMAGE}")
            if image.mode not in _CHANNELS:
                raise Unusable(f"mode {image.mode}; usable are L (grey) and RGB, 8 bits a channel")
            pixels = _pixels(image.convert(_CHANNELS[image.mode]), size)
    except Unusable:
        raise
    except Exception as error:  # decoders of hostile bytes raise nearly everything
        raise Unusable(str(error).split("\n")[0] or type(error).__name__) from error
    return pixels


def fit(pixels: Array, size: tuple[int, int] | None) -> Array:
    """Images (n, H, W, C) brought to a size as `decode` does it; C is 1 or 3."""
    from PIL import Image

    if size is None or pixels.shape[1:3] == size:
        return pixels
    images = (Image.fromarray(p[:, :, 0] if p.shape[2] == 1 else p) for p in pixels)
    return np.stack([_pixels(image, size) for image in images])


def _pixels(image: Any, size: tuple[int, int] | None) -> Array:
    if size is not None and (image.height, image.width) != size:
        image = _cut(image, size)
    array = np.asarray(image)
    return array[:, :, None] if array.ndim == 2 else array


def _cut(image: Any, size: tuple[int, int]) -> Any:
    """Scale and cut in one resampling: the largest centred box of the wanted proportions, at the wanted size."""
    from PIL import Image

    height, width = size
    scale = min(image.width / width, image.height / height)
    left, top = (image.width - scale * width) / 2, (image.height - scale * height) / 2
    box = (left, top, left + scale * width, top + scale * height)
    return image.resize((width, height), Image.Resampling.BILINEAR, box=box)
