"""Results of long runs, kept one file each: a run that stopped goes on where it was, and several processes share a list."""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def once(folder: Path, key: dict[str, Any], work: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """The stored result of a key, or that of the work, stored; None while another process is at it."""
    path = folder / f"{named(key)}.json"
    if not path.exists():
        with claimed(path.with_suffix(".claim")) as mine:
            if not mine:
                return None
            if not path.exists():  # the other process has ended in between
                begun = time.perf_counter()
                found = {**key, **work(), "seconds": round(time.perf_counter() - begun, 1)}
                written(path, json.dumps(found, indent=2) + "\n")
                print(json.dumps(found), flush=True)
    return dict(json.loads(path.read_text()))


def named(key: dict[str, Any]) -> str:
    """A file's name for a key."""
    return "_".join(re.sub(r"[ /]", "-", f"{value}".replace(",", "")) for value in key.values())


def written(path: Path, text: str) -> None:
    """Write a file that is whole or not there at all."""
    sibling = path.with_suffix(f".{os.getpid()}.tmp")
    sibling.write_text(text)
    sibling.replace(path)


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether a claim is this process's. The system takes it back when the process ends, in whatever way that happens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
        path.unlink(missing_ok=True)
