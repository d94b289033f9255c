"""docs/format.md: its example runs, and its numbers are those of the code."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

from lilliput.kernels import entropy
from lilliput.store import codecs, file, guard, header
from lilliput.store.format import ALIGN, CODED, EXPANSION, MAGIC, PLAIN
from lilliput.store.rebuild import LARGEST, LONGEST

PAGE = Path(__file__).parents[2] / "docs" / "format.md"


def test_the_example_is_what_is_written() -> None:
    failed, tried = doctest.testfile(str(PAGE), module_relative=False, optionflags=doctest.FAIL_FAST)
    assert tried > 10 and not failed


def test_the_page_names_the_limits_of_the_code() -> None:
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    for phrase in [
        f"Header {header.HEADER_BYTES >> 20} MiB, nested {header.DEPTH} deep; {header.SECTIONS:,} sections",
        f"{header.TENSORS:,} tensors; names of {header.NAME_BYTES} bytes; {header.RANK} dimensions",
        f"2^{(header.ELEMENTS + 1).bit_length() - 1} − 1 elements a tensor; {header.DECODED_BYTES >> 30} GiB decoded",
        f"{file.EDITS:,} edits that name at most 2^{file.KEPT.bit_length() - 1} channels",
        f"at most 2^{LARGEST.bit_length() - 1} elements before its edits",
        f"at most 2^{LONGEST.bit_length() - 1} in a dimension; {guard.OPERATIONS:,} tensor operations",
        f"next multiple of {ALIGN[PLAIN]}",
        f"`{MAGIC.hex(' ').upper()}`",
        f"version {PLAIN} and {CODED}",
        f"*N* ≤ {EXPANSION} *H*",
        f"a byte for every {entropy.PER_BYTE:,} numbers",
        f"within ±2^{header.STEPS.bit_length() - 1}",
    ]:
        assert phrase in text, phrase


def test_the_page_names_every_type_and_every_encoding() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in [*header.DTYPES, *codecs]:
        assert f"`{name}`" in text, name
    named = set(re.findall(r"^- `(\w+)`:", text, flags=re.MULTILINE))
    assert named == set(codecs)
