"""Rules of the house that no linter knows. Run as a script, it prints how large the code is."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src").rglob("*.py")) + sorted(p for p in (ROOT / "csrc").glob("*") if p.is_file())

# A file of over 400 lines stands here with the reason why it is one idea all the same.
LONG: dict[str, str] = {}

# Absolute paths of one machine, and hosts that packages come from: both belong to whoever installs, not to the code.
FORBIDDEN = re.compile(
    r"(?<![\w.~}$])/" + r"(?:work|root)/|" + "|".join(["py" + r"pi\.", "python" + "hosted", "npm" + r"js\.(?:org|com)"])
)
DRAWERS = {"base", "common", "helpers", "misc", "util", "utils"}
PICKLES = {".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib"}


def tracked() -> list[Path]:
    """The files git knows, or skip where this is no checkout."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def text(file: Path) -> str:
    """The text of a file; nothing for one that is not text."""
    data = file.read_bytes()
    return "" if b"\0" in data else data.decode("utf-8", errors="replace")


def function_lengths() -> dict[str, int]:
    """Lines of every function in src, signature and docstring included."""
    return {
        f"{file.relative_to(ROOT)}:{node.lineno} {node.name}": node.end_lineno - node.lineno + 1
        for file in (ROOT / "src").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None
    }


def report() -> str:
    """One line on the size of the code."""
    lengths = function_lengths()
    longest = max(lengths, key=lambda name: lengths[name])
    lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in SOURCES)
    return (
        f"{len(SOURCES)} files, {lines:,} lines; {len(lengths)} functions, "
        f"median {statistics.median(lengths.values()):g} lines, longest {lengths[longest]} ({longest})"
    )


def test_no_tracked_file_is_over_a_megabyte() -> None:
    assert [str(file) for file in tracked() if file.stat().st_size > 1_000_000] == []


def test_nothing_is_pickled() -> None:
    assert [str(file) for file in tracked() if file.suffix in PICKLES] == []
    starts = {file: file.read_bytes()[:2] for file in tracked()}
    assert [str(file) for file, start in starts.items() if start[:1] == b"\x80" and start[1:] <= b"\x05"] == []


def test_no_machine_and_no_registry_is_named() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in tracked()
        for number, line in enumerate(text(file).splitlines(), start=1)
        if FORBIDDEN.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("line", ["cd " + "/wo" + "rk/x", "/ro" + "ot/.cache", "https://py" + "pi.org/simple"])
def test_the_search_for_machines_finds_them(line: str) -> None:
    assert FORBIDDEN.search(line)


@pytest.mark.parametrize("line", ["out/work/", "store/root/<id>", "~/work/x", "https://arxiv.org/abs/1512.03385"])
def test_the_search_for_machines_finds_nothing_else(line: str) -> None:
    assert not FORBIDDEN.search(line)


def test_no_file_is_a_drawer_for_odds_and_ends() -> None:
    assert [str(file) for file in SOURCES if file.stem.strip("_") in DRAWERS] == []


def test_files_are_one_idea_of_at_most_400_lines() -> None:
    lengths = {str(f.relative_to(ROOT)): len(f.read_text(encoding="utf-8").splitlines()) for f in SOURCES}
    assert {name for name, lines in lengths.items() if lines > 400} == set(LONG)


def test_functions_are_short() -> None:
    lengths = function_lengths()
    assert {name: lines for name, lines in lengths.items() if lines > 60} == {}
    assert statistics.median(lengths.values()) <= 8


if __name__ == "__main__":
    print(report())
