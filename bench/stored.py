"""Results of long runs, kept one file each, so that a run that stopped goes on where it was."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def once(folder: Path, key: dict[str, Any], work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The stored result of a key, or that of the work, stored."""
    name = "_".join(re.sub(r"[ /]", "-", f"{value}".replace(",", "")) for value in key.values())
    path = folder / f"{name}.json"
    if not path.exists():
        begun = time.perf_counter()
        found = {**key, **work(), "seconds": round(time.perf_counter() - begun, 1)}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=2) + "\n")
        print(json.dumps(found), flush=True)
    return dict(json.loads(path.read_text()))
