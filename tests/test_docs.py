"""Recipes in the repository and in the documentation are recipes, and commands named there exist."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

import lilliput as lp
from lilliput.cli.options import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = {c.name or getattr(c.callback, "__name__", "") for c in app.registered_commands}


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.name)
def test_recipes_are_read_and_say_what_they_are_for(path: Path) -> None:
    recipe = lp.Recipe.read(path)
    assert recipe.steps and lp.Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_recipes_in_pages_are_read(page: Path) -> None:
    for block in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL):
        assert lp.Recipe.from_yaml(block).steps


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_in_pages_exist(page: Path) -> None:
    for command in re.findall(r"^ {4}(?:\.venv/bin/)?lilliput ([a-z]+)", page.read_text(), re.MULTILINE):
        assert command in COMMANDS, command


@pytest.mark.parametrize("page", [p for p in PAGES if ">>> " in p.read_text()], ids=lambda p: p.name)
def test_examples_in_pages_run(page: Path) -> None:
    assert doctest.testfile(str(page), module_relative=False).failed == 0
