"""Training state on disk: what is read is what was written, and a failed write leaves the old file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError

from lilliput.core import state
from lilliput.errors import FormatError, WorkError

plain = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=8)
tensors = st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bool, torch.bfloat16]).flatmap(
    lambda dtype: st.lists(st.integers(0, 3), max_size=3).map(lambda shape: torch.ones(shape, dtype=dtype))
)
trees = st.recursive(
    plain | tensors,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3),
    max_leaves=8,
)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b and type(a) is type(b)


@given(trees)
def test_read_is_what_was_written(tmp_path_factory: pytest.TempPathFactory, tree: Any) -> None:
    path = tmp_path_factory.mktemp("state") / "a"
    state.write(path, tree)
    assert same(tree, state.read(path))


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    state.write(path, {"epoch": 1})

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(WorkError, match=r"No space left on device\. What was there before is untouched"):
        state.write(path, {"epoch": 2})
    assert state.read(path) == {"epoch": 1} and [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x00" * 64])
def test_other_bytes_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(FormatError, match="not a stored state"):
        state.read(tmp_path / "a")


def test_a_disk_that_is_full_is_one_line_and_what_was_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch

    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    path = tmp_path / "state.safetensors"
    state.write(path, {"a": 1})
    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(WorkError, match="No space left on device"):
        state.write(path, {"a": 2})
    assert state.read(path) == {"a": 1} and list(tmp_path.iterdir()) == [path]
