"""Frozen values with a canonical text: methods, fits and recipes are hashed, printed, stored and read back by it.

    prune.channels(criterion=taylor, keep=0.5)

Fields stand in sorted order and defaults are left out, so that an id survives the arrival of a new option.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import typing
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar, dataclass_transform

from lilliput.errors import ConfigError, UnknownName, at
from lilliput.registry import Registry

C = TypeVar("C", bound="type[Config]")
_BARE = re.compile(r"[A-Za-z_][\w.\-/]*\Z")
_WORDS = {"none": None, "true": True, "false": False}


class Config:
    """A frozen value. Constructors store; whatever can be wrong is checked when the value is used, or by `check`."""

    name: ClassVar[str]

    def fields(self) -> dict[str, Any]:
        """The fields that differ from their defaults, sorted by name."""
        own = {f.name: f for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        values = {name: getattr(self, name) for name in sorted(own)}
        return {name: v for name, v in values.items() if not _is_default(own[name], v)}

    def text(self) -> str:
        """The canonical text; `parse(c.text()) == c`."""
        return f"{self.name}({', '.join(f'{k}={_text(v)}' for k, v in self.fields().items())})"

    def id(self) -> str:
        """Twelve hexadecimal digits of the canonical text's SHA-256."""
        return hashlib.sha256(self.text().encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        """`{name: {field: value}}` with plain JSON values; `from_json` is its inverse."""
        return {self.name: {k: _to_json(v) for k, v in self.fields().items()}}

    def check(self) -> None:
        """Raise `ConfigError` for values that can never work. Called wherever a config is read from text."""

    def __str__(self) -> str:
        return self.text()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """A field of a config type takes an instance, which `from_json` has built and checked already."""
        from pydantic_core import core_schema

        return core_schema.is_instance_schema(cls)


configs: Registry[type[Config]] = Registry("method or step")


@dataclass_transform(frozen_default=True, kw_only_default=False)
def config(name: str) -> Callable[[C], C]:
    """Make a class a frozen dataclass and register it under `name`, by which texts, recipes and the command line find it."""

    def decorate(cls: C) -> C:
        frozen = dataclasses.dataclass(frozen=True, repr=False)(cls)
        frozen.name = name
        frozen.__repr__ = frozen.__str__  # type: ignore[assignment, method-assign]
        return configs.add(name, frozen)  # type: ignore[return-value]

    return decorate


def from_json(value: Any) -> Any:
    """Rebuild a config (or a plain value) from what `to_json` wrote, with every field checked."""
    if isinstance(value, dict) and len(value) == 1:
        ((name, fields),) = value.items()
        if name in configs or (isinstance(fields, dict) and str(name).replace(".", "").isidentifier()):
            return _build(str(name), fields or {})
    if isinstance(value, list | tuple):
        return tuple(from_json(v) for v in value)
    if isinstance(value, dict):
        return {str(k): from_json(v) for k, v in value.items()}
    return value


def parse(text: str) -> Any:
    """Read a canonical text.

    >>> parse("[1, 2.5, true, none, word, {a: 1}]")
    (1, 2.5, True, None, 'word', {'a': 1})
    """
    parser = _Parser(text)
    value = parser.value()
    parser.end()
    return value


def _build(name: str, fields: Any) -> Config:
    cls = configs[name]
    if not isinstance(fields, dict):
        raise ConfigError(f"{name}: options are written as names and values, not as `{fields!r}`")
    known = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for field in fields:
        if field not in known:
            raise ConfigError(f"{name}: {UnknownName('option', str(field), known)}")
    types = typing.get_type_hints(cls)
    with at(name):
        built = cls(**{k: _checked(k, types[k], from_json(v)) for k, v in fields.items()})
        built.check()
    return built


def _checked(field: str, annotation: Any, value: Any) -> Any:
    from pydantic import TypeAdapter, ValidationError  # heavy, and needed only where configs come from text

    try:
        return TypeAdapter(annotation).validate_python(value)
    except ValidationError as error:
        raise ConfigError(f"`{field}` (={value!r}): {error.errors()[0]['msg']}") from None


def _is_default(field: dataclasses.Field[Any], value: Any) -> bool:
    if field.default is not dataclasses.MISSING:
        return bool(value == field.default) and type(value) is type(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return bool(value == field.default_factory())
    return False


def _to_json(value: Any) -> Any:
    if isinstance(value, Config):
        return value.to_json()
    if isinstance(value, list | tuple):
        return [_to_json(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _to_json(v) for k, v in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(f"a config holds plain values; `{value!r}` is a {type(value).__name__}")


def _text(value: Any) -> str:
    if isinstance(value, Config):
        return value.text()
    if isinstance(value, str):
        return value if _BARE.match(value) and value not in _WORDS else json.dumps(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_text(v) for v in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_text(str(k))}: {_text(value[k])}' for k in sorted(value))}}}"
    return str(json.dumps(_to_json(value))).replace("null", "none")


class _Parser:
    """Recursive descent over the canonical text."""

    _TOKEN = re.compile(
        r"""\s*(?:("(?:[^"\\]|\\.)*")|(-?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|Infinity)|NaN)|([A-Za-z_][\w.\-/]*)|(.))"""
    )

    def __init__(self, text: str) -> None:
        self.text, self.tokens = text, [m.groups() for m in self._TOKEN.finditer(text.strip())]
        self.at = 0

    def fail(self, wanted: str) -> ConfigError:
        return ConfigError(f"`{self.text}`: expected {wanted} at part {self.at + 1}")

    def peek(self) -> str | None:
        return self.tokens[self.at][3] if self.at < len(self.tokens) else None

    def take(self, mark: str) -> None:
        if self.peek() != mark:
            raise self.fail(f"`{mark}`")
        self.at += 1

    def end(self) -> None:
        if self.at != len(self.tokens):
            raise self.fail("the end")

    def value(self) -> Any:
        if self.at >= len(self.tokens):
            raise self.fail("a value")
        quoted, number, word, mark = self.tokens[self.at]
        if mark == "[":
            return tuple(self.items("[", "]", self.value))
        if mark == "{":
            return dict(self.items("{", "}", lambda: self.pair(":")))
        self.at += 1
        if quoted is not None or number is not None:
            return json.loads(quoted if quoted is not None else number)
        if word is None:
            self.at -= 1
            raise self.fail("a value")
        if self.peek() == "(":
            return _build(word, dict(self.items("(", ")", lambda: self.pair("="))))
        return _WORDS.get(word, word)

    def pair(self, mark: str) -> tuple[str, Any]:
        key = self.value()
        self.take(mark)
        return str(key), self.value()

    def items(self, start: str, stop: str, item: Callable[[], Any]) -> list[Any]:
        self.take(start)
        found: list[Any] = []
        while self.peek() != stop:
            found.append(item())
            if self.peek() != stop:
                self.take(",")
        self.take(stop)
        return found
