"""Architectures by name: a decorated function is an entry, `name:option=value,…` is its spelling in text."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from lilliput.errors import ConfigError, ModelError
from lilliput.registry import Registry
from lilliput.zoo.resized import Resized

RESOLUTION = "resolution"  # an option that every architecture has


@dataclass(frozen=True)
class Architecture:
    """An entry of the zoo: how to build it, what it expects, where it comes from."""

    name: str
    build: Callable[..., nn.Module]
    input: tuple[int, int, int]
    paper: str

    @property
    def options(self) -> dict[str, Any]:
        """Option names and their defaults, read from the builder's signature."""
        return {p.name: p.default for p in inspect.signature(self.build).parameters.values()}

    @property
    def summary(self) -> str:
        """The first sentence of the builder's docstring."""
        return (inspect.getdoc(self.build) or "").split("\n")[0]


architectures: Registry[Architecture] = Registry("architecture")


def arch(
    name: str, *, input: tuple[int, int, int], paper: str
) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Register a builder. `input` is the (channels, height, width) the paper uses; `paper` its citation."""

    def decorate(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        architectures.add(name, Architecture(name, build, input, paper))
        return build

    return decorate


def create(spec: str, **options: Any) -> nn.Module:
    """Build a network from the zoo: `create("resnet20:classes=100")` or `create("resnet20", classes=100)`.

    The model carries its canonical spelling as `model.architecture` and its default input as `model.input_shape`,
    from which files and reports rebuild it.
    `resolution=24` is an option of every architecture: the images it is given are resized inside it.
    Raises `UnknownName` for a name the zoo lacks and `ConfigError` for an option the architecture lacks.
    """
    name, written = split(spec)
    entry = architectures[name]
    options = {**written, **options}
    for option in options:
        if option not in (*entry.options, RESOLUTION):
            raise ConfigError(f"{name}: no option is called `{option}`. Options: {', '.join((*entry.options, RESOLUTION))}.")
    try:
        model = entry.build(**{k: v for k, v in options.items() if k != RESOLUTION})
        model = Resized(model, options[RESOLUTION]) if RESOLUTION in options else model
    except ConfigError:
        raise
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelError(f"{name}: cannot be built with {options}: {error}") from None
    model.architecture = spell(name, options)  # type: ignore[assignment]
    channels, height, width = entry.input
    size = options.get("size", height)
    size = size if isinstance(size, int) else height  # elsewhere the option is a word such as `large`
    shape = (options.get("channels", channels), size, size if height == width else width)
    model.input_shape = shape  # type: ignore[assignment]
    return model


def names() -> list[str]:
    """The names of all architectures."""
    return list(architectures)


def split(spec: str) -> tuple[str, dict[str, Any]]:
    """`"name:a=1,b=x"` as a name and its options, values read as JSON where they are JSON.

    >>> split("mobilenet_v1:width=0.5,classes=10")
    ('mobilenet_v1', {'width': 0.5, 'classes': 10})
    """
    name, _, rest = spec.partition(":")
    options: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise ConfigError(f"`{spec}`: `{part}` is not `option=value`")
        options[key.strip()] = _value(value.strip())
    return name, options


def spell(name: str, options: dict[str, Any]) -> str:
    """The canonical spelling: sorted options, defaults left out. `split` is its inverse."""
    defaults = architectures[name].options
    kept = {k: v for k, v in sorted(options.items()) if k not in defaults or v != defaults[k]}
    return name + ":" * bool(kept) + ",".join(f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in kept.items())


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
