"""What the pages say about scripts and recipes, read from the files themselves: their docstrings, their comments."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
Pages = Mapping[str, Mapping[str, Callable[[], str]]]
SILENT = {"readme.py", "described.py", "stored.py"}
"""What measures nothing."""


def benchmarks(pages: Pages) -> str:
    """A table of all scripts, and under it what each says of itself."""
    found = {path: said for path, said in scripts().items() if "results/" in said or "docs/" in said}
    lines = ["| script | | results | pages |", "|---|---|---|---|"]
    for path, said in found.items():
        name = path.relative_to(ROOT).as_posix()
        first = said.split("\n")[0].rstrip(".")
        lines.append(f"| [`{name}`](#{anchor(name)}) | {first} | {results(said)} | {quoted(name, said, pages)} |")
    for path, said in found.items():
        name = path.relative_to(ROOT).as_posix()
        lines += ["", f"### `{name}` {{ #{anchor(name)} }}", "", *said.split("\n")]
    return "\n".join(lines)


def scripts() -> dict[Path, str]:
    """The scripts that measure, with their docstrings."""
    paths = [*sorted((ROOT / "bench").glob("*.py")), *sorted((ROOT / "bench/peers").glob("*.py"))]
    texts = {path: ast.get_docstring(ast.parse(path.read_text())) or "" for path in paths if path.name not in SILENT}
    return {path: re.sub(r"(?m)^python ", "    python ", text) for path, text in texts.items()}


def anchor(name: str) -> str:
    """The name of a script's part of the page."""
    return re.sub(r"\W+", "-", name.removeprefix("bench/").removesuffix(".py")).strip("-")


def results(said: str) -> str:
    """The files that a script says it writes."""
    named = re.findall(r"(?:bench/results|docs)/([\w<>]+\.(?:json|svg))", said)
    return ", ".join(f"`{name}`" for name in dict.fromkeys(named))


def quoted(name: str, said: str, pages: Pages) -> str:
    """The pages with a part that is generated from the results of a script, and those that name it."""
    stems = {re.sub("<.*", "", n) for n in re.findall(r"bench/results/([\w<>]+)\.json", said)}
    found = [page for page, marks in pages.items() if any(reads(write) & stems for write in marks.values())]
    named = [f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md")) if p.stem != "benchmarks" and name in p.read_text()]
    return ", ".join(link(page) for page in dict.fromkeys([*found, *named]))


def reads(write: Callable[[], str]) -> set[str]:
    """The results that the writer of a part reads, by the beginnings of their names."""
    code = inspect.getsource(write)
    return {*re.findall(r'load\("(\w+)"\)', code), *("main_job_" for _ in re.findall(r"section\(", code))}


def link(page: str) -> str:
    """A page as a page of docs links it."""
    return f"[{Path(page).stem}]({Path(page).name})" if page.startswith("docs/") else f"`{page}`"


def recipes() -> str:
    """Every recipe with its comment in front."""
    parts = []
    for path in sorted((ROOT / "recipes").glob("*.yaml")):
        lines = path.read_text().splitlines()
        told = [line.removeprefix("#").strip() for line in lines if line.startswith("#")]
        text = [f"    {line}" if line.startswith("lilliput ") else line for line in told]
        first = next((i for i, line in enumerate(text) if line.startswith("    ")), None)
        if first is not None:
            text.insert(first, "")
        steps = [line for line in lines if not line.startswith("#")]
        parts.append("\n".join([f"## {path.name}", "", *text, "", "```yaml", *steps, "```"]))
    return "\n\n".join(parts)
