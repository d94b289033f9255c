"""ONNX Runtime's domain `lilliput`: the library of its operations, which a plain `onnxruntime` loads."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lilliput.errors import WorkError

DOMAIN, VERSION = "lilliput", 1


def library() -> Path:
    """The library that holds the operations. Raises `WorkError` where it was not built."""
    path = _place()
    if not path.exists():
        raise WorkError(f"`{path.name}` was not built (no C++ compiler at install). Install again where there is one")
    return path


def built() -> bool:
    """Whether there is such a library."""
    return _place().exists()


def _place() -> Path:
    suffix = {"darwin": "dylib", "win32": "dll"}.get(sys.platform, "so")
    return Path(__file__).with_name(f"lilliput_ops.{suffix}")


def register(session_options: Any) -> Any:
    """Let sessions with these options run files with nodes of domain `lilliput`. Returns the options.

    What a node of such a file cannot be is an error when the session is made; an input that does not fit, when it runs.
    """
    path = library()
    session_options.register_custom_ops_library(str(path))
    return session_options
