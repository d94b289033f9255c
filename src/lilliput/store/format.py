"""The container of a `.lil` file: a fixed start, a header in JSON, aligned sections. docs/format.md specifies it.

    0   8   89 4C 49 4C 0D 0A 1A 0A
    8   4   version, 1
    12  4   length of the header
    16  4   CRC-32 of the header
    20  4   zero
    24      the header; then the sections, each from the next multiple of 64, zeros between

Offsets are not stored: a section begins where the one before it ends, rounded up. Holes and overlaps cannot be said.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from lilliput.errors import FormatError
from lilliput.store.disk import read_whole, write_whole
from lilliput.store.header import HEADER_BYTES, Header, parse

MAGIC = b"\x89LIL\r\n\x1a\n"  # no text, and a copy that changed line ends no longer has it
VERSION = 1
START = struct.Struct("<8sIIII")
ALIGN = 64

Source = str | os.PathLike[str] | bytes


def called(source: Source) -> str:
    """What to call a source in messages."""
    return "these bytes" if isinstance(source, bytes) else str(source)


@dataclass(frozen=True)
class Content:
    """A file taken apart: its header, the bytes of each section, where they began, and where the header ended."""

    header: Header
    payloads: tuple[memoryview, ...]
    offsets: tuple[int, ...]
    body: int
    size: int


def write(target: str | os.PathLike[str] | BinaryIO, header: Header, payloads: Sequence[bytes]) -> int:
    """Write a file from a header and the bytes of its sections, whose lengths and checksums are filled in here.

    Returns the size in bytes. A path is replaced only once everything is on the disk.
    Raises `WorkError` if that fails and `FormatError` for a header that no reader would take.
    """
    parts = list(_parts(header, payloads))
    if isinstance(target, str | os.PathLike):
        write_whole(Path(target), parts)
    else:
        target.writelines(parts)
    return sum(len(part) for part in parts)


def read(source: Source) -> Content:
    """Take a file, or its bytes, apart, with every length, checksum and padding byte checked.

    Raises `FormatError` with the offset for anything that is not a `.lil` file, `ModelError` if a path cannot be read.
    """
    data = memoryview(source if isinstance(source, bytes) else read_whole(Path(source)))
    header, end = _read_header(data)
    payloads, offsets, body = [], [], end
    for number, section in enumerate(header.sections):
        start = _aligned(end)
        end = start + section.bytes
        if end > len(data):
            raise FormatError(f"section {number} ends at byte {end} of a file of {len(data)}", min(start, len(data)))
        _check_section(data, number, section.crc32, (start, end))
        payloads.append(data[start:end])
        offsets.append(start)
    _check_padding(data, [body, *(o + len(p) for o, p in zip(offsets, payloads, strict=True))], [*offsets, end])
    if end != len(data):
        raise FormatError(f"{len(data) - end} bytes follow the last section", end)
    return Content(header, tuple(payloads), tuple(offsets), body, len(data))


def _parts(header: Header, payloads: Sequence[bytes]) -> Iterator[bytes]:
    rows = zip(header.sections, payloads, strict=True)
    sections = tuple(replace(s, bytes=len(data), crc32=zlib.crc32(data)) for s, data in rows)
    text = replace(header, sections=sections).to_bytes()
    yield START.pack(MAGIC, VERSION, len(text), zlib.crc32(text), 0)
    yield text
    end = START.size + len(text)
    for data in payloads:
        yield bytes(_aligned(end) - end)
        yield data
        end = _aligned(end) + len(data)


def _read_header(data: memoryview) -> tuple[Header, int]:
    if bytes(data[: len(MAGIC)]) != MAGIC:
        raise FormatError("this is not a .lil file: it does not begin as one", 0)
    if len(data) < START.size:
        raise FormatError(f"the file ends within its first {START.size} bytes", len(data))
    _, version, length, checksum, zero = START.unpack_from(data)
    if version != VERSION:
        raise FormatError(f"this is version {version}, and this reader knows version {VERSION}", 8)
    if length > HEADER_BYTES or START.size + length > len(data):
        raise FormatError(f"a header of {length} bytes is over the limit of {HEADER_BYTES}, or over the end of the file", 12)
    text = bytes(data[START.size : START.size + length])
    if zlib.crc32(text) != checksum:
        raise FormatError("the header is damaged: its checksum differs", 16)
    if zero:
        raise FormatError(f"the field at byte 20 (={zero}) must be zero", 20)
    return parse(text, START.size), START.size + length


def _check_section(data: memoryview, number: int, checksum: int, span: tuple[int, int]) -> None:
    if zlib.crc32(data[slice(*span)]) != checksum:
        raise FormatError(f"section {number} is damaged: its checksum differs", span[0])


def _check_padding(data: memoryview, ends: Sequence[int], starts: Sequence[int]) -> None:
    for end, start in zip(ends, starts, strict=True):
        if any(data[end:start]):
            raise FormatError("the bytes before a section must be zero", end)


def _aligned(offset: int) -> int:
    return -(-offset // ALIGN) * ALIGN
