"""IDX files, the format of MNIST and its successors.

    byte 0-1   zero
    byte 2     element type; 0x08 is uint8, the only one read here
    byte 3     number of dimensions d
    then       d sizes, 4 bytes each, big-endian
    then       the elements, last dimension fastest; the file ends with them

A data set is a folder with `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the same two of `t10k`, each plain
or with `.gz`; the path of the first of these files stands for its folder. Images are (n, height, width), grey;
labels are (n).
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from lilliput.data.cache import Writer, cached, stamp
from lilliput.data.decode import fit
from lilliput.data.images import Array
from lilliput.data.splits import Options, Splits
from lilliput.errors import DataError

SPLITS = {"train": "train", "test": "t10k"}
LARGEST = 1 << 33  # bytes a file may declare


def accepts(path: Path) -> bool:
    """Whether a folder holds the four files, or a path is the first of them."""
    return all(_find(_home(path), name) is not None for name in _names())


def read(path: Path, options: Options) -> Splits:
    """The splits of a folder of IDX files, classes called by their numbers. Raises `DataError` for damaged files."""
    path = _home(path)
    files = [file for name in _names() if (file := _find(path, name)) is not None]
    identity = {"source": "idx", "state": stamp(files), "size": options.size}
    return cached(identity, lambda writer: _build(path, options, writer))


def read_idx(path: Path, dimensions: int) -> Array:
    """The array of one IDX file, plain or gzip. Raises `DataError` where the file is not just what its header says."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
            head = file.read(4 + 4 * dimensions)
            if len(head) < 4 + 4 * dimensions or head[:4] != bytes((0, 0, 8, dimensions)):
                wanted = bytes((0, 0, 8, dimensions)).hex()
                raise DataError(f"{path.name}: begins with `{head[:4].hex()}`, not with `{wanted}`; no IDX file of this kind")
            shape = tuple(int(n) for n in np.frombuffer(head, dtype=">u4", offset=4))
            count = math.prod(shape)
            if count > LARGEST:
                raise DataError(f"{path.name}: declares `{count}` bytes; the limit is `{LARGEST}`")
            data = _exactly(file.read(count + 1), count, path.name)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path.name}: cannot be read ({error}); get it again") from error
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def _exactly(data: bytes, count: int, name: str) -> bytes:
    if len(data) != count:
        held = f"{len(data)}" if len(data) < count else f"more than {count}"
        raise DataError(f"{name}: declares `{count}` bytes and holds `{held}`; get it again")
    return data


def _home(path: Path) -> Path:
    return path.parent if path.is_file() and path.name.startswith("train-images-idx3-ubyte") else path


def _names() -> list[str]:
    return [f"{p}-{kind}" for p in SPLITS.values() for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]


def _find(folder: Path, name: str) -> Path | None:
    return next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)


def _build(folder: Path, options: Options, writer: Writer) -> None:
    largest = 0
    for split, prefix in SPLITS.items():
        images, labels = _find(folder, f"{prefix}-images-idx3-ubyte"), _find(folder, f"{prefix}-labels-idx1-ubyte")
        if images is None or labels is None:
            raise DataError(f"{folder}: the files of `{prefix}` have vanished; get them again")
        pixels, classes = read_idx(images, 3), read_idx(labels, 1)
        if len(pixels) != len(classes) or pixels.size == 0:
            raise DataError(f"{folder}: `{len(pixels)}` images, `{len(classes)}` labels in `{prefix}`; get them again")
        writer.add(split, fit(pixels[..., None], options.size), classes)
        largest = max(largest, int(classes.max()))
    writer.class_names = tuple(str(label) for label in range(largest + 1))
