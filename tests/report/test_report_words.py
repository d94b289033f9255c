"""The words of a report: the verdict, the table for the terminal, numbers, and layers side by side."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import made_up_run
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from lilliput import report
from lilliput.report import amounts
from lilliput.report.compared import FIGURES, table
from lilliput.report.layers import paired
from lilliput.report.parts import Prose, plain
from lilliput.report.verdict import asked, limit, met

SIZES = st.floats(1e-3, 1e12, allow_nan=False)
NAMES = st.lists(st.sampled_from("abcdefgh"), unique=True)


def shown(metrics: dict[str, Any], width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width, no_color=True).print(report.summary(metrics))
    return out.getvalue()


def test_the_summary_fits_eighty_columns_with_one_line_a_figure() -> None:
    text = shown(made_up_run.metrics(), 80)
    rows = [line for line in text.splitlines() if line.lstrip().startswith(tuple(f.title for f in FIGURES))]
    assert len(rows) == len(FIGURES)
    assert "3.31 ms [3.28, 3.40]   1.57 ms [1.55, 1.66]     2.1x faster" in text
    assert "94.37 % [93.9, 94.8]" in text and "onnxruntime, 1 thread, 200 runs" in " ".join(text.split())


def test_the_summary_of_nothing_says_so() -> None:
    assert shown({}, 80).count("not recorded") == 3 * len(FIGURES)


def test_the_table_on_the_page_is_the_one_on_the_terminal() -> None:
    metrics = made_up_run.metrics()
    html, text = str(table(metrics).html()), shown(metrics, 100)
    assert all(cell.text in html and cell.text in text for row in table(metrics).rows for cell in row)


def test_square_brackets_are_no_markup_on_the_terminal() -> None:
    metrics = made_up_run.metrics()
    metrics["baseline"]["latency_ms"]["runtime"] = "[bold]fast[/bold]"
    assert "[bold]fast[/bold]" in shown(metrics, 200)
    assert Prose("[red]x").__rich__().plain == "[red]x"


def test_a_change_is_good_or_bad_by_its_figure() -> None:
    tones = {row[0].text: row[3].tone for row in table(made_up_run.metrics()).rows}
    assert tones.pop("Accuracy (test)") == tones.pop("Accuracy (val)") == "bad"
    assert set(tones.values()) == {"good"}
    metrics = made_up_run.metrics()
    same = table({"baseline": metrics["baseline"], "compressed": metrics["baseline"]})
    assert {row[3].tone for row in same.rows} == {""}


def test_the_verdict_is_one_sentence() -> None:
    metrics = made_up_run.metrics()
    assert report.verdict(metrics) == "13.8x smaller, 2.1x faster, 0.4 points less accurate; every budget is met."
    assert met(metrics) is True


def test_a_missed_budget_is_named_with_its_numbers() -> None:
    failures = ["latency: 2.103 ms (0.63x), 0.447 ms over the 1.656 ms asked for", "size: too large."]
    metrics = {**made_up_run.metrics(), "failures": failures}
    assert report.verdict(metrics).endswith(f"; missed: {failures[0]}; size: too large.")
    assert met(metrics) is False


def test_no_budget_is_neither_met_nor_missed() -> None:
    metrics = {**made_up_run.metrics(), "budget": {"size": None, "latency": None, "max_drop": None}}
    assert met(metrics) is None and report.verdict(metrics).endswith("; no budget was named.")
    del metrics["failures"]
    unknown = {**metrics, "budget": {"max_drop": 1}}
    assert met(unknown) is None and report.verdict(unknown).endswith("; whether the budgets are met was not recorded.")


def test_speed_within_the_spread_is_not_claimed() -> None:
    metrics = made_up_run.metrics()
    metrics["compressed"]["latency_ms"].update(median=3.2, p10=3.1, p90=3.29)
    assert "3.4 % faster (their spreads overlap)" in report.verdict(metrics)


@pytest.mark.parametrize(
    ("was", "now", "words"),
    [
        (0.9, 0.9, "equally accurate"),
        (0.9, 0.9004, "0.04 points more accurate"),
        (0.9, 0.87, "3.0 points less accurate"),
        (0.9, 0.90001, "equally accurate"),
        (None, 0.9, "90.00 % accurate (before: not recorded)"),
        (0.9, None, "accuracy not recorded"),
    ],
)
def test_accuracy_in_words(was: float | None, now: float | None, words: str) -> None:
    assert words in report.verdict({"baseline": {"accuracy": was}, "compressed": {"accuracy": now}})


@pytest.mark.parametrize(("lost", "gained", "chance"), [(114, 122, True), (80, 38, False), (0, 0, True), (None, 3, False)])
def test_accuracy_that_could_be_chance_says_so(lost: int | None, gained: int, chance: bool) -> None:
    after = {"accuracy": 0.9016, "answers": {"lost": lost, "gained": gained}}
    said = report.verdict({"baseline": {"accuracy": 0.9}, "compressed": after})
    assert ("0.2 points more accurate (which could be chance)" in said) is chance and "0.2 points more accurate" in said


@pytest.mark.parametrize(
    ("latency", "bound", "words"),
    [
        ({"value": 0.5, "ratio": True}, 2.0, "latency at most 0.5x"),
        ({"value": 5, "ratio": False}, 5.0, "latency at most 5 ms"),
        (5, 5.0, "latency at most 5 ms"),
        ("0.5x", None, "latency at most 0.5x"),
    ],
)
def test_budgets_are_read_as_runs_write_them(latency: Any, bound: float | None, words: str) -> None:
    metrics = {"budget": {"latency": latency}}
    assert asked(metrics) == [words] and limit(metrics, "latency", 4.0) == bound


@given(SIZES, SIZES)
def test_there_and_back_is_the_same_factor(a: float, b: float) -> None:
    there, back = amounts.times(a, b, "smaller", "larger"), amounts.times(b, a, "smaller", "larger")
    if "x " in there and "x " in back:
        assert there.split()[0] == back.split()[0] and {there.split()[1], back.split()[1]} == {"smaller", "larger"}
    assert (there == "unchanged") == (a == b)


@given(st.floats(0, 1), st.floats(0, 1))
def test_points_lost_one_way_are_won_the_other(a: float, b: float) -> None:
    there, back = amounts.points(a, b), amounts.points(b, a)
    assert there.translate(str.maketrans("+−", "−+")) == back


@given(st.floats(0.001, 1e6))
def test_three_digits_are_within_half_a_percent(value: float) -> None:
    assert float(amounts.digits(value).replace(",", "")) == pytest.approx(value, rel=5.1e-3)


@pytest.mark.parametrize("value", [None, True, "3", float("nan"), float("inf"), [3], {}])
def test_what_is_no_number_is_none(value: object) -> None:
    assert amounts.number(value) is None


@given(NAMES, NAMES)
def test_every_layer_of_either_network_has_one_place(before: list[str], after: list[str]) -> None:
    pairs = paired([{"name": n} for n in before], [{"name": n} for n in after])
    names = [(was or now)["name"] for was, now in pairs]
    assert sorted(names) == sorted({*before, *after})
    assert [n for n in names if n in before] == before
    assert all(not (was and now) or was["name"] == now["name"] for was, now in pairs)


def test_new_layers_stand_where_the_old_one_stood() -> None:
    before, after = ["a", "conv", "z"], ["a", "conv.first", "conv.core", "conv.last", "z"]
    pairs = paired([{"name": n} for n in before], [{"name": n} for n in after])
    assert [(was or now)["name"] for was, now in pairs] == ["a", "conv.first", "conv.core", "conv.last", "conv", "z"]


@given(st.text(max_size=200))
def test_names_in_charts_are_short_and_escaped(text: str) -> None:
    found = plain(text, 20)
    assert "<" not in found and ">" not in found
    assert len(found.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")) <= 20


def test_importing_the_report_loads_no_plotly() -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import lilliput.report; print('plotly' in sys.modules)"
    src = Path(report.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code, src], capture_output=True, text=True).stdout == "False\n"
