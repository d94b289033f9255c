"""The official python version of CIFAR-10: `cifar-10-python.tar.gz`, or the folder `cifar-10-batches-py` inside it.

`data_batch_1` to `data_batch_5` and `test_batch` are pickles (protocol 2, from Python 2) of a dictionary: `data` is a
uint8 array (10000, 3072), a row being the red, green and blue planes of 32 x 32; `labels` is a list of 10000 numbers
from 0 to 9. `batches.meta` holds `label_names`. A pickle can run any code, so it is read by one that knows only the
three names by which NumPy stores an array, and for each of them it calls code of this file and none of NumPy's.
Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images".
"""

from __future__ import annotations

import io
import pickle
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from lilliput.data.cache import Writer, cached, stamp
from lilliput.data.decode import fit
from lilliput.data.images import Array
from lilliput.data.splits import Options, Splits
from lilliput.errors import DataError, at

BATCHES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
META = "batches.meta"
_FILES = (*BATCHES["train"], *BATCHES["test"], META)
_LARGEST_FILE = 1 << 26
_LARGEST_TOTAL = 1 << 29


def accepts(path: Path) -> bool:
    """Whether a path is such an archive, or a folder with its batches."""
    return path.name.endswith((".tar.gz", ".tgz")) if path.is_file() else (path / "data_batch_1").is_file()


def read(path: Path, options: Options) -> Splits:
    """The splits of the archive or folder. Raises `DataError` for missing or damaged batches and foreign pickles."""
    files = [path] if path.is_file() else [path / name for name in _FILES if (path / name).is_file()]
    identity = {"source": "cifar", "state": stamp(files), "size": options.size}
    with at(path.name):
        return cached(identity, lambda writer: _build(path, options, writer))


def _build(path: Path, options: Options, writer: Writer) -> None:
    files = _unpack(path) if path.is_file() else _collect(path)
    missing = [name for name in _FILES if name not in files]
    if missing:
        raise DataError(f"`{missing[0]}` is missing; get cifar-10-python.tar.gz again")
    names = _load(files, META).get("label_names")
    if not isinstance(names, list) or not all(isinstance(n, bytes | str) for n in names):
        raise DataError(f"{META}: no list `label_names`")
    writer.class_names = tuple(n.decode("utf-8", "replace") if isinstance(n, bytes) else n for n in names)
    for split, batches in BATCHES.items():
        for batch in batches:
            pixels, labels = _batch(_load(files, batch), batch, len(names))
            writer.add(split, fit(pixels, options.size), labels)


def _batch(held: dict[str, Any], name: str, classes: int) -> tuple[Array, list[int]]:
    """Pixels (n, 32, 32, 3) and labels (n) of one batch."""
    data, labels = held.get("data"), held.get("labels")
    if not isinstance(data, _Array) or not isinstance(labels, list):
        raise DataError(f"{name}: no `data` or no `labels`; this is no batch of CIFAR-10")
    with at(name):
        rows = data.array()
    if rows.ndim != 2 or rows.shape[1] != 3072 or len(rows) != len(labels):
        raise DataError(f"{name}: data of shape `{rows.shape}` beside `{len(labels)}` labels; wanted (n, 3072), n")
    if not all(type(label) is int and 0 <= label < classes for label in labels):
        raise DataError(f"{name}: labels must be numbers from 0 to {classes - 1}")
    return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def _collect(folder: Path) -> dict[str, bytes]:
    paths = [folder / name for name in _FILES if (folder / name).is_file()]
    for path in paths:
        if path.stat().st_size > _LARGEST_FILE:
            raise DataError(f"{path.name}: `{path.stat().st_size}` bytes; the limit is `{_LARGEST_FILE}`")
    return {path.name: path.read_bytes() for path in paths}


def _unpack(path: Path) -> dict[str, bytes]:
    """The wanted members of the archive, read as a stream; nothing is written to disk."""
    found: dict[str, bytes] = {}
    passed = 0
    try:
        with tarfile.open(path, "r|gz") as archive:
            for member in archive:
                passed += member.size
                name = member.name.rpartition("/")[2]
                if member.size > _LARGEST_FILE or passed > _LARGEST_TOTAL:
                    raise DataError(f"member `{member.name}` (`{member.size}` bytes) exceeds the limits; get it again")
                file = archive.extractfile(member) if name in _FILES and member.isfile() else None
                if file is not None:
                    found[name] = file.read()
                if len(found) == len(_FILES):
                    break
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"not a usable archive ({error}); get it again") from error
    return found


class _Dtype:
    """What stands for `numpy.dtype` in a pickle."""

    def __init__(self, *arguments: Any) -> None:
        self.name = arguments[0] if arguments else None

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like; one byte has none."""


class _Array:
    """What stands for an array in a pickle: its state, looked at only in `array`."""

    state: Any = None

    def __init__(self, *arguments: Any) -> None:
        """The class, shape and type that NumPy would begin with; the state has them too."""

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self) -> Array:
        """The uint8 array, or `DataError` where the state is anything else."""
        try:
            _, shape, dtype, fortran, data = self.state
            if not isinstance(dtype, _Dtype) or dtype.name not in ("u1", "|u1", b"u1", b"|u1"):
                raise ValueError("type")
            flat = np.frombuffer(data, dtype=np.uint8)
            return flat.reshape(tuple(map(int, shape)), order="F" if fortran else "C")
        except (TypeError, ValueError) as error:
            raise DataError("an array that is not uint8 or does not fit its shape") from error


_KNOWN = {"_reconstruct": _Array, "ndarray": _Array, "dtype": _Dtype}


class _Plain(pickle.Unpickler):
    """Builds dictionaries, lists, numbers, bytes and `_Array`; any other name in the pickle is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray") and name in _KNOWN:
            return _KNOWN[name]
        raise DataError(f"asks for `{module}.{name}`, which no batch of CIFAR-10 needs; refused, get the archive again")


def _load(files: dict[str, bytes], name: str) -> dict[str, Any]:
    """A pickled dictionary with its keys as text."""
    with at(name):
        try:
            held = _Plain(io.BytesIO(files[name]), encoding="bytes").load()
        except DataError:
            raise
        except Exception as error:  # hostile bytes make the unpickler raise nearly everything
            raise DataError(f"not a readable pickle ({error}); get the archive again") from error
        if not isinstance(held, dict):
            raise DataError(f"holds a `{type(held).__name__}`, not a dictionary")
    return {k.decode("utf-8", "replace") if isinstance(k, bytes) else str(k): v for k, v in held.items()}
