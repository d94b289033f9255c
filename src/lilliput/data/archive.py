"""Image files in a folder or a `.zip`, read by path without unpacking anything.

A zip is refused where a member has an absolute path or one with `..`, is encrypted or named twice, or where the sizes
it declares exceed the limits: 64 MiB a file, and in total 1 GiB or 200 times the size of the zip, whichever is more.
"""

from __future__ import annotations

import os
import zipfile
from collections import Counter
from pathlib import Path
from typing import NoReturn

from lilliput.data.decode import LARGEST_FILE
from lilliput.errors import DataError

LARGEST_TOTAL = 1 << 30
LARGEST_RATIO = 200


class Folder:
    """Files below a folder; paths are relative to it, with forward slashes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: list[str] = []
        self.folders: list[str] = []
        for here, folders, files in os.walk(path, followlinks=True, onerror=_refuse):
            inside = Path(here).relative_to(path)
            prefix = f"{inside.as_posix()}/" if inside.parts else ""
            folders[:] = sorted(f for f in folders if not f.startswith(".")) if len(inside.parts) < 5 else []
            self.files += [prefix + name for name in files]
            self.folders += [prefix + name for name in folders]

    def sizes(self) -> list[list[object]]:
        """Path, size and time of modification of every file: the folder's identity."""
        try:
            stats = [(name, os.stat(f"{self.path}/{name}")) for name in sorted(self.files)]
        except OSError as error:
            _refuse(error)
        return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]

    def read(self, name: str) -> bytes:
        """The bytes of one file, at most one more than the limit allows."""
        with open(self.path / name, "rb") as file:
            return file.read(LARGEST_FILE + 1)

    def close(self) -> None:
        """Nothing is held open."""


class Zip:
    """Members of a zip; reading checks the CRC and never goes beyond the size a member declares."""

    def __init__(self, path: Path) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
            raise DataError(f"not a usable zip ({error}); get it again") from error
        try:
            self._members = {info.filename: info for info in self._zip.infolist()}
            self._check(path)
        except BaseException:
            self._zip.close()
            raise
        self.files = [name for name, info in self._members.items() if not info.is_dir()]
        self.folders = [name for name, info in self._members.items() if info.is_dir()]

    def _check(self, path: Path) -> None:
        if len(self._members) != len(self._zip.infolist()):
            raise DataError(f"member `{_repeated(self._zip.namelist())}` stands in the zip twice; pack it anew")
        for name, info in self._members.items():
            if ".." in name.split("/") or name.startswith("/") or "\\" in name or ":" in name.split("/")[0]:
                raise DataError(f"member `{name}` points outside the archive; pack it with relative paths")
            if info.flag_bits & 1:
                raise DataError(f"member `{name}` is encrypted; pack it without a password")
            if info.file_size > LARGEST_FILE:
                raise DataError(f"member `{name}` declares `{info.file_size}` bytes; the limit is `{LARGEST_FILE}`")
        total, limit = sum(i.file_size for i in self._members.values()), path.stat().st_size * LARGEST_RATIO
        if total > max(limit, LARGEST_TOTAL):
            raise DataError(f"the members declare `{total}` bytes, over the limit of `{max(limit, LARGEST_TOTAL)}`; refused")

    def read(self, name: str) -> bytes:
        """The bytes of one member. Several threads may read at once."""
        return self._zip.read(self._members[name])

    def close(self) -> None:
        """Close the file."""
        self._zip.close()


def _repeated(names: list[str]) -> str:
    return next(name for name, count in Counter(names).items() if count > 1)


def _refuse(error: OSError) -> NoReturn:
    raise DataError(f"`{error.filename}` cannot be read: {error.strerror}") from error
