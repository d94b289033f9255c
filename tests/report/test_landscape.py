"""The chart of published networks with runs of one's own among them: one page, one picture, true to the numbers."""

from __future__ import annotations

import json
from pathlib import Path

import made_up_run
import pytest
from PIL import Image
from read_page import Page

from lilliput import report
from lilliput.errors import FormatError, UsageError
from lilliput.report import landscape, page
from lilliput.report.picture import Scale
from lilliput.zoo.published import published


@pytest.fixture
def no_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five megabytes of script say nothing about the rest of a page."""
    monkeypatch.setattr(page, "_plotly", lambda: "/* plotly */")


def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def test_the_page_holds_every_published_network_and_its_source(tmp_path: Path, no_plotly: None) -> None:
    found = read(report.draw(tmp_path / "out.html"))
    (choices,) = found.charts
    assert [choice["log"] for choice in choices] == [True, False]
    assert choices[0]["y"] == [row.top1 for row in published()] and choices[0]["size"] == [row.params for row in published()]
    assert all(row.source in found.text and row.name in found.text for row in published())
    assert landscape.OWN not in choices[0]["group"] and landscape.COMPARE not in found.text


def test_runs_join_before_and_after(tmp_path: Path, no_plotly: None) -> None:
    folder = made_up_run.write(tmp_path / "run")
    metrics = made_up_run.metrics()
    for place in (folder, folder / "metrics.json"):
        found = read(report.draw(tmp_path / "out.html", [place]))
        data = found.charts[0][0]
        own = [i for i, family in enumerate(data["group"]) if family == landscape.OWN]
        rows = [metrics["baseline"], metrics["compressed"]]
        assert [(data["x"][i], data["y"][i]) for i in own] == [(r["macs"], 100 * r["accuracy"]) for r in rows]
        assert landscape.COMPARE in found.text


def test_names_are_escaped(tmp_path: Path, no_plotly: None) -> None:
    folder = made_up_run.write(tmp_path / "run")
    evil = "<img src=x onerror=alert(1)></script>"
    (folder / "details.json").write_text(json.dumps({"model": evil, "data": evil}))
    found = read(report.draw(tmp_path / "out.html", [folder]))
    assert found.tags["img"] == 0 and evil in found.text


def test_the_page_stands_alone(tmp_path: Path) -> None:
    text = report.draw(tmp_path / "out.html").read_text(encoding="utf-8")
    assert len(text) > 1_000_000 and "src=" not in text[: text.index("<script>")] and "https://cdn" not in text


def test_the_picture_is_one(tmp_path: Path) -> None:
    path = report.draw(tmp_path / "out.png", [made_up_run.write(tmp_path / "run")])
    with Image.open(path) as image:
        assert image.format == "PNG" and image.size == (1500, 1000) and len(image.getcolors(10**7) or ()) > 1000


def test_areas_are_parameters() -> None:
    scale = Scale.of(landscape.known())
    assert scale.radius(4e6) == pytest.approx(2 * scale.radius(1e6))
    assert scale.x(1e8) - scale.x(1e7) == pytest.approx(scale.x(1e9) - scale.x(1e8))
    assert scale.y(70) < scale.y(60)


def test_what_is_no_chart_and_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"`\.html` or `\.png`"):
        report.draw(tmp_path / "out.pdf")
    with pytest.raises(UsageError, match="no folder that holds one"):
        report.draw(tmp_path / "out.html", [tmp_path / "numbers.json"])
    folder = made_up_run.write(tmp_path / "run")
    (folder / "metrics.json").write_text('{"baseline": {"accuracy": 0.5}}')
    with pytest.raises(FormatError, match="`baseline` lacks"):
        report.draw(tmp_path / "out.html", [folder])
