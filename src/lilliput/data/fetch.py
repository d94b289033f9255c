"""Downloads with a checksum, into the cache."""

from __future__ import annotations

import logging
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from lilliput.data import cache
from lilliput.data.progress import Bar
from lilliput.errors import DataError

_CHUNK = 1 << 16


@dataclass(frozen=True)
class Download:
    """A file of a publisher: where it is, and its checksum as `algorithm:hexadecimal`."""

    url: str
    checksum: str

    @property
    def file(self) -> str:
        """The file's name, the last part of its address."""
        return self.url.rpartition("/")[2]


def fetch(downloads: tuple[Download, ...], folder: Path) -> None:
    """Bring the files into a folder; a file that is there with the right checksum stays.

    Raises `DataError` where an address cannot be reached, a checksum differs, or the disk does not take it.
    """
    import pooch  # type: ignore[import-untyped]

    pooch.get_logger().setLevel(logging.WARNING)  # a bar tells of the download, or nothing does
    for download in downloads:
        try:
            pooch.retrieve(download.url, download.checksum, download.file, folder, downloader=_bring)
        except (OSError, ValueError) as error:  # of the network, of the disk; of a checksum
            raise DataError(f"fetching `{download.url}` failed ({_reason(error)})") from error


def _bring(url: str, file: str, pooch: object) -> None:
    """What pooch calls to get one file. Its own downloader leaves connections open where a server refuses."""
    request = urllib.request.Request(url, headers={"User-Agent": "lilliput"})
    with urllib.request.urlopen(request, timeout=30) as response, open(file, "wb") as out:
        with Bar(f"fetching {url.rpartition('/')[2]}", int(response.headers.get("Content-Length", 0))) as bar:
            while chunk := response.read(_CHUNK):
                out.write(chunk)
                bar.update(len(chunk))


def _reason(error: OSError | ValueError) -> str:
    """One short line."""
    if isinstance(error, urllib.error.HTTPError):
        error.close()  # it holds the connection
    elif isinstance(error, urllib.error.URLError):
        return f"no connection: {error.reason}"
    return str(error).split("\n")[0]


def folder(name: str) -> Path:
    """Where the files of a named data set are kept."""
    return cache.root() / "downloads" / name
