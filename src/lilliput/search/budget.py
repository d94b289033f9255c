"""Budgets in the user's words, and what misses them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lilliput.errors import ConfigError

MARGIN = 0.95  # aim this far below a latency target, since a fresh measurement differs by a few percent
UNITS = {"": 1, "b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1024, "mib": 1024**2}


@dataclass(frozen=True)
class Limit:
    """An upper bound: absolute, or (`ratio`) relative to the uncompressed network."""

    value: float
    ratio: bool = False

    def of(self, baseline: float) -> float:
        """The bound as an absolute number."""
        return self.value * baseline if self.ratio else self.value


@dataclass(frozen=True)
class Budget:
    """What the compressed network may cost: bytes of its `.lil`, milliseconds, points of test accuracy lost, and bytes of
    activations alive at once."""

    size: Limit | None = None
    latency: Limit | None = None
    max_drop: float | None = None
    memory: Limit | None = None

    @staticmethod
    def read(
        size: str | None = None, latency: str | None = None, max_drop: float | None = None, memory: str | None = None
    ) -> Budget:
        """Budgets as written on the command line.

        >>> Budget.read(size="0.5MB", latency="0.5x", max_drop=1)
        Budget(size=Limit(value=500000.0, ratio=False), latency=Limit(value=0.5, ratio=True), max_drop=1, memory=None)
        """
        if max_drop is not None and not max_drop >= 0:  # which a number that is none is not either
            raise ConfigError(f"`--max-drop` (={max_drop}) is in points of accuracy, from 0")
        return Budget(
            None if size is None else _limit("--size", size, UNITS, "0.5MB, 80kB or 0.25x"),
            None if latency is None else _limit("--latency", latency, {"ms": 1, "s": 1000, "us": 0.001}, "5ms or 0.5x"),
            max_drop,
            None if memory is None else _limit("--memory", memory, UNITS, "256kB or 0.5x"),
        )

    def taken(
        self, start: Mapping[str, Any], size: int, ms: float, ratio: float, memory: int, margin: float = 1.0
    ) -> dict[str, float]:
        """How much of each limit a network takes, as a share of it; `start` has `bytes` and `memory` of the one given, `ratio`
        is the share of its milliseconds, and of what these may be the `margin` is aimed for."""
        asked = {
            "size": (self.size, size, start["bytes"]), "latency": (self.latency, ms / margin, ms / ratio),
            "memory": (self.memory, memory, start["memory"]),
        }  # fmt: skip
        return {name: has / limit.of(of) for name, (limit, has, of) in asked.items() if limit is not None}

    def keeps(self, before: float, after: float) -> bool:
        """Whether no more accuracy is lost than may be; both are shares."""
        return self.max_drop is None or 100 * (before - after) <= self.max_drop + 1e-9

    def failures(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
        """One line for every budget that `after` misses, with both values; both are rows of `metrics.json`."""
        missed = []
        if self.size is not None and after["file_bytes"] > (limit := self.size.of(before["file_bytes"])):
            missed.append(
                f"size: {after['file_bytes']:,} bytes, {after['file_bytes'] - limit:,.0f} over the {limit:,.0f} asked for"
            )
        if self.latency is not None:
            was, now = before["latency_ms"]["median"], after["latency_ms"]["median"]
            if now > (limit := self.latency.of(was)):
                missed.append(
                    f"latency: {now:.3f} ms ({now / was:.2f}x), {now - limit:.3f} ms over the {limit:.3f} ms asked for"
                )
        if self.memory is not None:
            was, now = before["peak_activation_bytes"], after["peak_activation_bytes"]
            if now > (limit := self.memory.of(was)):
                missed.append(
                    f"memory: {now:,} bytes of activations at once, {now - limit:,.0f} over the {limit:,.0f} asked for"
                )
        if self.max_drop is not None:
            drop = 100 * (before["accuracy"] - after["accuracy"])
            if not self.keeps(before["accuracy"], after["accuracy"]):
                missed.append(
                    f"accuracy: {drop:.2f} points lost on the test split, "
                    f"{drop - self.max_drop:.2f} more than the {self.max_drop:g} allowed"
                )
        return missed


def _limit(option: str, text: str, units: Mapping[str, float], example: str) -> Limit:
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-zA-Z]*)\s*", text)
    unit = found[2].lower() if found else "?"
    if found is None or float(found[1]) <= 0 or (unit != "x" and unit not in units):
        raise ConfigError(f"`{option} {text}` is not a budget; write it like {example}")
    return Limit(float(found[1]), True) if unit == "x" else Limit(float(found[1]) * units[unit])
