"""Functions in the user's own code, `file.py:function` or `package.module:function`: networks, and tasks.

Whoever runs one has been told to: a name on the command line is trusted, one that stands in a file is not.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from lilliput.errors import LilliputError, ModelError, WorkError

# `timm:resnet18` is a network of that package (zoo/libraries), not a function of it.
LIBRARIES = ("timm", "torchvision")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def is_code(text: str) -> bool:
    """Whether a text has the form of a function in a file or a module.

    >>> [is_code(t) for t in ("nets/mine.py:build", "package.nets:build", "resnet20:width=0.5", "resnet20")]
    [True, True, False, False]
    """
    place, colon, function = text.rpartition(":")
    return (
        bool(colon)
        and place not in LIBRARIES
        and function.isidentifier()
        and (place.endswith(".py") or bool(_MODULE.fullmatch(place)))
    )


def call(text: str, fault: type[WorkError] = ModelError, **arguments: Any) -> Any:
    """What the function of this text returns, called with those of `arguments` that it takes.

    The file is run as `python file.py` runs it, but for the name it sees itself by. Raises `fault`, in one line that says which
    of file, function or call it is about and which line of the file raised.
    """
    place = text.rpartition(":")[0]
    with _reported(text, place, fault):
        found = function(text, fault)
        taken = inspect.signature(found).parameters
        return found(**{key: value for key, value in arguments.items() if key in taken})


def function(text: str, fault: type[WorkError] = ModelError) -> Callable[..., Any]:
    """The function that `file.py:function` or `package.module:function` names."""
    place, _, name = text.rpartition(":")
    with _reported(text, place, fault):
        module = _file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    found = getattr(module, name, None)
    if not callable(found):
        raise fault(f"{text}: {place} has no function `{name}`. {_offer(name, module)}")
    return found  # type: ignore[no-any-return]


def _file(path: Path) -> ModuleType:
    """The module of a file, run once for each version of the file."""
    path = path.expanduser().resolve()
    if not path.is_file():
        raise WorkError(f"there is no file `{path}`. {_neighbours(path)}")
    stamp = f"{path}:{path.stat().st_mtime_ns}:{path.stat().st_size}"
    name = f"lilliput_script_{hashlib.sha256(stamp.encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    return _run(path, name)


def _run(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise WorkError(f"`{path}` is not a Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))  # as for `python file.py`: its neighbours can be imported
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(path.parent))
    return module


@contextmanager
def _reported(text: str, place: str, fault: type[WorkError]) -> Iterator[None]:
    """Whatever the user's code raises becomes one line that names the line it came from."""
    try:
        yield
    except LilliputError as error:
        if str(error).startswith(text):
            raise
        kind = fault if type(error) is WorkError else type(error)
        raise kind(f"{text}: {error}") from None
    except (Exception, SystemExit) as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).name == Path(place).name]
        where = f" in line {lines[-1]}" if lines else ""
        first = str(error).split("\n")[0]
        raise fault(f"{text}: raised {type(error).__name__}{where}: {first}") from error


def _offer(name: str, module: ModuleType) -> str:
    own = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    near = difflib.get_close_matches(name, own, n=3, cutoff=0.5)
    if near:
        return f"Did you mean {' or '.join(f'`{n}`' for n in near)}?"
    return f"It has {', '.join(f'`{n}`' for n in own[:8])}." if own else "It has none."


def _neighbours(path: Path) -> str:
    if not path.parent.is_dir():
        return f"There is no folder `{path.parent}` either."
    near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.py")], n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(f'`{n}`' for n in near)}?" if near else "The path is taken from the current folder."
