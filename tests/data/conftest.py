"""Small image trees and a cache of each test's own."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from image_files import Files, Plant, picture


@pytest.fixture(autouse=True)
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`$LILLIPUT_DATA`, empty; the cache is new too."""
    monkeypatch.setenv("LILLIPUT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LILLIPUT_DATA", str(tmp_path / "shelf"))
    (tmp_path / "shelf").mkdir()
    return tmp_path / "shelf"


@pytest.fixture
def files() -> Files:
    """Two classes, 6 train and 2 test images in each, RGB, 6 x 8."""
    wanted = [(split, c, i) for split, n in (("train", 6), ("test", 2)) for c in ("cat", "dog") for i in range(n)]
    return {f"{split}/{c}/{i}.png": picture(n) for n, (split, c, i) in enumerate(wanted)}


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """Write files into a folder; a path with a slash at its end is an empty folder."""

    def write(files: Files) -> Path:
        for name, data in files.items():
            path = tmp_path / "tree" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir() if name.endswith("/") else path.write_bytes(data)
        return tmp_path / "tree"

    return write


@pytest.fixture
def pack(tmp_path: Path) -> Plant:
    """Write files into a zip."""

    def write(files: Files) -> Path:
        with zipfile.ZipFile(tmp_path / "tree.zip", "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return tmp_path / "tree.zip"

    return write
