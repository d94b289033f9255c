"""The Python of every page runs, what is left out says why, and pages, files and pictures that are named exist."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import doc_pages
import docs_check
import pytest
import yaml
from doc_pages import PAGES, ROOT, blocks, examples

OF_THE_TUTORIAL = "your_network.md"  # its files and commands belong together; test_your_network runs them
WITH_PYTHON = [p for p in PAGES if p.name != OF_THE_TUTORIAL and any(e.kind == "python" and not e.skip for e in examples(p))]
PICTURES = sorted((ROOT / "docs").glob("*.svg"))


@pytest.fixture(scope="module")
def failed() -> dict[str, list[str]]:
    """What failed on each page. All run in one process of their own: pages register things, which no other test should see."""
    call = [sys.executable, "-W", "error", doc_pages.__file__, *map(str, WITH_PYTHON)]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda p: p.name)
def test_python_of_pages_runs(page: Path, failed: dict[str, list[str]]) -> None:
    assert failed[page.name] == [], failed[page.name][0]


def test_a_page_that_fails_is_told_with_its_line(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n")
    assert doc_pages.run_python(page)[0].startswith("page.md:8\n")


def test_blocks_are_found_with_their_reasons() -> None:
    shown = [
        "    lilliput zoo",
        "<!-- not run: later -->",
        "```python\nx\n```",
        "```yaml\ny\n```",
        "- b\n    c",
        "```\n$ lilliput d\n```",
    ]
    text = "\n\n".join(["a", *shown]) + "\n"
    found = list(blocks(text))
    assert [(b.language, b.text, b.why) for b in found] == [
        ("", "lilliput zoo\n", ""), ("python", "x\n", "later"), ("yaml", "y\n", ""), ("", "$ lilliput d\n", ""),
    ]  # fmt: skip
    assert [b.line for b in found] == [3, 8, 12, 19]


def test_the_check_runs_what_is_shown_and_says_why_it_does_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, ran = tmp_path / "page.md", list[str]()
    shown = [
        "    lilliput zoo \\\n      --json  # all",
        "<!-- not run: later -->",
        "    lilliput show x.lil",
        "and",
        "    make bench",
        "```python\n1 / 0\n```",
    ]
    page.write_text("\n\n".join(["# Page", *shown, ">>> 1 + 1", "3"]).replace(">>> 1 + 1\n\n", ">>> 1 + 1\n") + "\n")
    failed = docs_check.check(page, lambda text: ran.append(text) or "")  # type: ignore[func-returns-value]
    assert ran == ["lilliput zoo --json  # all"]
    assert failed[0].startswith("page.md:15: 1 / 0\n") and "ZeroDivisionError" in failed[0] and "1 of its examples" in failed[1]
    said = capsys.readouterr().out
    assert "show x.lil  [not run: later]" in said and "make bench  [not run: benchmarks run alone" in said


def test_every_page_is_in_the_navigation_once() -> None:
    listed = [page for page in leaves(navigation()) if page.endswith(".md")]
    assert sorted(listed) == sorted(p.name for p in (ROOT / "docs").glob("*.md"))


def navigation() -> list[object]:
    """`nav` of mkdocs.yml."""
    return list(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])


def leaves(tree: object) -> list[str]:
    """The pages of a part of the navigation."""
    if isinstance(tree, str):
        return [tree]
    parts = tree.values() if isinstance(tree, dict) else tree
    return [leaf for part in parts for leaf in leaves(part)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("picture", PICTURES, ids=lambda p: p.name)
def test_pictures_are_small_and_complete(picture: Path) -> None:
    root = ElementTree.parse(picture).getroot()
    assert root.tag.endswith("svg") and root.get("viewBox") and picture.stat().st_size < 100_000
    assert any(picture.name in page.read_text() for page in PAGES)
    assert not [e.tag for e in root.iter() if e.tag.endswith(("script", "image", "foreignObject"))]


FAMILIES = ("pruning", "criteria", "sparsity", "factorization", "integer", "low_bit", "distillation", "rate")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_page_of_a_family_has_all_its_parts(family: str) -> None:
    page = ROOT / "docs" / f"{family}.md"
    text = page.read_text()
    assert "## When it helps" in text and "## Exercise" in text and ".svg)" in text
    assert ">>> " in text or any(e.kind == "python" and not e.skip for e in examples(page))


def test_a_search_of_hours_is_run_for_seconds_with_one_family() -> None:
    said = ["compress", "resnet20", "--hours", "1.5", "--out", "out/a"]
    assert docs_check.shortened(said) == ["compress", "resnet20", "--hours", docs_check.SECONDS, "--out", "out/a", "--family",
                                          "inner channels"]  # fmt: skip
    assert docs_check.shortened([*said, "--family", "blocks"])[-2:] == ["--family", "blocks"]
    assert docs_check.shortened(["inspect", "resnet20"]) == ["inspect", "resnet20"]
