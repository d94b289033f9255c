"""The outcome in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lilliput.measure.chance import LEVEL, mcnemar
from lilliput.report.amounts import MISSING, listing, mapping, number, percent, size, times
from lilliput.report.compared import latency


def verdict(metrics: Mapping[str, Any]) -> str:
    """Size, speed and accuracy against the uncompressed network, and whether the budgets are met.

    >>> small = {"accuracy": 0.931, "file_bytes": 870_000, "latency_ms": {"median": 1.6}}
    >>> large = {"accuracy": 0.935, "file_bytes": 3_400_000, "latency_ms": {"median": 3.3}}
    >>> verdict({"baseline": large, "compressed": small, "budget": {"max_drop": 1}, "failures": []})
    '3.9x smaller, 2.1x faster, 0.4 points less accurate; every budget is met.'
    """
    before, after = mapping(metrics.get("baseline")), mapping(metrics.get("compressed"))
    parts = [_size(before, after), _speed(before, after), _accuracy(before, after)]
    return f"{', '.join(parts)}; {_budgets(metrics)}."


def met(metrics: Mapping[str, Any]) -> bool | None:
    """Whether every budget is met; None where none was named or it is not known."""
    if listing(metrics.get("failures")):
        return False
    return True if asked(metrics) and isinstance(metrics.get("failures"), list) else None


def asked(metrics: Mapping[str, Any]) -> list[str]:
    """The budgets in words.

    >>> asked({"budget": {"size": None, "latency": {"value": 0.5, "ratio": True}, "max_drop": 1}})
    ['latency at most 0.5x', 'at most 1 point of accuracy lost']
    """
    budget = mapping(metrics.get("budget"))
    lines = [
        f"{name} at most {_limit(name, budget[name])}" for name in ("size", "latency", "memory") if budget.get(name) is not None
    ]
    drop = budget.get("max_drop")
    return lines if drop is None else [*lines, f"at most {drop} {'point' if drop == 1 else 'points'} of accuracy lost"]


def limit(metrics: Mapping[str, Any], name: str, baseline: float | None) -> float | None:
    """The budget `name` as an absolute number, where it is one or can be made one from `baseline`."""
    budget = mapping(metrics.get("budget")).get(name)
    value = number(mapping(budget).get("value"))
    if value is None:
        return number(budget)
    if not mapping(budget).get("ratio"):
        return value
    return None if baseline is None else value * baseline


def _limit(name: str, budget: object) -> str:
    value = number(mapping(budget).get("value", budget))
    if value is None:
        return str(budget)
    if mapping(budget).get("ratio"):
        return f"{value:g}x"
    return f"{value:g} ms" if name == "latency" else size(value)


def _size(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    was, now = number(before.get("file_bytes")), number(after.get("file_bytes"))
    if was is None or now is None:
        return f"size {MISSING}"
    return _sentence("size", times(was, now, "smaller", "larger"))


def _speed(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    was, now = latency(before), latency(after)
    if was is None or now is None:
        return f"latency {MISSING}"
    found = _sentence("latency", times(was, now, "faster", "slower"))
    return f"{found} (their spreads overlap)" if overlap(before, after) else found


def _sentence(what: str, change: str) -> str:
    return f"{what} {change}" if change.startswith("unchanged") else change


def overlap(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether the middle four fifths of both measurements share a value: then neither is clearly the faster."""
    one, other = (mapping(row.get("latency_ms")) for row in (before, after))
    ends = [number(row.get(name)) for row in (one, other) for name in ("p10", "p90")]
    if None in ends:
        return False
    low, high, other_low, other_high = ends
    return low <= other_high and other_low <= high  # type: ignore[operator]


def _accuracy(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    was, now = number(before.get("accuracy")), number(after.get("accuracy"))
    if now is None:
        return f"accuracy {MISSING}"
    if was is None:
        return f"{percent(now)} accurate (before: {MISSING})"
    lost = 100 * abs(was - now)
    text = f"{lost:.1f}" if lost >= 0.1 else f"{lost:.2f}"
    if not float(text):
        return "equally accurate"
    found = f"{text} points {'less' if now < was else 'more'} accurate"
    return f"{found} (which could be chance)" if _chance(after) else found


def _chance(after: Mapping[str, Any]) -> bool:
    """Whether answers changed so that equally accurate networks would often differ as much (McNemar's test)."""
    lost, gained = (number(mapping(after.get("answers")).get(name)) for name in ("lost", "gained"))
    return lost is not None and gained is not None and mcnemar(int(lost), int(gained)) > LEVEL


def _budgets(metrics: Mapping[str, Any]) -> str:
    failures = [str(line).rstrip(".") for line in listing(metrics.get("failures"))]
    if failures:
        return f"missed: {'; '.join(failures)}"
    if not asked(metrics):
        return "no budget was named"
    return "every budget is met" if met(metrics) else f"whether the budgets are met was {MISSING}"
