"""A progress bar for reading and fetching data."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, TextIO, TypeVar

T = TypeVar("T")


class Bar:
    """A bar on standard error that appears when the work has taken `patience` seconds, and only on a terminal.

    A `total` of 0 stands for one that nobody knows.
    """

    def __init__(self, text: str, total: int, *, stream: TextIO | None = None, patience: float = 2.0) -> None:
        self.text, self.total, self.done = text, total, 0
        self.stream = stream or sys.stderr
        self.appears = time.monotonic() + patience if self.stream.isatty() else float("inf")
        self._shown: Any = None

    def update(self, amount: int) -> None:
        """Add to what is done."""
        self.done += amount
        if self._shown is None and time.monotonic() >= self.appears:
            self._shown = self._show()
        if self._shown is not None:
            self._shown.update(self._task, completed=self.done)

    def _show(self) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        shown = Progress(*columns, console=Console(file=self.stream), transient=True)
        self._task = shown.add_task(self.text, total=self.total or None)
        shown.start()
        return shown

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Take the bar off the screen."""
        if self._shown is not None:
            self._shown.stop()


def watched(items: Iterable[T], text: str, total: int) -> Iterator[T]:
    """The same items, with a bar that moves on behind each.

    >>> list(watched("abc", "spelling", 3))
    ['a', 'b', 'c']
    """
    with Bar(text, total) as bar:
        for item in items:
            yield item
            bar.update(1)
