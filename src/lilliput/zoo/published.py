"""What others measured on ImageNet (one crop): accuracy and cost as they published them, each with its source.

Where a source gives a range, `published.json` has the end of the cost that is nearest to what the network costs here,
and the lower end of the accuracy.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("published.json")


@dataclass(frozen=True)
class Published:
    """A network of the zoo at `pixels`: top-1 and top-5 in percent (None: not given), multiply-adds, parameters."""

    name: str
    pixels: int
    top1: float
    top5: float | None
    macs: int
    params: int
    source: str


def published() -> tuple[Published, ...]:
    """All rows, family by family."""
    return tuple(Published(**row) for row in json.loads(FILE.read_text(encoding="utf-8")))
