"""Imports go only downwards, and folders of one floor do not know each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src"
PACKAGE = "lilliput"

FLOORS = [
    ["errors", "registry", "config", "script"],
    ["core", "zoo"],
    ["measure", "kernels", "data"],
    ["factor", "prune", "quant", "distill"],
    ["guest", "batchnorm", "supernet"],
    ["train", "lightning", "logs", "trackers", "store", "export"],
    ["clock", "evaluate", "opening"],
    ["recipe"],
    ["search", "report"],
    ["job", "terminal", "testing", "__init__"],
    ["comparison"],
    ["cli"],
    ["__main__"],
]
FLOOR = {name: number for number, floor in enumerate(FLOORS) for name in floor}

FILES = sorted((SRC / PACKAGE).rglob("*.py"))


def module_name(file: Path) -> str:
    """`src/lilliput/core/__init__.py` is `lilliput.core`."""
    parts = file.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def unit(module: str) -> str:
    """The folder or file of the layout that a module belongs to: `core` of `lilliput.core.edits`."""
    return module.split(".")[1] if "." in module else "__init__"


def imports(source: str, module: str, is_package: bool = False) -> Iterator[str]:
    """Everything of this package that a module imports, inside functions and for type checking too."""
    for node in ast.walk(ast.parse(source)):
        yield from (name for name in targets(node, module, is_package) if name.split(".")[0] == PACKAGE)


def targets(node: ast.AST, module: str, is_package: bool) -> list[str]:
    """The full names that one node imports; `from lilliput import core` imports `lilliput.core`."""
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=origin, names=names, level=level):
            here = module.split(".")[: len(module.split(".")) - level + is_package] if level else []
            start = ".".join([*here, *([origin] if origin else [])])
            return [f"{start}.{alias.name}" for alias in names] if start == PACKAGE else [start]
        case ast.Call(args=[ast.Constant(value=str(name)), *_], func=func) if "import" in ast.unparse(func):
            return [name]
    return []


def fault(importer: str, imported: str) -> str | None:
    """Why this import is not allowed, or None."""
    up, down = unit(importer), unit(imported) if unit(imported) in FLOOR else "__init__"
    if up == down or FLOOR[down] < FLOOR[up]:
        return None
    if FLOOR[down] > FLOOR[up]:
        return f"{importer} (floor {FLOOR[up]}) imports {imported} (floor {FLOOR[down]}), which is above it"
    if is_folder(up) or is_folder(down):
        return f"{importer} imports {imported}, its neighbour on floor {FLOOR[up]}"
    return None


def is_folder(name: str) -> bool:
    return name in {"core", "zoo", "measure", "kernels", "data", *FLOORS[3], "store", "export", "search", "report", "cli"}


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_imports_go_downwards(file: Path) -> None:
    module, source = module_name(file), file.read_text(encoding="utf-8")
    found = [fault(module, name) for name in imports(source, module, file.name == "__init__.py")]
    assert [f for f in found if f] == []


def test_every_file_and_folder_has_a_floor() -> None:
    assert {unit(module_name(file)) for file in FILES} - set(FLOOR) == set()


def test_what_is_on_disk_is_a_folder_where_the_layout_says_so() -> None:
    found = {unit(module_name(file)): file.parent != SRC / PACKAGE for file in FILES}
    assert {name: is_folder(name) for name in found} == found


@pytest.mark.parametrize(
    ("importer", "source", "faulty"),
    [
        ("lilliput.core.edits", "from lilliput.errors import EditError", False),
        ("lilliput.core.edits", "from lilliput.core.maps import Mapping", False),
        ("lilliput.core.edits", "from .maps import Mapping", False),
        ("lilliput.core.edits", "from ..errors import EditError", False),
        ("lilliput.core.edits", "from lilliput import zoo", True),
        ("lilliput.core.edits", "from .. import zoo", True),
        ("lilliput.core.edits", "import lilliput as lp", True),
        ("lilliput.core.edits", "from lilliput import save", True),
        ("lilliput.core.edits", "import torch, numpy.linalg", False),
        ("lilliput.prune.channels", "from lilliput.quant.integer import Integer", True),
        ("lilliput.prune.channels", "def f():\n    from lilliput.train import Fit", True),
        ("lilliput.prune.channels", "if TYPE_CHECKING:\n    import lilliput.recipe", True),
        ("lilliput.prune.channels", "importlib.import_module('lilliput.export')", True),
        ("lilliput.prune.channels", "from lilliput.measure import counts", False),
        ("lilliput.train", "from lilliput.store.format import save", True),
        ("lilliput.store.format", "from lilliput.train import Fit", True),
        ("lilliput.config", "from lilliput.registry import Registry", False),
        ("lilliput.cli", "from lilliput.job import compress", False),
        ("lilliput.cli", "from lilliput.search.budget import Budget", False),
        ("lilliput", "from lilliput.cli import main", True),
    ],
)
def test_the_rule_itself(importer: str, source: str, faulty: bool) -> None:
    assert any(fault(importer, name) for name in imports(source, importer)) == faulty
