"""The native core where it was built, Python where it was not; `backend` says which was used."""

from __future__ import annotations

import importlib
from typing import Any

from lilliput.kernels import cpu


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


__all__ = ["backend", "features"]
