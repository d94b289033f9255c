"""`file.py:function`: a function out of a file the user names. The file is run, as with `python file.py`."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lilliput.errors import DataError


def load(text: str) -> Callable[..., Any]:
    """The function that `file.py:function` names. Raises `DataError` where there is none or the file fails."""
    file, _, name = text.rpartition(":")
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        raise DataError(f"`{text}`: no such file as `{path}`")
    function = getattr(_run(path, text), name, None)
    if not callable(function):
        raise DataError(f"`{text}`: {path.name} has no function `{name}`")
    return function  # type: ignore[no-any-return]


def _run(path: Path, text: str) -> Any:
    """The module of a file, under a name of its own so that what it defines can be pickled."""
    name = f"lilliput_script_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise DataError(f"`{text}`: {path.name} is not a python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's file raises
        del sys.modules[name]
        raise DataError(f"`{text}`: {path.name} raised {type(error).__name__}: {error}") from error
    return module
