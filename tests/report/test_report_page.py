"""The page: whole, self-contained, escaped, and honest about what it does not know."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made_up_run
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from read_page import Page

from lilliput import report
from lilliput.errors import FormatError, UsageError, WorkError
from lilliput.report import page
from lilliput.report.outcome import Outcome
from lilliput.report.parts import FOLDER

EVIL = """<img src=x onerror="alert(1)"></script><script>alert('2')</script><b>&amp;{{ 7 * 7 }}"""
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(LEAVES, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=4), v, max_size=3))


@pytest.fixture(autouse=True)
def no_plotly(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five megabytes of script say nothing about the rest of a page."""
    if "with_plotly" not in request.fixturenames:
        monkeypatch.setattr(page, "_plotly", lambda: "/* plotly */")


@pytest.fixture
def with_plotly() -> None:
    """Asks for the real script."""


def outcome() -> Outcome:
    return Outcome(made_up_run.metrics(), made_up_run.details(), made_up_run.RECIPE)


def read(metrics: Any = None, details: Any = None, recipe: str | None = made_up_run.RECIPE) -> Page:
    whole = outcome()
    return Page(page.page(Outcome(metrics or whole.metrics, whole.details if details is None else details, recipe)))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to everything inside nested lists and dicts; of a list and of what goes by layer, to the first entry."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    keys = keys[:1] if isinstance(value, list) or "conv1" in keys else keys
    for key in keys:
        yield (*path, key)
        yield from places(value[key], (*path, key))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy in which what stood at `path` is `new`, or is gone where `new` is the class `KeyError`."""
    value = copy.deepcopy(value)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    if new is KeyError:
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return value


def few_metrics() -> dict[str, Any]:
    """Less of what there is much of, for what is tried with every key."""
    metrics = made_up_run.metrics()
    return {**metrics, "sensitivity": metrics["sensitivity"][:6]}


def few_details() -> dict[str, Any]:
    """The same of the details: eight layers."""
    details = made_up_run.details()
    for side in made_up_run.WIDTHS:
        details["layers"][side] = details["layers"][side][:8]
        names = [row["name"] for row in details["layers"][side]]
        for values, key in ((details["weights"], side), (details["times"][side], "layers")):
            values[key] = {name: found for name, found in values[key].items() if name in names}
    return details


METRICS = sorted(places(few_metrics()), key=str)
DETAILS = sorted(places(few_details()), key=str)


def test_a_report_is_one_small_file_that_names_no_address(tmp_path: Path, with_plotly: None) -> None:
    folder = made_up_run.write(tmp_path / "run")
    path = report.render(folder)
    text = path.read_text(encoding="utf-8")
    assert path == folder / "report.html"
    assert sorted(p.name for p in folder.iterdir()) == ["details.json", "metrics.json", "recipe.yaml", "report.html"]
    assert path.stat().st_size < 6_000_000
    assert "plotly.js v" in text and "Plotly.react" in text
    assert re.findall(r"(?:src|href|action|data)\s*=\s*[\"'`]?\s*(?:\w+:)?//[^\s]{0,40}", text) == []
    assert "://" not in text
    assert "default-src 'none'" in text


def test_nothing_outside_the_file_is_asked_for() -> None:
    found = read()
    links = [value for tag in found.attributes for name, value in tag.items() if name in ("src", "href")]
    assert {link[:1] for link in links} == {"#", "d"} and "data:," in links
    assert {link[1:] for link in links if link[0] == "#"} <= {tag.get("id") for tag in found.attributes}
    assert found.tags["link"] == 1 and not found.tags.keys() & {"img", "iframe", "object", "embed", "base"}
    assert "url(" not in (FOLDER / "page.css").read_text() and "@import" not in (FOLDER / "page.css").read_text()


def test_the_same_files_give_the_same_bytes() -> None:
    assert page.page(outcome()) == page.page(outcome())


def test_the_page_tells_the_whole_story() -> None:
    found = read()
    titles = (
        "Before and after", "The front", "Layers", "Bytes", "Weights", "Sensitivity", "Classes", "Training",
        "What was tried", "Recipe", "Edits", "Warnings",
    )  # fmt: skip
    for text in (
        *titles, "Environment", "resnet56 on cifar10", report.verdict(made_up_run.metrics()), "budget met", "94.37 %",
        "[93.9, 94.8]", "−0.42 points", "249.4 kB", "13.8x smaller", "1.57 ms", "[1.55, 1.66]", "onnxruntime", "cat",
        "−2.90 points", "layer3.8.conv2", "fit(epochs=4, lr=0.01)", "from the store", "12 candidates", "30 min 34 s",
        "A Made-Up Processor 9000", "8.200 GB", "2.13.0", "18 edits: 9 resize, 9 map.", "57 nodes", "/ReduceMean",
        *made_up_run.details()["warnings"], *made_up_run.details()["edits"],
    ):  # fmt: skip
        assert text in found.text, text
    assert made_up_run.RECIPE.strip() in found.text
    assert "not recorded" not in found.text


def test_every_chart_has_its_data() -> None:
    front, bars, classes, accuracy, loss, tried = read().charts
    assert len(front) == 3 and front[0]["line"]["x"] == [121_000, 249_400, 330_000, 733_000]
    assert len(bars) == 7 and all(len(b["labels"]) == len(b["before"]) == len(b["after"]) == len(b["hover"]) for b in bars)
    assert len(bars[0]["labels"]) == 56 and "conv1" in bars[0]["hover"][0]
    assert classes[0]["labels"][0] == "cat" and classes[0]["labels"][-1] == "truck"
    assert [line["name"] for line in accuracy[0]["lines"]] == ["training split", "validation split"]
    assert [mark["x"] for mark in accuracy[0]["marks"]] == [0.5, 8.5] and loss[0]["x"][8] is None
    assert tried[0]["group"].count("chosen") == 1
    assert [line["at"] for line in tried[0]["lines"]] == [250_000, 0.5]


def test_whatever_a_run_is_called_stays_text() -> None:
    plain, details = read(), made_up_run.details()
    details.update(model=EVIL, data=EVIL, classes=[EVIL, *details["classes"][1:]], float_nodes=[EVIL, EVIL])
    details["edits"][0] = details["warnings"][0] = details["stages"][0]["step"] = EVIL
    details["tried"][1]["methods"] = details["tried"][7]["methods"] = [EVIL]
    for side in details["layers"].values():
        side[0].update(name=EVIL, kind=EVIL)
    metrics = replaced(made_up_run.metrics(), ("device",), {EVIL: EVIL})
    metrics["failures"], metrics["budget"]["size"] = [EVIL], EVIL
    metrics["front"][0]["name"] = metrics["sensitivity"][0]["layer"] = metrics["sensitivity"][1]["method"] = EVIL
    details["weights"]["compressed"][EVIL] = details["weights"]["compressed"].pop("conv1")
    details["times"]["compressed"]["layers"]["linear"]["kernel"] = details["tried"][3]["why"] = EVIL
    metrics["baseline"]["latency_ms"]["runtime"] = EVIL
    found = read(metrics, details, EVIL)
    assert found.text.count(EVIL) >= 20
    for tag in ("img", "b", "script", "iframe"):
        assert found.tags[tag] == plain.tags[tag], tag
    assert not any(name.startswith("on") for tag in found.attributes for name in tag)
    assert "<img" not in json.dumps(found.charts) and "&lt;img" in json.dumps(found.charts)


@settings(max_examples=30)
@given(st.text(min_size=1, max_size=40), st.text(min_size=1, max_size=40))
def test_any_name_comes_back_as_it_was(model: str, warning: str) -> None:
    metrics = {**made_up_run.metrics(), "front": [], "sensitivity": []}
    found = read(metrics, {"model": model, "data": "cifar10", "warnings": [warning]})
    assert {f"{model} on cifar10".strip(), warning.strip()} - {""} <= set(found.texts)
    assert found.tags["script"] == 1


def test_a_name_that_is_no_text_is_written_all_the_same(tmp_path: Path) -> None:
    details = made_up_run.details()
    details["data"] = b"photos\xff".decode(errors="surrogateescape")
    folder = made_up_run.write(tmp_path)
    (folder / "details.json").write_text(json.dumps(details))
    assert "on photos?" in report.render(folder).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", METRICS, ids=lambda p: ".".join(map(str, p)))
def test_a_missing_metric_is_said_to_be_missing(path: tuple[Any, ...]) -> None:
    details = few_details()
    read(replaced(few_metrics(), path, None), details)
    found = read(replaced(few_metrics(), path, KeyError), details)
    if path[0] in ("baseline", "compressed") and path[-1] not in ("accuracy_interval", "p10", "p90", 0, 1):
        assert "not recorded" in found.text


@pytest.mark.parametrize("path", DETAILS, ids=lambda p: ".".join(map(str, p)))
def test_a_missing_detail_fails_nothing(path: tuple[Any, ...]) -> None:
    read(few_metrics(), replaced(few_details(), path, KeyError))


@settings(max_examples=50)
@given(st.data())
def test_no_value_anywhere_fails_a_report(data: st.DataObject) -> None:
    metrics = replaced(few_metrics(), data.draw(st.sampled_from(METRICS)), data.draw(VALUES))
    details = replaced(few_details(), data.draw(st.sampled_from(DETAILS)), data.draw(VALUES))
    read(metrics, details, None)


def test_a_report_of_nothing_says_so(tmp_path: Path, with_plotly: None) -> None:
    (tmp_path / "metrics.json").write_text("{}")
    text = report.render(tmp_path).read_text()
    found = Page(text)
    assert found.charts == [] and len(text) < 100_000
    assert "size not recorded, latency not recorded, accuracy not recorded; no budget was named." in found.text
    assert "The front" not in found.text and "Sensitivity" not in found.text
    whats = ("layers were", "weights were", "bytes of model.lil were", "accuracy of each class was", "steps of this run were")
    for what in (*whats, "recipe was", "edits were"):
        assert f"{what} not recorded" in found.text, what
    assert "%" not in found.text and " ms" not in found.text


def test_nothing_tried_is_not_the_same_as_nothing_recorded() -> None:
    details = made_up_run.details()
    assert "the recipe was given" in read(details={**details, "tried": []}).text
    del details["tried"]
    assert "What was tried was not recorded." in read(details=details).text


def test_a_folder_without_metrics_is_a_wrong_call(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"metrics\.json"):
        report.render(tmp_path)


@pytest.mark.parametrize(("content", "offset"), [(b'{"a": }', 6), (b"[1]", None), (b'{"a": "\xff"}', 7), (b"", 0)])
@pytest.mark.parametrize("name", ["metrics.json", "details.json"])
def test_a_file_that_is_not_what_its_name_says(tmp_path: Path, name: str, content: bytes, offset: int | None) -> None:
    folder = made_up_run.write(tmp_path)
    (folder / name).write_bytes(content)
    with pytest.raises(FormatError, match=re.escape(name)) as error:
        report.render(folder)
    assert error.value.offset == offset
    assert not (folder / "report.html").exists()


def test_a_report_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = made_up_run.write(tmp_path)
    (folder / "report.html").mkdir()
    with pytest.raises(WorkError, match="cannot be written"):
        report.render(folder)
    assert sorted(p.name for p in folder.iterdir()) == ["details.json", "metrics.json", "recipe.yaml", "report.html"]
