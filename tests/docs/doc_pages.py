"""What README and the pages show, in order: commands, Python, and files; each runs, or says why it does not.

    <!-- not run: needs a telephone -->       before a block: why nothing of it is run
    ```python title="train.py"                a file of the reader's; it is written, and nothing of it runs yet
    ```python                                 runs; the blocks of a page share their names
        lilliput show net.lil                 a command, in an indented block or a fenced one without a language

Examples with `>>>` are doctest's. As a script it runs the Python of all pages, or of those named, and prints what failed.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_MARK = re.compile(r"<!-- not run: (?P<why>.+?) -->")
_FENCE = re.compile(r"(?P<fence>```+) *(?P<language>\w*)(?P<rest>.*)")
_COMMAND = re.compile(r"(?:\$ )?(?:\.venv/bin/)?(?:lilliput|make|python) .*")


@dataclass(frozen=True)
class Example:
    """One thing a page shows. `kind`: command, python, or file (`title` is its name); `skip`: why it is not run."""

    page: str
    line: int
    kind: str
    text: str
    title: str = ""
    skip: str = ""

    @property
    def place(self) -> str:
        """Page and line."""
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Block:
    """A block of code as Markdown has it."""

    line: int
    language: str
    rest: str
    text: str
    why: str


def examples(page: Path) -> list[Example]:
    """What a page shows, in order."""
    name, found = page.relative_to(ROOT).as_posix() if page.is_relative_to(ROOT) else page.name, []
    for block in blocks(page.read_text()):
        title = re.search(r'title="([^"]+)"', block.rest)
        if title is not None:
            found.append(Example(name, block.line, "file", block.text, title[1], block.why))
        elif block.language == "python" and not block.text.lstrip().startswith(">>>"):
            found.append(Example(name, block.line, "python", block.text, "", block.why))
        elif not block.language:
            lines = continued(block.text.splitlines(), block.line)
            found += [Example(name, at, "command", t.removeprefix("$ "), "", block.why) for at, t in lines if _COMMAND.match(t)]
    return found


def continued(lines: list[str], first: int) -> Iterator[tuple[int, str]]:
    """Lines with their numbers; one that ends in a backslash goes on in the next."""
    held, begun = "", first
    for number, line in enumerate(lines, first):
        begun = begun if held else number
        held += line.strip() if held else line
        if held.endswith("\\"):
            held = held[:-1]
            continue
        yield begun, held
        held = ""


def blocks(text: str) -> Iterator[Block]:
    """Fenced and indented blocks of code, each with the reason that stands before it."""
    lines, at, why, blank = text.splitlines(), 0, "", True
    while at < len(lines):
        line = lines[at]
        if (mark := _MARK.fullmatch(line.strip())) is not None:
            why = mark["why"]
        elif (fence := _FENCE.fullmatch(line)) is not None:
            end = lines.index(fence["fence"], at + 1)
            yield Block(at + 2, fence["language"], fence["rest"], "\n".join(lines[at + 1 : end]) + "\n", why)
            at, why = end, ""
        elif blank and line.startswith("    "):
            end = next((i for i in range(at, len(lines)) if lines[i].strip() and not lines[i].startswith("    ")), len(lines))
            yield Block(at + 1, "", "", "\n".join(each[4:] for each in lines[at:end]).rstrip() + "\n", why)
            at, why = end - 1, ""
        elif line.strip():
            why = ""
        blank = not lines[at].strip()
        at += 1


def run_python(page: Path) -> list[str]:
    """Run the Python of a page in the current folder; what failed, by line of the page."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for example in examples(page):
        if example.skip:
            continue
        if example.kind == "file":
            Path(example.title).write_text(example.text)
        elif example.kind == "python":
            try:
                exec(compile("\n" * (example.line - 1) + example.text, page.name, "exec"), names)
            except Exception:  # whatever a page raises is reported with its line
                return [f"{example.place}\n{traceback.format_exc(limit=-3)}"]
    return []


def main(pages: list[Path]) -> None:
    """Print, as JSON, what failed on each page."""
    said, failed = sys.stdout, {}
    for page in pages:
        with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as sys.stdout:
            os.chdir(folder)
            with warnings.catch_warnings():
                failed[page.name] = run_python(page)
            os.chdir(ROOT)
    sys.stdout = said
    print(json.dumps(failed))


if __name__ == "__main__":
    main([Path(p).resolve() for p in sys.argv[1:]] or PAGES)
