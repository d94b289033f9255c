"""What became of the candidates of a search, as its report shows them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lilliput.config import Config

Steps = tuple[Config, ...]


@dataclass(frozen=True)
class Row:
    """A candidate as it ended: steps, epochs, and what was measured; `why` where it is out, `over` how much of the budget it
    takes where it takes most. It `meets` the budget where it keeps every limit, that of lost accuracy as well; `value` is what
    it competes by where it keeps the others. `memory` is known where it is limited."""

    name: str
    steps: Steps = ()
    epochs: int = 0
    ms: float | None = None
    ratio: float | None = None
    bytes: int | None = None
    proxy: float | None = None
    accuracy: float | None = None
    value: float | None = None
    why: str = ""
    chosen: bool = False
    over: float = 0.0
    meets: bool = False
    memory: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, as the report reads them."""
        return {"name": self.name, "methods": [s.text() for s in self.steps], "epochs": self.epochs, "ms": self.ms,
                "ratio": self.ratio, "bytes": self.bytes, "meets": self.meets, "proxy_accuracy": self.proxy,
                "accuracy": self.accuracy, "memory": self.memory, "why": self.why, "chosen": self.chosen}  # fmt: skip


def front(rows: Iterable[Row]) -> tuple[dict[str, Any], ...]:
    """Every row that was measured to the end, and whether another beats it: at least as small, as fast and as accurate as it,
    and with as little memory where that is limited."""
    shown = [r for r in rows if r.accuracy is not None and r.bytes]

    def beats(a: Row, b: Row) -> bool:
        costs = ((a.bytes, b.bytes), (a.ratio, b.ratio), (b.accuracy, a.accuracy), (a.memory, b.memory))
        pairs = [(x or 0, y or 0) for x, y in costs]
        return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)

    return tuple(
        {"name": r.name, "bytes": r.bytes, "ms": r.ms, "ratio": r.ratio, "accuracy": r.accuracy, "memory": r.memory,
         "meets": r.meets, "chosen": r.chosen, "dominated": any(beats(other, r) for other in shown)} for r in shown
    )  # fmt: skip
