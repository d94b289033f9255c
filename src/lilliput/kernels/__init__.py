"""The native core where it was built, Python where it was not; `backend` says which was used."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import Any

from lilliput.kernels import cpu, entropy, rounding
from lilliput.kernels.break_even import Worth, pack_sparse, worth
from lilliput.kernels.layers import (
    BREAK_EVEN,
    BinaryConv2d,
    BinaryConvBits,
    Int4Conv2d,
    SparseConv2d,
    SparseLinear,
    TernaryConv2d,
    pack_binary,
    pack_ternary,
)
from lilliput.kernels.numbers import Array, Layout
from lilliput.kernels.runtime import register
from lilliput.kernels.translate import translations


def _load() -> Any:
    """The native core, or None where it was not built. One that is there and cannot be loaded is an error."""
    try:
        return importlib.import_module(f"{__name__}._native")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}._native":
            raise
        return None


_native = _load()


def backend() -> str:
    """`"native"` where the compiled core answers, `"python"` where it was not built (no C++ compiler at install)."""
    return "python" if _native is None else "native"


def features() -> dict[str, bool]:
    """The instruction sets that kernels are written for, and whether this processor has them."""
    found: dict[str, bool] = cpu.features() if _native is None else _native.cpu_features()
    return found


def rows() -> list[tuple[str, str, bool]]:
    """(family, name, whether this processor runs it) of every native kernel, best first; empty without the native core."""
    return [] if _native is None else [tuple(row) for row in _native.kernel_rows()]


def forced() -> str | None:
    """The kernel that $LILLIPUT_KERNEL asks for, in place of the best that this processor runs."""
    return os.environ.get("LILLIPUT_KERNEL") or None


def encode(layouts: Sequence[Layout], arrays: Sequence[Array]) -> bytes:
    """Whole numbers within bounds in few bytes. Raises `WorkError` without the native core."""
    return entropy.encode(_native, layouts, arrays)


def decode(data: bytes, layouts: Sequence[Layout]) -> tuple[list[Array], list[int]]:
    """The numbers, and how many bytes had been read after each tensor. Raises `FormatError` for bytes that are none."""
    return entropy.decode(_native, data, layouts)


def encode_text(text: bytes) -> bytes:
    """Text in few bytes. Raises `WorkError` without the native core."""
    return entropy.encode_text(_native, text)


def decode_text(data: bytes, length: int) -> bytes:
    """The text. Raises `FormatError` for bytes that are none."""
    return entropy.decode_text(_native, data, length)


def round_weights(job: rounding.Job) -> float:
    """Round a weight's rows, in place, with the rate in mind; returns the bits. Raises `WorkError` without the native core."""
    return rounding.round_weights(_native, job)


__all__ = [
    "BREAK_EVEN",
    "Array",
    "BinaryConv2d",
    "BinaryConvBits",
    "Int4Conv2d",
    "Layout",
    "SparseConv2d",
    "SparseLinear",
    "TernaryConv2d",
    "Worth",
    "backend",
    "decode",
    "decode_text",
    "encode",
    "encode_text",
    "features",
    "forced",
    "pack_binary",
    "pack_sparse",
    "pack_ternary",
    "register",
    "round_weights",
    "rows",
    "translations",
    "worth",
]
