"""A cache entry is complete or not there, whatever happens while it is written."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lilliput.data.cache import Writer, cached, root, stamp
from lilliput.data.images import Images
from lilliput.errors import DataError

PIXELS = np.arange(2 * 5 * 3 * 4 * 1, dtype=np.uint8).reshape(2, 5, 3, 4, 1)
LABELS = np.array([0, 1, 0, 1, 1])


def build(writer: Writer) -> None:
    writer.class_names = ("a", "b")
    writer.add("train", PIXELS[0, :2], LABELS[:2])
    writer.add("test", PIXELS[1], LABELS)
    writer.add("train", PIXELS[0, 2:], LABELS[2:])


def never(writer: Writer) -> None:
    raise AssertionError("built again")


def entries() -> list[Path]:
    return sorted((root() / "images").iterdir())


def test_what_was_written_is_what_is_opened() -> None:
    for builder in (build, never):
        splits = cached({"source": "x"}, builder)
        assert splits.class_names == ("a", "b") and splits.val is None and splits.skipped == ()
        for images, pixels in ((splits.train, PIXELS[0]), (splits.test, PIXELS[1])):
            assert np.array_equal(images.pixels, pixels) and images.labels.tolist() == LABELS.tolist()
            assert images.content() == Images(pixels, images.labels).content()
            assert not images.pixels.flags.writeable


def test_another_identity_is_another_entry() -> None:
    cached({"source": "x", "size": None}, build)
    cached({"source": "x", "size": 8}, build)
    assert len(entries()) == 2


def test_of_two_that_write_at_once_the_first_to_finish_wins() -> None:
    def slow(writer: Writer) -> None:
        build(writer)
        assert cached({"source": "x"}, build).train.labels.tolist() == LABELS.tolist()  # the other process

    splits = cached({"source": "x"}, slow)
    assert np.array_equal(splits.train.pixels, PIXELS[0]) and len(entries()) == 1


@pytest.mark.parametrize("failure", [KeyboardInterrupt, DataError, ZeroDivisionError])
def test_a_failure_leaves_nothing(failure: type[BaseException]) -> None:
    def fail(writer: Writer) -> None:
        build(writer)
        raise failure("x")

    with pytest.raises(failure):
        cached({"source": "x"}, fail)
    assert entries() == []
    cached({"source": "x"}, build)


def test_what_a_killed_process_left_does_no_harm_and_is_swept_after_a_day() -> None:
    for name, age in (("old.tmp-1", 2 * 86400), ("new.tmp-2", 0)):
        (root() / "images" / name).mkdir(parents=True)
        os.utime(root() / "images" / name, (time.time() - age,) * 2)
    cached({"source": "x"}, build)
    assert [e.name for e in entries() if ".tmp-" in e.name] == ["new.tmp-2"]


def shorten(entry: Path) -> None:
    (entry / "train.pixels").write_bytes(PIXELS[0].tobytes()[:-1])


def empty(entry: Path) -> None:
    (entry / "test.labels").unlink()


def garble(entry: Path) -> None:
    (entry / "entry.json").write_text("{")


def lie(entry: Path) -> None:
    meta = json.loads((entry / "entry.json").read_text())
    meta["splits"]["train"]["shape"] = [2**40, 1, 1, 1]
    (entry / "entry.json").write_text(json.dumps(meta))


@pytest.mark.parametrize("damage", [shorten, empty, garble, lie])
def test_a_damaged_entry_is_written_again(damage: Any, caplog: pytest.LogCaptureFixture) -> None:
    cached({"source": "x"}, build)
    damage(entries()[0])
    assert np.array_equal(cached({"source": "x"}, build).train.pixels, PIXELS[0])
    assert "damaged" in caplog.text and len(entries()) == 1
    cached({"source": "x"}, never)


def test_a_cache_that_cannot_be_written_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LILLIPUT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match="set LILLIPUT_CACHE to another folder"):
        cached({"source": "x"}, build)


def test_a_full_disk_is_one_line_and_leaves_nothing() -> None:
    def fill(writer: Writer) -> None:
        build(writer)
        raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match="No space left on device; free space"):
        cached({"source": "x"}, fill)
    assert entries() == []


def test_a_stamp_knows_a_changed_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("one")
    before = stamp([file])
    assert stamp([file]) == before
    file.write_text("two!")
    assert stamp([file]) != before
    again = stamp([file])
    os.utime(file, ns=(1, 1))
    assert stamp([file]) != again


def test_the_cache_is_at_home_unless_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LILLIPUT_CACHE")
    assert root() == Path("~/.cache/lilliput").expanduser()
