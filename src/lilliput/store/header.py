"""What the header of a `.lil` file says, and the limits it is held to before anything is believed.

record     architecture, edits, recipe (core/record)
sections   how the tensors are stored: encoding, type, length, checksum, and the tensors of each in order
codes      which tensors hold a quantizer's codes, and which tensors are its side information
tied       further names of tensors that several layers share
limits     how many bytes the tensors take once decoded
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from lilliput.errors import FormatError

HEADER_BYTES = 1 << 21
DEPTH = 32
SECTIONS = 1 << 12
TENSORS = 1 << 15
NAME_BYTES = 512
RANK = 8
ELEMENTS = (1 << 31) - 1  # of one tensor
DECODED_BYTES = 1 << 36
INTEGER = 1 << 63
STEPS = 1 << 24  # of a step, to either side of zero
LEAST_STEP = 2.0**-100

DTYPES = {
    "bool": 1, "uint8": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8,
    "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8,
}  # fmt: skip

_NAME = re.compile(r"[^\x00-\x1f\x7f./\\]+(\.[^\x00-\x1f\x7f./\\]+)*")
# Half of a pair that JSON can spell and UTF-8 cannot; the backslash before it must not itself be escaped.
_SURROGATE = re.compile(r"(?<!\\)(?:\\\\)*\\u[dD][89a-fA-F]")


@dataclass(frozen=True)
class Entry:
    """One tensor of a section. Its elements are whole numbers within `bounds`, or without them patterns of its type.

    With a `step`, what is meant is each number times the step.
    """

    name: str
    shape: tuple[int, ...]
    bounds: tuple[int, int] | None = None
    step: float | None = None

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    def to_json(self) -> list[Any]:
        """`[name, shape]`, `[name, shape, low, high]` or `[name, shape, low, high, step]`."""
        return [self.name, list(self.shape), *(self.bounds or ()), *([] if self.step is None else [self.step])]


@dataclass(frozen=True)
class Section:
    """Tensors of one type, stored together by one encoding. `bytes` and `crc32` describe what lies in the file."""

    codec: str
    dtype: str
    entries: tuple[Entry, ...]
    params: dict[str, Any] = field(default_factory=dict)
    bytes: int = 0
    crc32: int = 0

    def to_json(self) -> dict[str, Any]:
        """The row of the section table; empty parameters are left out."""
        row = {"codec": self.codec, "dtype": self.dtype, "bytes": self.bytes, "crc32": self.crc32}
        return {
            **row,
            "tensors": [e.to_json() for e in self.entries],
            **({"params": self.params} if self.params else {}),
        }


@dataclass(frozen=True)
class Header:
    """Everything a `.lil` file holds beside the bytes of its sections."""

    record: dict[str, Any]
    sections: tuple[Section, ...] = ()
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    tied: dict[str, str] = field(default_factory=dict)

    @property
    def decoded(self) -> int:
        """Bytes of all tensors in memory."""
        return sum(entry.elements * DTYPES[section.dtype] for section, entry in self.tensors())

    def tensors(self) -> Iterator[tuple[Section, Entry]]:
        """Every tensor with the section it lies in, in the order of the file."""
        return ((section, entry) for section in self.sections for entry in section.entries)

    def to_bytes(self) -> bytes:
        """The canonical JSON: sorted keys, no spaces, UTF-8. Raises `FormatError` for what a header cannot hold."""
        value = {
            "record": self.record, "sections": [s.to_json() for s in self.sections], "codes": self.codes,
            "tied": self.tied, "limits": {"decoded": self.decoded},
        }  # fmt: skip
        try:
            text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
            data = text.encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise FormatError(f"the record cannot be written as JSON: {error}") from None
        parse(data)  # what this writes must be what a reader takes
        return data


def parse(data: bytes, start: int = 0) -> Header:
    """Read a header that begins at byte `start` of its file. Raises `FormatError` unless it keeps every rule."""
    value = _json(data, start)
    try:
        header = _header(value)
        _check_names(header)
        _check_limits(header, value["limits"])
    except FormatError as error:
        raise FormatError(str(error), start) from None
    return header


def _json(data: bytes, start: int) -> Any:
    if len(data) > HEADER_BYTES:
        raise FormatError(f"the header has {len(data)} bytes, over the limit of {HEADER_BYTES}", start)
    try:
        text = data.decode()
        value = json.loads(text, object_pairs_hook=_unique, parse_int=_whole, parse_float=_finite, parse_constant=_no_constant)
        _check_depth(value)
    except UnicodeDecodeError as error:
        raise FormatError(f"the header is not UTF-8: {error.reason}", start + error.start) from None
    except json.JSONDecodeError as error:
        raise FormatError(f"the header is not JSON: {error.msg}", start + len(text[: error.pos].encode())) from None
    except RecursionError:
        raise FormatError(f"the header is nested over {DEPTH} deep", start) from None
    except FormatError as error:
        raise FormatError(str(error), start) from None
    if surrogate := _SURROGATE.search(text):
        raise FormatError("the header escapes half a character", start + len(text[: surrogate.start()].encode()))
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise FormatError(f"the header says `{_brief(twice)}` twice")
    return found


def _whole(text: str) -> int:
    if len(text) > 20 or not -INTEGER <= int(text) < INTEGER:
        raise FormatError(f"`{text[:30]}` does not fit in 64 bits")
    return int(text)


def _finite(text: str) -> float:
    if len(text) > 40 or not math.isfinite(float(text)):
        raise FormatError(f"`{text[:30]}` is not a finite number")
    return float(text)


def _no_constant(text: str) -> float:
    raise FormatError(f"`{text}` is not a finite number")


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEPTH):
        lists = [each.values() if type(each) is dict else each for each in level if type(each) in (dict, list)]
        level = [part for each in lists for part in each]
    if level:
        raise FormatError(f"the header is nested over {DEPTH} deep")


def _header(value: Any) -> Header:
    _keys(value, {"record", "sections", "codes", "tied", "limits"}, set(), "the header")
    rows = _of(list, value["sections"], "`sections`")
    if len(rows) > SECTIONS:
        raise FormatError(f"there are {len(rows)} sections, over the limit of {SECTIONS}")
    return Header(
        _of(dict, value["record"], "`record`"),
        tuple(_section(row) for row in rows),
        {
            name: _texts(side, f"the side tensors of `{_brief(name)}`")
            for name, side in _of(dict, value["codes"], "`codes`").items()
        },
        _texts(value["tied"], "`tied`"),
    )


def _section(row: Any) -> Section:
    _keys(row, {"codec", "dtype", "bytes", "crc32", "tensors"}, {"params"}, "a section")
    dtype = _of(str, row["dtype"], "`dtype`")
    if dtype not in DTYPES:
        raise FormatError(f"no type of number is called `{_brief(dtype)}`; there are {', '.join(DTYPES)}")
    tensors = _of(list, row["tensors"], "`tensors`")
    _check_count(len(tensors))
    entries = tuple(_entry(each, dtype) for each in tensors)
    if any(a.name >= b.name for a, b in pairwise(entries)):
        raise FormatError("the tensors of a section must stand in the order of their names, each once")
    if not 0 <= _of(int, row["bytes"], "`bytes`") or not 0 <= _of(int, row["crc32"], "`crc32`") < 1 << 32:
        raise FormatError("`bytes` or `crc32` of a section is out of range")
    params = _of(dict, row.get("params", {}), "`params`")
    return Section(_of(str, row["codec"], "`codec`"), dtype, entries, params, row["bytes"], row["crc32"])


def _check_count(tensors: int) -> None:
    if tensors > TENSORS:
        raise FormatError(f"there are {tensors} tensors, over the limit of {TENSORS}")


def _entry(value: Any, dtype: str) -> Entry:
    if not isinstance(value, list) or len(value) not in (2, 4, 5):
        raise FormatError(f"`{_brief(value)}` is not `[name, shape]` or `[name, shape, low, high]`, with a step or without")
    name, shape = _name(value[0]), _of(list, value[1], "a shape")
    if len(shape) > RANK or not all(type(n) is int and 0 <= n <= ELEMENTS for n in shape):
        raise FormatError(f"{name}: `{_brief(shape)}` is not a shape of at most {RANK} sizes")
    if math.prod(max(n, 1) for n in shape) > ELEMENTS:
        raise FormatError(f"{name}: shape `{_brief(shape)}` has over {ELEMENTS} elements")
    bounds = (_of(int, value[2], "a bound"), _of(int, value[3], "a bound")) if len(value) > 2 else None
    step = _step(name, value[4], dtype) if len(value) == 5 else None
    _check_bounds(name, bounds, dtype if step is None else "step")
    return Entry(name, tuple(shape), bounds, step)


def _step(name: str, value: Any, dtype: str) -> float:
    """A positive normal number of single precision, which only tensors of that have."""
    step = float(_of(float, value, "a step"))
    if dtype != "float32" or not LEAST_STEP <= step < 1 / LEAST_STEP or not _is_single(step):
        raise FormatError(f"{name}: `{step}` is not a step of float32 numbers, or these are {dtype}")
    return step


def _is_single(number: float) -> bool:
    return bool(struct.unpack("<f", struct.pack("<f", number))[0] == number)


def _check_bounds(name: str, bounds: tuple[int, int] | None, dtype: str) -> None:
    """Whole numbers of a float or boolean type are 0 and 1; of an integer type they lie in its range; steps have 2^24."""
    if bounds is None:
        if dtype == "bool":
            raise FormatError(f"{name}: booleans are stored with the bounds 0 and 1")
        return
    if dtype == "step":
        lowest, highest = -STEPS, STEPS
    elif "float" in dtype or dtype == "bool":
        lowest, highest = 0, 1
    else:
        bits = 8 * DTYPES[dtype]
        lowest, highest = (0, 255) if dtype == "uint8" else (-(1 << bits - 1), (1 << bits - 1) - 1)
    if not lowest <= bounds[0] <= bounds[1] <= highest:
        raise FormatError(f"{name}: bounds `{list(bounds)}` are not within {lowest} and {highest}, the range of {dtype}")


def _check_limits(header: Header, limits: Any) -> None:
    _keys(limits, {"decoded"}, set(), "`limits`")
    if _of(int, limits["decoded"], "`decoded`") != header.decoded or header.decoded > DECODED_BYTES:
        raise FormatError(f"`decoded` (={limits['decoded']}) is not what the tensors take (={header.decoded} bytes)")


def _check_names(header: Header) -> None:
    """Each name once; whatever is referred to exists."""
    bounded = {entry.name: entry.bounds is not None for _, entry in header.tensors()}
    count = sum(len(section.entries) for section in header.sections)
    _check_count(count)
    if len(bounded) < count:
        raise FormatError("a tensor stands in two sections")
    for alias, name in header.tied.items():
        if _name(alias) in bounded or name not in bounded:
            raise FormatError(f"`{_brief(alias)}` cannot be another name of `{_brief(name)}`")
    for name, side in header.codes.items():
        if not bounded.get(name, False) or not side.keys().isdisjoint({""}) or not bounded.keys() >= set(side.values()):
            raise FormatError(f"`{_brief(name)}` is not a tensor of codes with side tensors that exist")


def _name(value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value) or len(value.encode()) > NAME_BYTES:
        raise FormatError(f"`{_brief(value)}` is not the name of a tensor: parts of plain characters, joined by dots")
    return value


def _texts(value: Any, what: str) -> dict[str, str]:
    return {name: _of(str, text, what) for name, text in _of(dict, value, what).items()}


def _keys(value: Any, needed: set[str], allowed: set[str], what: str) -> None:
    if not isinstance(value, dict) or not needed <= value.keys() <= needed | allowed:
        raise FormatError(f"{what} is not an object with exactly {', '.join(sorted(needed))}")


def _of(kind: type, value: Any, what: str) -> Any:
    if type(value) is not kind:
        raise FormatError(f"{what} (={_brief(value)}) is not of the JSON type that stands for `{kind.__name__}`")
    return value


def _brief(value: Any) -> str:
    text = str(value)
    return one_line(text if len(text) <= 60 else text[:59] + "…")


def one_line(text: str) -> str:
    """A text from a file, fit for a message: what is not printable becomes a question mark."""
    return "".join(c if c.isprintable() else "?" for c in text)
