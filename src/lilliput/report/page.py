"""`report.html`: the whole outcome in one file that loads nothing, offline for good."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lilliput.errors import WorkError
from lilliput.report import classes, compared, contents, front, layers, notes, sensitivity, training, tried, verdict, weights
from lilliput.report.amounts import plural
from lilliput.report.outcome import Outcome
from lilliput.report.parts import FOLDER, Section, templates

Chapter = Callable[[Outcome], Section | None]


def result(outcome: Outcome) -> Section:
    """Every figure before and after."""
    return Section("result", "Before and after", (compared.table(outcome.metrics),))


# The order of the page. A further chapter is a function here and nothing else; one that has nothing to tell may return None.
CHAPTERS: tuple[Chapter, ...] = (
    result,
    front.section,
    layers.section,
    contents.section,
    weights.section,
    sensitivity.section,
    classes.section,
    training.section,
    tried.section,
    notes.recipe,
    notes.edits,
    notes.warnings,
    notes.environment,
)


def render(folder: Path) -> Path:
    """Write `report.html` into a run's folder, from the `metrics.json`, `details.json` and `recipe.yaml` there.

    Only `metrics.json` must exist; what is missing in any of them is shown as not recorded. The same files give
    the same bytes. Raises `UsageError` without `metrics.json`, `FormatError` where a file is not what its name says.
    """
    folder = Path(folder)
    path = folder / "report.html"
    write(path, page(Outcome.read(folder)))
    return path


def add(folder: Path, found: Mapping[str, Any]) -> Path:
    """Put further measurements into a run's `metrics.json`, under keys of their own, and write its report again."""
    folder = Path(folder)
    metrics = {**Outcome.read(folder).metrics, **found}
    write(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    return render(folder)


def page(outcome: Outcome) -> str:
    """The page as text."""
    from markupsafe import Markup

    sections = [section for chapter in CHAPTERS if (section := chapter(outcome)) is not None]
    template = templates().get_template("page.html")
    return template.render(
        outcome=outcome,
        sentence=verdict.verdict(outcome.metrics),
        met=verdict.met(outcome.metrics),
        asked=verdict.asked(outcome.metrics),
        tiles=compared.tiles(outcome.metrics),
        warned=_warned(outcome),
        sections=sections,
        style=Markup((FOLDER / "page.css").read_text(encoding="utf-8")),
        script=Markup((FOLDER / "page.js").read_text(encoding="utf-8")),
        plotly=Markup(_plotly() if any(section.drawn for section in sections) else ""),
    )


def _warned(outcome: Outcome) -> str:
    many = len(notes.warned(outcome))
    return plural(many, "warning") if many else ""


def _plotly() -> str:
    """Plotly's own script, with every address in it spelt so that the text of the page holds none.

    Charts of maps would load from them; there are none here, and the page's policy forbids it. `\\x2f` is a slash in
    JavaScript's strings and patterns.
    """
    from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

    return str(get_plotlyjs()).replace("://", ":\\x2f/")


def write(path: Path, content: str | bytes) -> None:
    """To a temporary sibling that is renamed, so that a report is whole or not there. Raises `WorkError`."""
    if isinstance(content, str):
        content = content.encode("utf-8", errors="replace")  # a file name may hold bytes that are no text
    sibling = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        sibling.write_bytes(content)
        os.replace(sibling, path)
    except OSError as error:
        raise WorkError(f"{path}: cannot be written: {error.strerror or error}. What was there before is untouched.") from None
    finally:
        sibling.unlink(missing_ok=True)
