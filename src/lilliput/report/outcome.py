"""What a run left in its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lilliput.errors import FormatError, UsageError, WorkError
from lilliput.report.amounts import MISSING, mapping


@dataclass(frozen=True)
class Outcome:
    """`metrics.json`, `details.json` and `recipe.yaml`. Only the first must be there; any key of any may be missing."""

    metrics: Mapping[str, Any]
    details: Mapping[str, Any]
    recipe: str | None = None

    @staticmethod
    def read(folder: Path) -> Outcome:
        """Read a run's folder. Raises `UsageError` without `metrics.json`, `FormatError` for JSON that is none."""
        metrics = folder / "metrics.json"
        if not metrics.is_file():
            raise UsageError(f"`{folder}` holds no `metrics.json`; a report is made of the folder that `--out` named")
        recipe = folder / "recipe.yaml"
        return Outcome(_json(metrics), _json(folder / "details.json"), _text(recipe) if recipe.is_file() else None)

    @property
    def before(self) -> Mapping[str, Any]:
        """The uncompressed network's row of `metrics.json`."""
        return mapping(self.metrics.get("baseline"))

    @property
    def after(self) -> Mapping[str, Any]:
        """The compressed network's row of `metrics.json`."""
        return mapping(self.metrics.get("compressed"))

    @property
    def title(self) -> str:
        """The network and its data."""
        model, data = self.details.get("model"), self.details.get("data")
        return f"{model or f'model {MISSING}'} on {data or f'data {MISSING}'}"


def _json(path: Path) -> Mapping[str, Any]:
    """An object from a file; an empty one where there is no file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise FormatError(f"{path}: not JSON: {error.msg}", error.pos) from None
    if not isinstance(value, dict):
        raise FormatError(f"{path}: holds a `{type(value).__name__}` where an `object` is due; make the run's files anew")
    return value


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: not UTF-8 text", error.start) from None
    except OSError as error:
        raise WorkError(f"{path}: cannot be read: {error.strerror or error}") from None
