"""Decoded images on disk: every source is read once, and opened by memory map from then on.

    $LILLIPUT_CACHE                     or ~/.cache/lilliput
    ├── downloads/                      files fetched from their publishers, checksums verified
    └── images/
        └── 3f0c.../                    SHA-256 of the identity, 24 digits
            ├── entry.json              identity, class names, shape and content hash of each split, images left out
            ├── train.pixels            raw uint8, (n, height, width, channel), row by row
            └── train.labels            raw little-endian int64, (n)

The identity names the source, its files with their sizes and times of modification, and the options it was read with; a
changed file is therefore read anew. An entry is written to a temporary sibling and renamed when it is complete: whoever
is killed leaves no half entry, and of two processes that read the same source at once the first to finish wins and the
other takes its result. An entry whose files do not have the sizes that `entry.json` says is written again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from lilliput.data.images import Array, Images, seal
from lilliput.data.splits import Splits
from lilliput.data.wording import named
from lilliput.errors import DataError

VERSION = 1
_log = logging.getLogger("lilliput.data")
_STALE_SECONDS = 86400


def root() -> Path:
    """The folder of the cache: `$LILLIPUT_CACHE`, or `~/.cache/lilliput`."""
    return Path(os.environ.get("LILLIPUT_CACHE") or "~/.cache/lilliput").expanduser()


def stamp(paths: Iterable[Path]) -> list[list[Any]]:
    """What tells one state of some files from another: path, size, time of modification in nanoseconds."""
    found = ((path.resolve(), path.stat()) for path in paths)
    return [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in found]


class Writer:
    """Takes decoded images split by split, a few at a time, straight to disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.class_names: tuple[str, ...] = ()
        self.skipped: list[str] = []
        self._files: dict[str, IO[bytes]] = {}
        self._digests: dict[str, Any] = {}
        self._labels: dict[str, list[Array]] = {}
        self._shapes: dict[str, tuple[int, int, int]] = {}

    def add(self, split: str, pixels: Array, labels: Any) -> None:
        """Append images (n, H, W, C) of type `uint8` and their labels (n,) to a split."""
        if split not in self._files:
            # Ordinary writes, not a memory map: a full disk is then an error and not a bus fault.
            self._files[split] = open(self.folder / f"{split}.pixels", "wb")
            self._digests[split], self._labels[split] = hashlib.sha256(), []
            self._shapes[split] = pixels.shape[1:]
        pixels = np.ascontiguousarray(pixels)
        self._files[split].write(pixels.data)
        self._digests[split].update(pixels.data)
        self._labels[split].append(np.asarray(labels, dtype="<i8"))

    def close(self) -> None:
        """Close the files of pixels."""
        for file in self._files.values():
            file.close()

    def finish(self, identity: dict[str, Any]) -> None:
        """Write the labels, and `entry.json` as the last file."""
        self.close()
        splits = {split: self._finish(split) for split in self._files}
        entry = {"version": VERSION, "identity": identity, "classes": self.class_names}
        text = json.dumps({**entry, "splits": splits, "skipped": self.skipped}, indent=1)
        (self.folder / "entry.json").write_text(text, encoding="utf-8")

    def _finish(self, split: str) -> dict[str, Any]:
        labels = np.concatenate(self._labels[split])
        (self.folder / f"{split}.labels").write_bytes(labels.tobytes())
        height, width, channels = self._shapes[split]
        content = seal(self._digests[split], labels, "uint8", (channels, height, width))
        return {"shape": [len(labels), height, width, channels], "content": content}


def cached(identity: dict[str, Any], build: Callable[[Writer], None]) -> Splits:
    """The splits of this identity, opened from the cache; where it does not have them, `build` fills a `Writer` first.

    Raises `DataError` where the cache cannot be written.
    """
    text = json.dumps({**identity, "version": VERSION}, sort_keys=True)
    entry = root() / "images" / hashlib.sha256(text.encode()).hexdigest()[:24]
    found = _open(entry)
    if found is None:
        try:
            _fill(entry, identity, build)
        except OSError as error:
            raise DataError(
                f"cache `{root()}`: {error.strerror or error}; free space or set LILLIPUT_CACHE to another folder"
            ) from error
        found = _open(entry)
    if found is None:
        raise DataError(f"cache `{entry}`: the entry just written cannot be read back; remove the folder and try again")
    if found.skipped:
        _log.warning("%d images were left out: %s", len(found.skipped), named(found.skipped))
    return found


def _fill(entry: Path, identity: dict[str, Any], build: Callable[[Writer], None]) -> None:
    """Build in a temporary sibling and rename it; when another process was faster, keep what that one wrote."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    _sweep(entry.parent)
    temporary = Path(tempfile.mkdtemp(prefix=f"{entry.name}.tmp-", dir=entry.parent))
    writer = Writer(temporary)
    try:
        build(writer)
        writer.finish(identity)
        if entry.exists() and _open(entry) is None:
            _log.warning("the cache entry %s is damaged and is written again", entry)
            os.rename(entry, temporary / "damaged")
        try:
            os.rename(temporary, entry)
        except OSError:
            if _open(entry) is None:  # not the other process then, but a real failure
                raise
    finally:
        writer.close()
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(entry / "damaged", ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what killed processes left behind a day ago or earlier."""
    for left in folder.glob("*.tmp-*"):
        if left.is_dir() and time.time() - left.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(left, ignore_errors=True)


def _open(entry: Path) -> Splits | None:
    """The splits of a complete entry; nothing where it is missing or its files do not fit its `entry.json`."""
    try:
        meta = json.loads((entry / "entry.json").read_text(encoding="utf-8"))
        splits = {name: _map(entry, name, part) for name, part in meta["splits"].items()}
        return Splits(splits["train"], splits["test"], splits.get("val"), tuple(meta["classes"]), tuple(meta["skipped"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _map(entry: Path, split: str, part: dict[str, Any]) -> Images:
    """One split by memory map; ValueError where a file has another size than its shape asks for."""
    shape = tuple(int(n) for n in part["shape"])
    path = entry / f"{split}.pixels"
    labels = np.fromfile(entry / f"{split}.labels", dtype="<i8")
    if path.stat().st_size != int(np.prod(shape)) or len(labels) != shape[0] or len(shape) != 4:
        raise ValueError(split)
    pixels = np.memmap(path, dtype=np.uint8, mode="r", shape=shape)
    return Images(pixels, torch.from_numpy(labels.astype(np.int64)), content=str(part["content"]))
