"""Fuzz everything that reads a `.lil` file: `python tests/fuzz_load.py CORPUS -max_total_time=600` (pip install atheris).

An input is tried as it is, and once more with its checksums mended, so that mutations get behind them. What must never
happen: any exception but `FormatError`, a `FormatError` without an offset, two seconds of work (-timeout=2).
CORPUS is a folder; if it is empty, sample files are put there first.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import atheris

ROOT = Path(__file__).parent
sys.path[:0] = [str(ROOT), str(ROOT.parent / "src")]

with atheris.instrument_imports(include=["lilliput"]):
    from lilliput.errors import FormatError
    from lilliput.store import account, load, read_record, save

import torch  # noqa: E402 - after the modules to be watched, which import it in turn
from lil_samples import RESIZES, START, forge, small  # noqa: E402


def one_input(data: bytes) -> None:
    """Every reader on one input, and on what mending makes of it."""
    for candidate in (data, mended(data)):
        for read in (load, account, read_record):
            try:
                read(candidate)
            except FormatError as error:
                assert error.offset is not None, error


def mended(data: bytes) -> bytes:
    """The same claims with checksums, lengths and magic that are right."""
    length = START.unpack_from(data)[2] if len(data) >= START.size else 0
    text, rest = data[START.size : START.size + length], data[START.size + length :]
    said = None
    with contextlib.suppress(ValueError, RecursionError):
        said = json.loads(text)
    rows = said.get("sections") if isinstance(said, dict) else None
    if not isinstance(rows, list):
        return forge(text)
    payloads, end = [], START.size + length
    for row in rows:
        size = row.get("bytes") if isinstance(row, dict) else None
        start = -(-end // 64) * 64 - START.size - length
        payloads.append(rest[start : start + size] if type(size) is int and 0 <= size <= len(rest) else b"")
        end = start + START.size + length + len(payloads[-1])
    return forge(said, payloads)


def fill(corpus: Path) -> None:
    """Sample files for an empty corpus."""
    corpus.mkdir(parents=True, exist_ok=True)
    if not any(corpus.iterdir()):
        for name, edits in {"plain": (), "resized": RESIZES, "mapped": None}.items():
            model = small(edits) if edits is not None else small()
            save(model, corpus / f"{name}.lil")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for argument in sys.argv[1:]:
        if not argument.startswith("-"):
            fill(Path(argument))
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
