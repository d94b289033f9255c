"""The three edits all compression is made of. Edits are data: JSON out, JSON in, printed, hashed, replayed.

Resize   keep these channels of a layer
Swap     put a compressed layer where a dense one stood
Map      let a layer use map(tensor) instead of tensor: a mask, a quantizer, a sign
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lilliput.errors import EditError


@dataclass(frozen=True)
class Resize:
    """Keep the channels `keep` (indices before the edit, ascending) on one axis of the layer at `site`.

    `axis` is "in" or "out". A norm, a PReLU or a depthwise convolution has one set of channels: "out". In a grouped
    convolution a group whose outputs all go takes its inputs along. Where `site` is a bare parameter or buffer,
    `axis` is the number of its dimension.
    """

    site: str
    axis: str
    keep: tuple[int, ...]

    def __str__(self) -> str:
        return f"resize {self.site} {self.axis} to {len(self.keep)}: {spans(self.keep)}"


@dataclass(frozen=True)
class Swap:
    """Put the registered compressed layer `layer`, shaped by `spec` (plain JSON values), at `site`."""

    site: str
    layer: str
    spec: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"swap {self.site} for {self.layer}{_brief(self.spec)}"


@dataclass(frozen=True)
class Map:
    """Append the registered map `map` to those of a tensor of the layer at `site`: its "weight", "input" or "output"."""

    site: str
    tensor: str
    map: str
    spec: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"map {self.site} {self.tensor} through {self.map}{_brief(self.spec)}"


Edit = Resize | Swap | Map


def to_json(edits: Iterable[Edit]) -> list[dict[str, Any]]:
    """Edits as plain JSON values, kept channels written as spans (`"0-3,7"`); `from_json` is the inverse."""
    return [_edit_to_json(edit) for edit in edits]


def from_json(values: Sequence[dict[str, Any]]) -> tuple[Edit, ...]:
    """Read what `to_json` wrote. Raises `EditError` for anything else."""
    return tuple(_edit_from_json(value) for value in values)


def digest(edits: Iterable[Edit]) -> str:
    """Twelve hexadecimal digits that name a list of edits."""
    return hashlib.sha256(json.dumps(to_json(edits), sort_keys=True).encode()).hexdigest()[:12]


def spans(keep: Sequence[int]) -> str:
    """Ascending indices as spans.

    >>> spans((0, 1, 2, 5))
    '0-2,5'
    """
    parts: list[list[int]] = []
    for i in keep:
        if parts and parts[-1][1] == i - 1:
            parts[-1][1] = i
        else:
            parts.append([i, i])
    return ",".join(f"{a}-{b}" if a < b else f"{a}" for a, b in parts)


def unspan(text: str, limit: int = 1 << 20) -> tuple[int, ...]:
    """The inverse of `spans`; refuses more than `limit` indices, so that a short text cannot claim a huge layer.

    >>> unspan("0-2,5")
    (0, 1, 2, 5)
    """
    keep: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        if not (first.isdigit() and (last or first).isdigit()):
            raise EditError(f"`{part}` is not a span of channels such as `3` or `0-7`")
        low, high = int(first), int(last or first)
        if low > high or (keep and low <= keep[-1]) or len(keep) + high - low >= limit:
            raise EditError(f"spans of channels must ascend and hold at most {limit} indices; `{part}` does not")
        keep.extend(range(low, high + 1))
    return tuple(keep)


def _brief(spec: dict[str, Any], width: int = 60) -> str:
    text = ", ".join(f"{k}={v}" for k, v in sorted(spec.items()))
    return f" ({text if len(text) <= width else text[: width - 1] + '…'})" if spec else ""


def _edit_to_json(edit: Edit) -> dict[str, Any]:
    if isinstance(edit, Resize):
        return {"edit": "resize", "site": edit.site, "axis": edit.axis, "keep": spans(edit.keep)}
    if isinstance(edit, Swap):
        return {"edit": "swap", "site": edit.site, "layer": edit.layer, "spec": edit.spec}
    return {"edit": "map", "site": edit.site, "tensor": edit.tensor, "map": edit.map, "spec": edit.spec}


def _edit_from_json(value: dict[str, Any]) -> Edit:
    try:
        kind, site = value["edit"], str(value["site"])
        if kind == "resize":
            return Resize(site, str(value["axis"]), unspan(value["keep"]))
        if kind == "swap":
            return Swap(site, str(value["layer"]), dict(value["spec"]))
        if kind == "map":
            return Map(site, str(value["tensor"]), str(value["map"]), dict(value["spec"]))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, EditError):
            raise
        raise EditError(f"`{str(value)[:80]}` is not an edit: {error!r}") from None
    raise EditError(f"no edit is called `{kind}`; there are resize, swap and map")
