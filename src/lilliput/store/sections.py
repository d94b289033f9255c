"""Tensors gathered into sections by encoding and type, and taken out of them again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

from lilliput.errors import FormatError, LilliputError
from lilliput.store.codec import Array, Bits, Piece, coder
from lilliput.store.format import Content
from lilliput.store.header import Entry, Section, one_line
from lilliput.store.tensors import Stored, piece, stepped, tensor

CODERS = ("context", "huffman", "plain")


def pack(tensors: Mapping[str, Stored], coder_name: str = "plain") -> tuple[tuple[Section, ...], list[bytes]]:
    """Sections and their bytes, each type by itself, names in order.

    `plain`: whole numbers as packed bits, all else as it is. `context` and `huffman`: everything by that encoding, and
    floats that are multiples of a step as whole numbers. One section for all tensors of a type, so that a network of many
    small tensors does not pay for alignment, and that they learn from one another.
    """
    if coder_name != "plain":
        tensors = {name: stepped(held) for name, held in tensors.items()}
    groups: dict[tuple[str, str], list[str]] = {}
    for name in sorted(tensors):
        groups.setdefault((_codec(tensors[name], coder_name), tensors[name].dtype), []).append(name)
    sections, payloads = [], []
    for (codec, dtype), names in sorted(groups.items()):
        entries = tuple(tensors[name].entry(name) for name in names)
        pieces = [piece(entry, dtype) for entry in entries]
        sections.append(Section(codec, dtype, entries))
        payloads.append(coder(codec, {}).encode([tensors[name].array() for name in names], pieces))
    return tuple(sections), payloads


def unpack(content: Content) -> Iterator[tuple[Entry, Tensor]]:
    """Every tensor of a file with its entry. Raises `FormatError` with the section's offset for bytes that are none."""
    for section, data, offset in zip(content.header.sections, content.payloads, content.offsets, strict=True):
        with blame(offset):
            arrays = coder(section.codec, section.params).decode(data, _pieces(section))
            yield from [(e, tensor(a, e, section.dtype)) for e, a in zip(section.entries, arrays, strict=True)]


def numbers(content: Content) -> Iterator[tuple[Entry, Array]]:
    """Every tensor's entry with its whole numbers or bit patterns."""
    for section, data, offset in zip(content.header.sections, content.payloads, content.offsets, strict=True):
        with blame(offset):
            arrays = coder(section.codec, section.params).decode(data, _pieces(section))
        yield from zip(section.entries, arrays, strict=True)


def shares(content: Content) -> Iterator[tuple[Entry, int]]:
    """Every tensor's entry with the bytes it takes."""
    for section, data, offset in zip(content.header.sections, content.payloads, content.offsets, strict=True):
        with blame(offset):
            counts = coder(section.codec, section.params).shares(data, _pieces(section))
            if sum(counts) != len(data):
                raise FormatError(f"the tensors of this section take {sum(counts)} bytes, and it has {len(data)}")
        yield from zip(section.entries, counts, strict=True)


@contextmanager
def blame(offset: int) -> Iterator[None]:
    """Whatever is raised inside is the fault of the bytes at this offset: it becomes a `FormatError` that says so."""
    try:
        yield
    except LilliputError as error:
        if isinstance(error, FormatError) and error.offset is not None:
            raise
        raise FormatError(one_line(str(error)[:500]), offset) from None
    except Exception as error:  # a file may say anything, and what that provokes is not known beforehand
        first = one_line(str(error).split("\n")[0][:200])
        raise FormatError(f"what the file describes does not work: {type(error).__name__}: {first}", offset) from error


def _codec(stored: Stored, coder_name: str) -> str:
    if coder_name != "plain":
        return coder_name
    if stored.bounds is None:
        return "plain"
    return "bits" if Piece((), *stored.bounds).width <= Bits.WIDEST else "plain"


def _pieces(section: Section) -> list[Piece]:
    return [piece(entry, section.dtype) for entry in section.entries]
