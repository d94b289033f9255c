"""How an error of one line names many things."""

from __future__ import annotations

from collections.abc import Iterable


def named(names: Iterable[str], shown: int = 3) -> str:
    """The first few names in backquotes, and how many more there are.

    >>> named(["a", "b", "c", "d", "e"])
    '`a`, `b`, `c` and 2 more'
    """
    listed = list(names)
    more = f" and {len(listed) - shown} more" if len(listed) > shown else ""
    return ", ".join(f"`{name}`" for name in listed[:shown]) + more
