"""The container of a `.lil` file: a fixed start, a header in JSON, sections. docs/format.md specifies it.

    0   8   89 4C 49 4C 0D 0A 1A 0A
    8   4   version, 1 or 2
    12  4   length of the header in the file
    16  4   CRC-32 of the header in the file
    20  4   1: zero; 2: length of the header's text, which the file holds in coded form
    24      the header; then the sections (1: each from the next multiple of 64, zeros between)

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

from lilliput import kernels
from lilliput.errors import FormatError
from lilliput.store.disk import read_whole, write_whole
from lilliput.store.header import HEADER_BYTES, Header, parse

MAGIC = b"\x89LIL\r\n\x1a\n"  # no text, and a copy that changed line ends no longer has it
PLAIN, CODED = 1, 2  # versions: the header as it is and sections aligned; the header coded and nothing aligned
START = struct.Struct("<8sIIII")
ALIGN = {PLAIN: 64, CODED: 1}
EXPANSION = 256  # bytes of a header's text for each of its bytes in the file, at most

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


def write(target: str | os.PathLike[str] | BinaryIO, header: Header, payloads: Sequence[bytes], version: int = PLAIN) -> int:
    """Write a file from a header and the bytes of its sections, whose lengths and checksums are filled in here.

    Returns the size in bytes. A path is replaced only once everything is on the disk.
    Raises `WorkError` if that fails and `FormatError` for a header that no reader would take.
    """
    parts = list(_parts(header, payloads, version))
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
    header, end, align = _read_header(data)
    payloads, offsets, body = [], [], end
    for number, section in enumerate(header.sections):
        start = _aligned(end, align)
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


def _parts(header: Header, payloads: Sequence[bytes], version: int) -> Iterator[bytes]:
    rows = zip(header.sections, payloads, strict=True)
    sections = tuple(replace(s, bytes=len(data), crc32=zlib.crc32(data)) for s, data in rows)
    text = replace(header, sections=sections).to_bytes()
    kept = text if version == PLAIN else kernels.encode_text(text)
    yield START.pack(MAGIC, version, len(kept), zlib.crc32(kept), 0 if version == PLAIN else len(text))
    yield kept
    end = START.size + len(kept)
    for data in payloads:
        start = _aligned(end, ALIGN[version])
        yield bytes(start - end)
        yield data
        end = start + len(data)


def _read_header(data: memoryview) -> tuple[Header, int, int]:
    """The header, where it ends, and what sections are aligned to."""
    if bytes(data[: len(MAGIC)]) != MAGIC:
        raise FormatError("this is not a .lil file: it does not begin as one", 0)
    if len(data) < START.size:
        raise FormatError(f"the file ends within its first {START.size} bytes", len(data))
    _, version, length, checksum, last = START.unpack_from(data)
    if version not in ALIGN:
        raise FormatError(f"this is version {version}, and this reader knows version {PLAIN} and {CODED}", 8)
    if length > HEADER_BYTES or START.size + length > len(data):
        raise FormatError(f"a header of {length} bytes is over the limit of {HEADER_BYTES}, or over the end of the file", 12)
    kept = bytes(data[START.size : START.size + length])
    if zlib.crc32(kept) != checksum:
        raise FormatError("the header is damaged: its checksum differs", 16)
    if version == PLAIN and last:
        raise FormatError(f"the field at byte 20 (={last}) must be zero", 20)
    text = kept if version == PLAIN else _header_text(kept, last)
    return parse(text, START.size), START.size + length, ALIGN[version]


def _header_text(kept: bytes, length: int) -> bytes:
    if length > min(HEADER_BYTES, EXPANSION * len(kept)):
        raise FormatError(f"a header text of {length} bytes is over the limit for {len(kept)} bytes of it in the file", 20)
    try:
        return kernels.decode_text(kept, length)
    except FormatError as error:
        raise FormatError(str(error), START.size) from None


def _check_section(data: memoryview, number: int, checksum: int, span: tuple[int, int]) -> None:
    if zlib.crc32(data[slice(*span)]) != checksum:
        raise FormatError(f"section {number} is damaged: its checksum differs", span[0])


def _check_padding(data: memoryview, ends: Sequence[int], starts: Sequence[int]) -> None:
    for end, start in zip(ends, starts, strict=True):
        if any(data[end:start]):
            raise FormatError("the bytes before a section must be zero", end)


def _aligned(offset: int, align: int) -> int:
    return -(-offset // align) * align
