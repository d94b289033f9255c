"""Named things: a decorator puts an entry in a registry, `discover` imports a folder so that its decorators run."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from lilliput.errors import UnknownName

T = TypeVar("T")


class Registry(Generic[T]):
    """A table from names to entries of one kind.

    >>> shapes: Registry[int] = Registry("shape")
    >>> _ = shapes.add("square", 4)
    >>> shapes["square"]
    4
    >>> shapes["sqare"]
    Traceback (most recent call last):
    lilliput.errors.UnknownName: no shape is called `sqare`. Did you mean `square`?
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T) -> T:
        """Register `entry`; a second entry of one name is a programming error."""
        if name in self._entries:
            raise ValueError(f"{self.kind} `{name}` is registered twice: {self._entries[name]!r} and {entry!r}")
        self._entries[name] = entry
        return entry

    def register(self, name: str) -> Callable[[T], T]:
        """The decorator form of `add`."""
        return lambda entry: self.add(name, entry)

    def __getitem__(self, name: str) -> T:
        try:
            return self._entries[name]
        except KeyError:
            raise UnknownName(self.kind, name, self._entries) from None

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def items(self) -> list[tuple[str, T]]:
        """All entries in the order of their names."""
        return sorted(self._entries.items(), key=lambda item: item[0])


def discover(package: str, path: Iterable[str]) -> None:
    """Import every module of a package's folder: `discover(__name__, __path__)` in its `__init__`."""
    for module in sorted(pkgutil.iter_modules(path), key=lambda m: m.name):
        importlib.import_module(f"{package}.{module.name}")
