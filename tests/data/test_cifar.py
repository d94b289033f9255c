"""The official batches are read as Python 2 wrote them; any other pickle is refused before it does anything."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import ROWS, batches, lay, new, old, pack

from lilliput.data import cifar
from lilliput.data.splits import Options
from lilliput.errors import DataError


@pytest.mark.parametrize("dump", [old, new])
def test_archive_and_folder_hold_the_planes_as_pixels(dump: Any, tmp_path: Path) -> None:
    files = batches(dump)
    for path in (lay(tmp_path / "cifar-10-batches-py", files), pack(tmp_path / "cifar-10-python.tar.gz", files)):
        assert cifar.accepts(path)
        splits = cifar.read(path, Options())
        assert splits.class_names == ("frog", "ship") and (len(splits.train), len(splits.test)) == (20, 4)
        wanted = ROWS.reshape(-1, 3, 32, 32)
        assert np.array_equal(splits.test.pixels.transpose(0, 3, 1, 2), wanted)
        assert splits.train.labels.tolist()[:8] == [0, 1, 0, 1, 1, 1, 0, 1]


def test_the_old_strings_are_really_those_of_python_2() -> None:
    assert b"cnumpy.core.multiarray\n_reconstruct\n" in old({b"data": ROWS}) and b"_codecs" not in old({b"data": ROWS})


class Shout:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("touch shouted",))


FLAWS: dict[str, tuple[str, bytes]] = {
    "asks for `posix.system`": ("data_batch_3", new({b"data": ROWS, b"labels": Shout()})),
    "asks for `builtins.eval`": (cifar.META, b"\x80\x02cbuiltins\neval\nX\x04\x00\x00\x001+1.\x85R."),
    "asks for `numpy.load`": ("test_batch", b"\x80\x02cnumpy\nload\n)R."),
    "not a readable pickle": ("data_batch_2", new(3)[:-1]),
    "holds a `int`, not a dictionary": ("data_batch_2", new(3)),
    "no `data` or no `labels`": ("data_batch_1", new({b"data": [1, 2], b"labels": [0]})),
    "data of shape `(4, 3071)` beside `4` labels": (
        "data_batch_1",
        new({b"data": ROWS[:, 1:].copy(), b"labels": [0] * 4}),
    ),
    "data of shape `(4, 3072)` beside `3` labels": ("data_batch_1", new({b"data": ROWS, b"labels": [0] * 3})),
    "labels must be numbers from 0 to 1": ("data_batch_1", new({b"data": ROWS, b"labels": [0, 1, 2, 0]})),
    "an array that is not uint8": ("data_batch_1", new({b"data": ROWS.astype(np.int16), b"labels": [0] * 4})),
    "does not fit its shape": ("data_batch_1", b"\x80\x02}(U\x04datacnumpy\nndarray\n)RU\x06labels]u."),
    "no list `label_names`": (cifar.META, new({b"label_names": 3})),
}


@pytest.mark.parametrize("message", FLAWS)
def test_foreign_and_damaged_batches_are_refused(message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name, data = FLAWS[message]
    with pytest.raises(DataError) as caught:
        cifar.read(lay(tmp_path / "batches", {**batches(new), name: data}), Options())
    assert message in str(caught.value) and "\n" not in str(caught.value) and name in str(caught.value)
    assert not Path("shouted").exists()


def test_a_missing_batch_is_named(tmp_path: Path) -> None:
    files = batches(new)
    del files["data_batch_4"]
    for path in (lay(tmp_path / "batches", files), pack(tmp_path / "a.tar.gz", files)):
        with pytest.raises(DataError, match="`data_batch_4` is missing"):
            cifar.read(path, Options())


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9])
def test_an_archive_that_breaks_off_is_refused(part: float, tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar.gz", batches(new))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(DataError, match="not a usable archive"):
        cifar.read(path, Options())


@pytest.mark.parametrize("limit", ["_LARGEST_FILE", "_LARGEST_TOTAL"])
def test_an_archive_that_declares_too_much_is_refused(limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, limit, 1 << 14)
    with pytest.raises(DataError, match="exceeds the limits"):
        cifar.read(pack(tmp_path / "a.tar.gz", {"readme": bytes(1 << 15), **batches(new)}), Options())
