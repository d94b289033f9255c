"""Schemes: what a paper puts on the weights of a layer and what on its inputs, by the name of the paper's network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from lilliput.registry import Registry

ENDS = ("first", "last", "shortcuts")
"""What the literature on binary and ternary networks leaves real."""

Spec = Callable[[nn.Module, int], dict[str, Any]]


@dataclass(frozen=True)
class Scheme:
    """A row of the table of `quant.low_bit`.

    weight, input: the maps, with their specs for a layer and a width. swap: a compressed layer that goes in first; the maps
    then stand on its `layer`. widths, input_widths: the bits there are; bits, activations: the paper's (32: left alone).
    skip: what the paper leaves real. spatial: whether it serves kernels larger than 1x1 alone.
    """

    weight: str
    spec: Spec
    widths: tuple[int, ...]
    bits: int
    input: str | None = None
    input_spec: Spec = lambda layer, bits: {}
    input_widths: tuple[int, ...] = ()
    activations: int = 32
    swap: str | None = None
    skip: tuple[str, ...] = ENDS
    spatial: bool = False


schemes: Registry[Scheme] = Registry("scheme")


def plain(layer: nn.Module, bits: int) -> dict[str, Any]:
    """The spec of a map that has one width."""
    return {}


def wide(layer: nn.Module, bits: int) -> dict[str, Any]:
    """The spec of a map with a choice of widths."""
    return {"bits": bits}


def channels(layer: nn.Module, bits: int) -> dict[str, Any]:
    """The spec of a map with a number for each input channel."""
    linear = isinstance(layer, nn.Linear)
    return {"channels": layer.in_features if linear else layer.in_channels, "axis": -1 if linear else 1}
