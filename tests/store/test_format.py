"""The container: what is written is what is read, aligned and checked; a write that fails leaves no trace."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lil_samples import forge, header, take_apart

from lilliput.errors import FormatError, ModelError, WorkError
from lilliput.store import disk
from lilliput.store.format import read, write
from lilliput.store.header import Entry, Header, Section

RECORD = {"architecture": "resnet8", "edits": [], "recipe": None}


@st.composite
def files(draw: Any) -> tuple[Header, list[bytes]]:
    """A header and the bytes of its sections."""
    names = draw(st.lists(st.from_regex(r"[a-z0-9_]{1,6}(\.[a-zé0-9 ]{1,4}){0,2}", fullmatch=True), unique=True))
    sections, payloads = [], []
    for name in names:
        payloads.append(draw(st.binary(max_size=200)))
        sections.append(Section("plain", "uint8", (Entry(name, (len(payloads[-1]),)),)))
    return Header(RECORD, tuple(sections)), payloads


@given(files())
def test_read_inverts_write(file: tuple[Header, list[bytes]]) -> None:
    target = io.BytesIO()
    size = write(target, *file)
    content = read(target.getvalue())
    assert size == len(target.getvalue()) == content.size
    assert [bytes(p) for p in content.payloads] == file[1]
    assert content.header.record == RECORD
    assert [s.entries for s in content.header.sections] == [s.entries for s in file[0].sections]
    assert all(offset % 64 == 0 for offset in content.offsets)


@given(files())
def test_a_reader_written_from_the_page_alone_agrees(file: tuple[Header, list[bytes]]) -> None:
    target = io.BytesIO()
    write(target, *file)
    found, payloads = take_apart(target.getvalue())
    assert payloads == file[1] and found["record"] == RECORD
    assert forge(found, payloads).endswith(target.getvalue()[24 + len(str(found)) :])


@given(files())
def test_the_same_file_is_the_same_bytes(file: tuple[Header, list[bytes]]) -> None:
    first, second = io.BytesIO(), io.BytesIO()
    write(first, *file)
    write(second, Header(dict(reversed(RECORD.items())), file[0].sections), file[1])
    assert first.getvalue() == second.getvalue()


def test_a_path_and_its_bytes_read_alike(tmp_path: Path) -> None:
    path = tmp_path / "a.lil"
    section = Section("plain", "int8", (Entry("t", (3,)),))
    assert write(path, Header(RECORD, (section,)), [b"abc"]) == path.stat().st_size
    assert bytes(read(path).payloads[0]) == bytes(read(path.read_bytes()).payloads[0]) == b"abc"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"architecture": float("nan")}, "cannot be written as JSON"),
        ({"architecture": np.float32(1)}, "cannot be written as JSON"),
        ({"architecture": "\ud800"}, "cannot be written as JSON"),
        ({"architecture": 2**64}, "64 bits"),
    ],
)
def test_a_header_that_no_reader_takes_is_not_written(record: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=message):
        write(tmp_path / "a.lil", Header(record), [])
    assert list(tmp_path.iterdir()) == []


def failing(error: BaseException) -> Any:
    def fail(descriptor: int) -> None:
        raise error

    return fail


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file(error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.lil"
    write(path, Header(RECORD), [])
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", failing(error))
    with pytest.raises(WorkError if isinstance(error, OSError) else KeyboardInterrupt) as caught:
        write(path, Header({**RECORD, "recipe": "x"}), [])
    if isinstance(error, OSError):
        assert str(caught.value) == f"{path}: cannot be written: No space left on device. What was there before is untouched."
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == before


def test_a_process_killed_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "net.lil"
    write(path, Header(RECORD), [])
    before = path.read_bytes()
    script = (
        "import os, signal, sys; from pathlib import Path; from lilliput.store.disk import write_whole\n"
        "def parts():\n    yield bytes(1 << 20)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_whole(Path(sys.argv[1]), parts())"
    )
    source = str(Path(disk.__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", script, str(path)], env={**os.environ, "PYTHONPATH": source}, check=False)
    assert done.returncode == -signal.SIGKILL and path.read_bytes() == before


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path, wanted = tmp_path / "net.lil", {bytes([i]) * 100_000 for i in range(20)}
    disk.write_whole(path, [min(wanted)])
    writer = threading.Thread(target=lambda: [disk.write_whole(path, [w]) for w in sorted(wanted)])
    writer.start()
    seen = set()
    while writer.is_alive():
        seen.add(path.read_bytes())
    writer.join()
    assert seen <= wanted


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.lil").write_bytes(b"old")
    (tmp_path / "link.lil").symlink_to("real.lil")
    disk.write_whole(tmp_path / "link.lil", [b"new"])
    assert (tmp_path / "link.lil").is_symlink() and (tmp_path / "real.lil").read_bytes() == b"new"


@pytest.mark.parametrize("where", ["missing/net.lil", "file/net.lil", "x" * 300])
def test_a_place_that_cannot_be_written_is_named(where: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WorkError, match=r"cannot be written"):
        write(tmp_path / where, Header(RECORD), [])
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("where", ["missing.lil", "."])
def test_a_place_that_cannot_be_read_is_named(where: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        read(tmp_path / where)


def test_the_forger_makes_good_files_too() -> None:
    rows = [{"codec": "plain", "dtype": "int8", "tensors": [["t", [2]]]}]
    content = read(forge(header(sections=rows, limits={"decoded": 2}), [b"ab"]))
    assert bytes(content.payloads[0]) == b"ab"
