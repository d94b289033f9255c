"""What a compressed model is: an architecture, a list of edits and a state dict. The record holds the first two."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from lilliput.core import edits as _edits
from lilliput.core.edits import Edit
from lilliput.errors import FormatError

_PLACE = "lilliput_record"


@dataclass(frozen=True)
class Record:
    """Architecture (its spelling in text), edits in the order they were performed, and the recipe that wrote them."""

    architecture: str | None = None
    edits: tuple[Edit, ...] = ()
    recipe: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` is the inverse."""
        return {"architecture": self.architecture, "edits": _edits.to_json(self.edits), "recipe": self.recipe}

    @staticmethod
    def from_json(value: Any) -> Record:
        """Read what `to_json` wrote. Raises `FormatError` for anything else."""
        if not isinstance(value, dict) or not isinstance(value.get("edits"), list):
            raise FormatError("the record is not an object with a list of edits")
        architecture, recipe = value.get("architecture"), value.get("recipe")
        if not all(isinstance(text, str | None) for text in (architecture, recipe)):
            raise FormatError("`architecture` and `recipe` of the record are texts or null")
        return Record(architecture, _edits.from_json(value["edits"]), recipe)


def record(model: nn.Module) -> Record:
    """The record a model carries; a model never edited has its architecture and no edits."""
    carried = vars(model).get(_PLACE)
    return carried if isinstance(carried, Record) else Record(vars(model).get("architecture"))


def attach(model: nn.Module, **changes: Any) -> nn.Module:
    """Set fields of the record that this very model carries, and return the model. For the surgeon and for loaders."""
    vars(model)[_PLACE] = replace(record(model), **changes)
    return model


def edits(model: nn.Module) -> tuple[Edit, ...]:
    """The edits that made this model from its architecture, oldest first."""
    return record(model).edits
