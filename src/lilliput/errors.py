"""Every error a user can meet.

LilliputError
├── UsageError          the call is wrong (exit code 2)
│   ├── UnknownName     a name nothing is registered under; offers the nearest
│   └── ConfigError     an option with a value it cannot have
└── WorkError           the work failed (exit code 1)
    ├── EditError       an edit does not fit the model
    ├── ModelError      a model, its weights or its architecture cannot be used
    ├── DataError       images, labels or splits cannot be used
    ├── TrainError      training cannot go on
    ├── FormatError     bytes that are not a valid file; knows the offset
    ├── ExportError     a target cannot hold or run this model
    └── BudgetError     a budget cannot be met; knows what was reached
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class LilliputError(Exception):
    """Anything this package raises on purpose: one line that names the place, the values and the way out."""

    exit_code = 1


class UsageError(LilliputError):
    """The call is wrong: nothing was done."""

    exit_code = 2


class UnknownName(UsageError, KeyError):
    """No entry of that name; the message offers the nearest ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        near = difflib.get_close_matches(name, self.known, n=3, cutoff=0.5)
        offer = f"Did you mean {' or '.join(f'`{n}`' for n in near)}?" if near else f"Known: {', '.join(self.known)}."
        super().__init__(f"no {kind} is called `{name}`. {offer}")

    def __str__(self) -> str:
        return str(self.args[0])  # where KeyError would show a repr


class ConfigError(UsageError, ValueError):
    """An option has a value it cannot have."""


class WorkError(LilliputError):
    """The call was right and the work failed."""


class EditError(WorkError, ValueError):
    """An edit does not fit the model it is performed on."""


class ModelError(WorkError):
    """A model, its weights or its architecture cannot be used."""


class DataError(WorkError):
    """Images, labels or splits cannot be used."""


class TrainError(WorkError):
    """Training cannot go on."""


class FormatError(WorkError, ValueError):
    """Bytes that are not a valid file."""

    def __init__(self, message: str, offset: int | None = None) -> None:
        self.offset = offset
        super().__init__(message if offset is None else f"{message} (at byte {offset})")


class ExportError(WorkError):
    """A target cannot hold or run this model."""


class BudgetError(WorkError):
    """A budget cannot be met."""


@contextmanager
def at(site: str) -> Iterator[None]:
    """Put the place in front of the message of any error raised inside: inner code says what, this says where."""
    try:
        yield
    except LilliputError as error:
        error.args = (f"{site}: {error}", *error.args[1:])
        raise
