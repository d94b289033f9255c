"""Architectures in files of the user's own: they run as written, and every fault is one line that says where."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from torch import nn

from lilliput.errors import LilliputError, ModelError
from lilliput.store import factory

SOURCE = """
from dataclasses import dataclass

from torch import nn

from neighbour import WIDTH

RUNS = []
RUNS.append(1)

@dataclass
class Options:
    width: int = WIDTH

def build():
    return nn.Linear(Options().width, 2)

def broken():
    raise RuntimeError("no weights\\nfound")

def number():
    return 3

def picky(width):
    return nn.Linear(width, 2)

def quits():
    raise SystemExit("bye")

def needs_more():
    import no_such_package
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("WIDTH = 3")
    (tmp_path / "mine.py").write_text(SOURCE)
    return tmp_path / "mine.py"


def test_a_function_in_a_file_builds(file: Path) -> None:
    model = factory(f"{file}:build", trust=True)()
    assert isinstance(model, nn.Linear) and model.in_features == 3
    assert model.architecture == f"{file}:build"
    assert str(file.parent) not in sys.path


def test_a_file_is_run_once_for_each_of_its_versions(file: Path) -> None:
    first, second = (type(factory(f"{file}:build", trust=True)()) for _ in range(2))
    before = {name: sys.modules[name] for name in sys.modules if name.startswith("lilliput_script_")}
    assert first is second
    file.write_text(SOURCE.replace("WIDTH\n\ndef", "5\n\ndef") + "\n")
    factory(f"{file}:build", trust=True)()
    assert len([name for name in sys.modules if name.startswith("lilliput_script_")]) == len(before) + 1


def test_a_function_in_a_module_builds() -> None:
    assert isinstance(factory("lilliput.zoo.resnet_cifar:resnet8", trust=True)(), nn.Module)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bild", r"has no function `bild`. Did you mean `build`"),
        ("zzz", r"has no function `zzz`. It has"),
        ("RUNS", r"has no function `RUNS`"),
        ("broken", r"mine.py:broken: raised RuntimeError in line 19: no weights$"),
        ("number", r"`number\(\)` returned a int, not a torch.nn.Module"),
        ("picky", r"raised TypeError: picky\(\) missing 1 required positional argument"),
        ("quits", r"raised SystemExit in line 28: bye"),
        ("needs_more", r"raised ModuleNotFoundError in line 31: No module named 'no_such_package'"),
    ],
)
def test_faults_of_a_function_are_named(name: str, message: str, file: Path) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        factory(f"{file}:{name}", trust=True)()
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"{file}:{name}: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{folder}/mime.py:build", r"there is no file `.*mime.py`. Did you mean `mine.py`"),
        ("{folder}/nowhere/mine.py:build", r"There is no folder"),
        ("no_such_package.nets:build", r"raised ModuleNotFoundError"),
        ("{folder}/wrong.py:build", r"raised SyntaxError"),
    ],
)
def test_faults_of_a_place_are_named(text: str, message: str, file: Path) -> None:
    (file.parent / "wrong.py").write_text("def build(:")
    with pytest.raises(ModelError, match=message):
        factory(text.format(folder=file.parent), trust=True)()


def test_a_file_that_fails_while_it_is_read_is_not_kept(file: Path) -> None:
    file.write_text("raise ValueError('early')")
    for _ in range(2):
        with pytest.raises(ModelError, match="raised ValueError in line 1: early"):
            factory(f"{file}:build", trust=True)()


@pytest.mark.parametrize("text", ["os:system", "mine.py:build", "lilliput.zoo.resnet_cifar:resnet8"])
def test_nothing_is_imported_without_trust(text: str) -> None:
    with pytest.raises(LilliputError, match="only for a file that you trust"):
        factory(text, trust=False)
