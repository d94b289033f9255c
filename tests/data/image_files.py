"""Small files of every format that data come in."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
from PIL import Image

from lilliput.data import cifar

Files: TypeAlias = dict[str, bytes]
Plant: TypeAlias = Callable[[Files], Path]
ROWS = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)


def picture(seed: int, size: tuple[int, int] = (6, 8), mode: str = "RGB", kind: str = "png") -> bytes:
    """An image file of random pixels; size is (height, width)."""
    channels = {"L": 1, "RGBA": 4}.get(mode, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, channels), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if channels == 1 else pixels).convert(mode).save(file, kind)
    return file.getvalue()


def written(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


class Python2(pickle._Pickler):  # type: ignore[misc, name-defined]
    """Writes protocol 2 with the strings of Python 2 and the names of the old NumPy."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_bytes(self, text: bytes) -> None:
        self.write(b"T" + len(text).to_bytes(4, "little") + text)
        self.memoize(text)

    def save_global(self, value: Any, name: str | None = None) -> None:
        module = "numpy.core.multiarray" if value.__name__ == "_reconstruct" else value.__module__
        self.write(f"c{module}\n{value.__name__}\n".encode())
        self.memoize(value)

    def save_type(self, value: Any) -> None:
        self.save_global(value)

    dispatch[bytes] = save_bytes
    dispatch[type] = save_type


def old(value: Any) -> bytes:
    file = io.BytesIO()
    Python2(file, protocol=2).dump(value)
    return file.getvalue()


def new(value: Any) -> bytes:
    return pickle.dumps(value, protocol=4)


def batches(dump: Any) -> dict[str, bytes]:
    names = [*cifar.BATCHES["train"], *cifar.BATCHES["test"]]
    held = {name: dump({b"data": ROWS, b"labels": [i % 2, 1, 0, 1]}) for i, name in enumerate(names)}
    return {**held, cifar.META: dump({b"label_names": [b"frog", b"ship"]})}


def lay(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def pack(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path
