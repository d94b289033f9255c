"""IDX files are exactly what their header says, or refused."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_files import written

from lilliput.data import idx
from lilliput.data.splits import Options
from lilliput.errors import DataError


def pixels(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 5, 4), dtype=np.uint8)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Four files, two of them with .gz."""
    for prefix, count in (("train", 20), ("t10k", 6)):
        labels = (np.arange(count) % 3).astype(np.uint8)
        (tmp_path / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(written(pixels(count))))
        (tmp_path / f"{prefix}-labels-idx1-ubyte").write_bytes(written(labels))
    return tmp_path


def test_a_folder_of_four_files(place: Path) -> None:
    for path in (place, place / "train-images-idx3-ubyte.gz"):
        assert idx.accepts(path)
        splits = idx.read(path, Options())
        assert np.array_equal(splits.train.pixels[..., 0], pixels(20)) and np.array_equal(splits.test.pixels[..., 0], pixels(6))
        assert splits.train.labels.tolist() == [i % 3 for i in range(20)] and splits.class_names == ("0", "1", "2")
    assert idx.read(place, Options((8, 8))).train.shape == (1, 8, 8)
    (place / "t10k-labels-idx1-ubyte").unlink()
    assert not idx.accepts(place)


@given(st.lists(st.integers(0, 7), min_size=1, max_size=3), st.booleans())
def test_every_array_comes_back_and_every_truncation_is_refused(shape: list[int], packed: bool) -> None:
    import tempfile

    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    data = written(array)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("x.gz" if packed else "x")
        path.write_bytes(gzip.compress(data) if packed else data)
        assert np.array_equal(idx.read_idx(path, len(shape)), array)
        for wrong in (data[:-1], data + b"\0", data[:3], b""):
            path.write_bytes(gzip.compress(wrong) if packed else wrong)
            with pytest.raises(DataError, match=r"^x"):
                idx.read_idx(path, len(shape))


def head(kind: int, *shape: int) -> bytes:
    return bytes((0, 0, kind, len(shape))) + struct.pack(f">{len(shape)}I", *shape)


FLAWS: dict[str, tuple[str, bytes]] = {
    "begins with `00000d03`, not with `00000803`": ("train-images-idx3-ubyte.gz", head(13, 2, 2, 2)),
    "begins with `00000801`, not with `00000803`": ("train-images-idx3-ubyte.gz", head(8, 2)),
    "the limit is": ("train-images-idx3-ubyte.gz", head(8, 2**31, 2**31, 2**31)),
    "cannot be read": ("train-images-idx3-ubyte.gz", b""),
    "`20` images, `3` labels in `train`": ("train-labels-idx1-ubyte", written(np.zeros(3, np.uint8))),
    "declares `9` bytes and holds `more than 9`": ("train-labels-idx1-ubyte", head(8, 9) + bytes(20)),
}


@pytest.mark.parametrize("message", FLAWS)
def test_damaged_files_are_one_line(message: str, place: Path) -> None:
    name, data = FLAWS[message]
    packed = gzip.compress(data) if name.endswith(".gz") and data else b"\x1f\x8b\x08" * 9
    (place / name).write_bytes(packed if name.endswith(".gz") else data)
    with pytest.raises(DataError) as caught:
        idx.read(place, Options())
    assert message in str(caught.value) and "\n" not in str(caught.value)
