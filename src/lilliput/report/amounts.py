"""Numbers as people read them, and what a run left behind taken for no more than it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lilliput.measure.table import amount

MISSING = "not recorded"


def number(value: object) -> float | None:
    """A finite number; None for anything else, so that nothing is shown that was not measured."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def share(value: object) -> float | None:
    """A number from 0 to 1, such as an accuracy; None for anything else."""
    found = number(value)
    return found if found is not None and 0 <= found <= 1 else None


def mapping(value: object) -> Mapping[str, Any]:
    """A mapping; an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def listing(value: object) -> list[Any]:
    """A list; an empty one for anything else."""
    return list(value) if isinstance(value, list | tuple) else []


def mappings(value: object) -> list[Mapping[str, Any]]:
    """The mappings in a list; an empty list for anything else."""
    return [item for item in listing(value) if isinstance(item, Mapping)]


def count(value: float) -> str:
    """
    >>> count(855_770), count(3)
    ('855.8 k', '3')
    """
    return amount(value)


def size(value: float) -> str:
    """
    >>> size(3_442_118), size(512)
    ('3.442 MB', '512 B')
    """
    return amount(value, "B")


def percent(share: float) -> str:
    """
    >>> percent(0.94371)
    '94.37 %'
    """
    return f"{100 * share:.2f} %"


def milliseconds(value: float) -> str:
    """
    >>> milliseconds(3.4), milliseconds(0.0257), milliseconds(1234.5)
    ('3.40 ms', '0.0257 ms', '1,234 ms')
    """
    return f"{digits(value)} ms"


def digits(value: float) -> str:
    """Three significant digits, and all of those before the point.

    >>> digits(3.4), digits(99.96), digits(1234.5)
    ('3.40', '100', '1,234')
    """
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"


def seconds(value: float) -> str:
    """
    >>> seconds(0.125), seconds(75.2), seconds(4000)
    ('0.12 s', '1 min 15 s', '1 h 7 min')
    """
    if value < 60:
        return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
    small, unit, big = (1, "s", "min") if value < 3600 else (60, "min", "h")
    many, rest = divmod(round(value / small), 60)
    return f"{many} {big} {rest} {unit}"


def points(before: float, after: float) -> str:
    """The difference of two shares, in points of a percent.

    >>> points(0.9437, 0.9395), points(0.5, 0.5)
    ('−0.42 points', '±0.00 points')
    """
    text = f"{100 * (after - before):+.2f}"
    sign = "±" if float(text) == 0 else {"+": "+", "-": "−"}[text[0]]
    return f"{sign}{text[1:]} points"


def times(before: float, after: float, less: str = "less", more: str = "more") -> str:
    """How much less or more: a factor, or percent of `before` where the factor is close to one.

    >>> times(3.4e6, 8.7e5, "smaller", "larger"), times(100, 104), times(7, 7)
    ('3.9x smaller', '4.0 % more', 'unchanged')
    """
    if before == after:
        return "unchanged"
    word = less if after < before else more
    if min(before, after) <= 0:
        return word
    factor = max(before / after, after / before)
    if factor >= 1.1:
        return f"{factor:.0f}x {word}" if factor >= 100 else f"{factor:.1f}x {word}"
    share = f"{100 * abs(after / before - 1):.1f} %"
    return "unchanged within 0.1 %" if share == "0.0 %" else f"{share} {word}"


def threads(value: object) -> str:
    """
    >>> threads(1), threads(2)
    ('1 thread', '2 threads')
    """
    return plural(value, "thread") if isinstance(value, int) else f"threads {MISSING}"


def plural(value: int, one: str, more: str = "") -> str:
    """
    >>> plural(1, "edit"), plural(1200, "edit"), plural(10, "class", "classes")
    ('1 edit', '1,200 edits', '10 classes')
    """
    return f"{value:,} {one if value == 1 else more or one + 's'}"


def shape(value: object) -> str:
    """
    >>> shape([1, 16, 32, 32])
    '1x16x32x32'
    """
    return "x".join(str(n) for n in listing(value))
