"""Accuracy against multiply-adds, blobs as large as the parameters: published networks, and one's own among them.

Canziani, Paszke, Culurciello 2016, "An Analysis of Deep Neural Network Models for Practical Applications",
arXiv:1605.07678, figure 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lilliput.errors import FormatError, UsageError
from lilliput.report import page
from lilliput.report.amounts import count, mapping, number
from lilliput.report.outcome import Outcome
from lilliput.report.parts import FOLDER, Cell, Chart, Choice, Column, Prose, Section, Table, plain, templates
from lilliput.report.picture import picture
from lilliput.zoo.catalog import architectures, split
from lilliput.zoo.published import Published, published

TITLE = "Accuracy, multiply-adds and parameters"
OWN = "your runs"
HOW = (
    "Top-1 accuracy against multiply-adds of one image; the area of a blob is its number of parameters. "
    "Published networks: ImageNet, one crop."
)
FAMILIES = (
    *("densenet", "ghostnet", "googlenet", "inception", "mobilenet_v1", "mobilenet_v2", "mobilenet_v3", "resnet", "resnext"),
    *("shiftnet", "shufflenet_v1", "shufflenet_v2", "squeezenet", "squeezenext", "vgg"),
)
COMPARE = "Your runs stand at the accuracy on their own data, which compares with nothing measured on other data."


@dataclass(frozen=True)
class Blob:
    """A network: `accuracy` in percent, `detail` says on what it was measured, or at which size, `source` by whom."""

    name: str
    family: str
    accuracy: float
    macs: float
    params: float
    detail: str
    source: str


def draw(path: Path, runs: Sequence[Path] = ()) -> Path:
    """Draw the chart to `.html` (one file that loads nothing) or `.png`, with baseline and compressed network of `runs`.

    A run is its folder or the `metrics.json` in it. Raises `UsageError` for another ending or what is no run.
    """
    path, blobs = Path(path), [*known(), *(blob for run in runs for blob in measured(Path(run)))]
    if path.suffix == ".html":
        page.write(path, _html(blobs))
    elif path.suffix == ".png":
        page.write(path, picture(blobs, TITLE, OWN))
    else:
        raise UsageError(f"{path}: a chart is drawn to a file that ends in `.html` or `.png`, not in `{path.suffix}`")
    return path


def known() -> list[Blob]:
    """What is published."""
    return [
        Blob(_named(p), _family(p.name), p.top1, p.macs, p.params, f"ImageNet, {p.pixels} pixels", p.source)
        for p in published()
    ]


def _named(row: Published) -> str:
    """Its name, with the size of the image where it is not the network's own."""
    name, _ = split(row.name)
    return row.name if architectures[name].input[1] == row.pixels else f"{row.name} at {row.pixels}"


def measured(run: Path) -> list[Blob]:
    """The networks of a run, before and after."""
    folder = run if run.is_dir() else run.parent
    if not run.is_dir() and run.name != "metrics.json":
        raise UsageError(f"`{run}` is no `metrics.json` and no folder that holds one; take what `--out` named")
    outcome = Outcome.read(folder)
    named = f"{outcome.details.get('model') or folder.resolve().name}"
    data = str(outcome.details.get("data") or "data not recorded")
    blobs = []
    for side, word in (("baseline", ""), ("compressed", ", compressed")):
        row = mapping(outcome.metrics.get(side))
        accuracy, macs, params = (number(row.get(key)) for key in ("accuracy", "macs", "params"))
        if accuracy is None or not macs or not params:
            raise FormatError(f"{folder / 'metrics.json'}: `{side}` lacks one of `accuracy`, `macs`, `params`; run it again")
        blobs.append(Blob(named + word, OWN, 100 * accuracy, macs, params, data, str(folder)))
    return blobs


def _family(name: str) -> str:
    """
    >>> _family("squeezenet1_1"), _family("mobilenet_v3_small:width=0.75"), _family("lenet:width=2")
    ('squeezenet', 'mobilenet_v3', 'lenet')
    """
    return next((family for family in FAMILIES if name.startswith(family)), name.partition(":")[0])


def _html(blobs: Sequence[Blob]) -> str:
    from markupsafe import Markup

    own = any(blob.family == OWN for blob in blobs)
    prose = Prose(f"{HOW} {COMPARE}" if own else HOW)
    choices = tuple(Choice(word, {**_data(blobs), "log": word == "logarithmic"}) for word in ("logarithmic", "linear"))
    drawn = Section("chart", "The chart", (prose, Chart("blobs", TITLE, choices)))
    return (
        templates()
        .get_template("landscape.html")
        .render(
            title=TITLE,
            sections=[drawn, Section("numbers", "The numbers", (_table(blobs),))],
            style=Markup((FOLDER / "page.css").read_text(encoding="utf-8")),
            script=Markup((FOLDER / "page.js").read_text(encoding="utf-8")),
            plotly=Markup(page._plotly()),
        )
    )


def _data(blobs: Sequence[Blob]) -> dict[str, object]:
    return {
        "x": [blob.macs for blob in blobs],
        "y": [blob.accuracy for blob in blobs],
        "size": [blob.params for blob in blobs],
        "group": [blob.family for blob in blobs],
        "own": OWN,
        "text": [plain(blob.name) for blob in blobs],
        "hover": [_hover(blob) for blob in blobs],
        "x_title": "multiply-adds",
        "y_title": "top-1 accuracy, %",
    }


def _hover(blob: Blob) -> str:
    cost = f"{count(blob.macs)} multiply-adds, {count(blob.params)} parameters"
    lines = (f"{blob.accuracy:.2f} %", cost, plain(blob.detail), plain(blob.source))
    return "<br>".join([f"<b>{plain(blob.name)}</b>", *lines])


def _table(blobs: Sequence[Blob]) -> Table:
    titles = ("Network", "Measured on", "Top-1", "Multiply-adds", "Parameters", "Source")
    columns = tuple(Column(title, title in titles[2:5]) for title in titles)
    rows = tuple(
        (
            Cell.of(blob.name),
            Cell.of(blob.detail),
            Cell(f"{blob.accuracy:.2f} %", blob.accuracy),
            Cell(count(blob.macs), blob.macs),
            Cell(count(blob.params), blob.params),
            Cell.of(blob.source),
        )
        for blob in blobs
    )
    return Table(columns, rows, marked=frozenset(i for i, blob in enumerate(blobs) if blob.family == OWN))
