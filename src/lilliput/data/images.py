"""A split in memory or on disk: images of one size and the class of each.

Pixels stand in the order n, height, width, channel (NHWC), because that is how images are decoded and because a crop of
such an array moves whole pixels. They are `uint8` in 0 to 255, or `float32` in whatever unit the user gave.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from lilliput.data.progress import Bar
from lilliput.errors import DataError

Indices: TypeAlias = "Tensor | np.ndarray[Any, Any] | Sequence[int]"
Array: TypeAlias = "np.ndarray[Any, Any]"


class Images:
    """Pixels (n, H, W, C) and labels (n,).

    `content` is the SHA-256 of everything in it where that is known already (a cache entry knows it).
    """

    def __init__(self, pixels: Array, labels: Tensor, *, content: str | None = None) -> None:
        self.labels = labels
        self._stored, self._content = pixels, content
        self._whole: Images | None = None  # of a subset: what it is a part of, and which rows of it
        self._rows: Array | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Images({len(self)} of {' x '.join(map(str, self.shape))}, {self._stored.dtype})"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        height, width, channels = self._stored.shape[1:]
        return (channels, height, width)

    @property
    def dtype(self) -> np.dtype[Any]:
        """`uint8` or `float32`."""
        dtype: np.dtype[Any] = self._stored.dtype
        return dtype

    @property
    def pixels(self) -> Array:
        """All pixels, NHWC: memory-mapped for a whole split, copied into memory for a subset."""
        return self._stored if self._rows is None else np.take(self._stored, self._rows, axis=0)

    def subset(self, indices: Indices) -> Images:
        """The images at these places, in this order, sharing the stored pixels."""
        places = torch.as_tensor(indices, dtype=torch.int64)
        part = Images(self._stored, self.labels[places])
        part._whole = self if self._whole is None else self._whole
        part._rows = self._locate(places)
        return part

    def gather(self, indices: Indices) -> tuple[Tensor, Tensor]:
        """Pixels (b, H, W, C) and labels (b,) at these places, as fresh tensors."""
        places = torch.as_tensor(indices, dtype=torch.int64)
        return torch.from_numpy(np.take(self._stored, self._locate(places), axis=0)), self.labels[places]

    def _locate(self, places: Tensor) -> Array:
        """Rows of the stored pixels."""
        found: Array = places.numpy() if self._rows is None else self._rows[places.numpy()]
        return found

    def chunks(self, size: int = 4096) -> Iterable[Array]:
        """The pixels in order, a few thousand images at a time."""
        for start in range(0, len(self), size):
            yield self.gather(torch.arange(start, min(start + size, len(self))))[0].numpy()

    def content(self) -> str:
        """The SHA-256 of pixels, labels, type and shape; of a subset, that of the whole and its rows. Computed once."""
        if self._content is None and self._whole is not None and self._rows is not None:
            parts = self._whole.content().encode() + self._rows.astype("<i8").tobytes()
            self._content = hashlib.sha256(parts).hexdigest()
        if self._content is None:
            digest = hashlib.sha256()
            for chunk in self.chunks():
                digest.update(chunk.data)
            self._content = seal(digest, self.labels.numpy(), str(self.dtype), self.shape)
        return self._content

    def __getstate__(self) -> dict[str, Any]:
        """A memory-mapped split travels to another process as the name of its file, not as its pixels."""
        state, pixels = dict(self.__dict__), self._stored
        if isinstance(pixels, np.memmap) and pixels.filename is not None:
            state["_stored"] = (str(pixels.filename), str(pixels.dtype), pixels.shape)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(self._stored, tuple):
            path, dtype, shape = self._stored
            self._stored = np.memmap(path, dtype=dtype, mode="r", shape=shape)


def seal(pixels: Any, labels: Array, dtype: str, shape: tuple[int, int, int]) -> str:
    """Finish a digest that has seen all pixels: labels, type and shape follow them."""
    pixels.update(np.ascontiguousarray(labels, dtype="<i8"))
    pixels.update(f"{dtype} {len(labels)} {shape}".encode())
    return str(pixels.hexdigest())


def images_of(data: Any, split: str) -> Images:
    """Images from what a user has: `Images`, a pair (x, y), or a map-style data set of pairs, read once into memory.

    x is `uint8` (n, H, W, C) or (n, H, W), or floating point (n, C, H, W) or (n, H, W); y holds whole numbers from 0.
    Raises `DataError` for anything else, for an empty split, and for values that are not finite.
    """
    if isinstance(data, Images):
        found = data
    elif isinstance(data, tuple | list) and len(data) == 2:
        found = Images(_pixels(data[0], split), _labels(data[1], split))
    elif isinstance(data, torch.utils.data.Dataset):
        found = _read(data, split)
    else:
        kind = type(data).__name__
        raise DataError(f"{split}: a `{kind}` is no split; give Images, a pair (x, y), or a map-style torch Dataset")
    if len(found.labels) != len(found._stored) and found._rows is None:
        raise DataError(f"{split}: `{len(found._stored)}` images stand beside `{len(found.labels)}` labels")
    if len(found) == 0:
        raise DataError(f"{split}: no images")
    return found


def _pixels(x: Any, split: str) -> Array:
    """NHWC pixels of an array or tensor."""
    array: Array = x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
    if array.ndim not in (3, 4):
        raise DataError(f"{split}: images of shape `{array.shape}`; uint8 is (n, H, W[, C]), float is (n, C, H, W)")
    if array.dtype == np.uint8:
        return _of_bytes(array, split)
    if array.dtype.kind != "f":
        raise DataError(f"{split}: pixels of type `{array.dtype}`; give uint8 in 0 to 255 or floating point")
    if not np.isfinite(array).all():
        raise DataError(f"{split}: pixels hold `{array[~np.isfinite(array)].flat[0]}`; every value must be finite")
    array = array[:, None] if array.ndim == 3 else array
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1), dtype=np.float32)


def _of_bytes(array: Array, split: str) -> Array:
    array = array[..., None] if array.ndim == 3 else array
    if array.shape[3] > 4 and array.shape[1] <= 4:
        raise DataError(f"{split}: uint8 images of shape `{array.shape}` look like (n, C, H, W); give (n, H, W, C)")
    return array


def _labels(y: Any, split: str) -> Tensor:
    labels = torch.as_tensor(y.detach().cpu() if isinstance(y, Tensor) else np.asarray(y))
    if labels.numel() == 0:
        raise DataError(f"{split}: no images")
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        shape = tuple(labels.shape)
        raise DataError(f"{split}: labels of shape `{shape}` and type `{labels.dtype}`; give one whole number an image")
    labels = labels.to(torch.int64)
    if int(labels.min()) < 0:
        raise DataError(f"{split}: a label of `{int(labels.min())}`; classes count from 0")
    return labels


def _read(data: Any, split: str) -> Images:
    """Every item of a map-style data set; a random transform inside it is thereby frozen at its first draw."""
    count = len(data)
    if count == 0:
        raise DataError(f"{split}: no images")
    pixels, labels = [], []
    with Bar(f"reading {split}", count) as bar:
        for i in range(count):
            x, y = data[i]
            pixels.append(x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x))
            labels.append(int(y))
            bar.update(1)
    shapes = {p.shape for p in pixels}
    if len(shapes) > 1:
        raise DataError(f"{split}: images of shape `{min(shapes)}` and `{max(shapes)}`; bring them to one size")
    return Images(_pixels(np.stack(pixels), split), _labels(labels, split))
