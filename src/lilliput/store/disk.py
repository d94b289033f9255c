"""Files as wholes: read in one piece, and written so that a crash at any moment leaves the old file or the new one."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from lilliput.errors import ModelError, WorkError


def read_whole(path: Path) -> bytes:
    """All bytes of a file. Raises `ModelError` if there is none or it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from None


def write_whole(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write the parts to a temporary sibling, force them to the disk, then rename it to `path`.

    Raises `WorkError` that names the path where the disk is full or the folder missing; the sibling is removed then, as
    after any other exception, and what stood at `path` before still stands there.
    """
    target = Path(os.path.realpath(path))  # a link stays a link, and what it points to is replaced
    sibling = target.with_name(f".{secrets.token_hex(6)}.part")
    try:
        _write(sibling, parts)
        os.replace(sibling, target)
    except OSError as error:
        why = error.strerror or error
        raise WorkError(f"{path}: cannot be written: {why}. What was there before is untouched.") from None
    finally:
        with suppress(OSError):
            sibling.unlink()
    _settle(target.parent)


def _write(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    with path.open("xb") as file:
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())


def _settle(folder: Path) -> None:
    """Force the renaming to the disk too, where the system knows how to."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
