"""The chapters on the front, sensitivity, weights, bytes and layers: true to what a run wrote down, and silent without it."""

from __future__ import annotations

import math
from typing import Any

import made_up_run
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from read_page import Page

from lilliput.measure.chance import difference, mcnemar
from lilliput.report import contents, doubts, front, layers, notes, sensitivity, tried, weights
from lilliput.report.outcome import Outcome
from lilliput.report.parts import Band, Bands, Chart, Panels, Section, Table

SHARES = st.floats(0, 1)
POINTS = st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20)), max_size=12)


def outcome(metrics: dict[str, Any] | None = None, details: dict[str, Any] | None = None) -> Outcome:
    """The made-up run with some keys replaced."""
    return Outcome({**made_up_run.metrics(), **(metrics or {})}, {**made_up_run.details(), **(details or {})})


def part(section: Section | None, kind: type[Any]) -> Any:
    """The first part of a kind in a section, folded ones included."""
    assert section is not None
    return next(p for each in section.parts for p in (each, getattr(each, "part", None)) if isinstance(p, kind))


def column(table: Table, title: str) -> list[str]:
    place = [c.title for c in table.columns].index(title)
    return [row[place].text for row in table.rows]


# --- the front -----------------------------------------------------------------------------------------------------------


@given(POINTS)
def test_nothing_is_beaten_by_what_stands_on_the_line(points: list[tuple[float, float]]) -> None:
    line = front.frontier(points)
    assert line == sorted(set(line)) and [y for _, y in line] == sorted({y for _, y in line})
    for cost, accuracy in points:
        assert any(c <= cost and a >= accuracy for c, a in line)


def test_every_candidate_is_drawn_with_its_cost_and_fate() -> None:
    section = front.section(outcome())
    chart, rows = part(section, Chart), made_up_run.front()
    assert [choice.title for choice in chart.choices] == ["against size", "against latency", "against milliseconds"]
    for key, data in zip(("bytes", "ratio", "ms"), chart.data, strict=True):
        assert data["x"][:-1] == [row[key] for row in rows] and data["group"][-1] == "baseline"
        assert data["y"][:-1] == [100 * row["accuracy"] for row in rows]
        assert data["group"].count("chosen") == 1 and data["group"].count("dominated") == 2
    assert [line["at"] for line in chart.data[1]["lines"]] == [0.5, 94.5 - 1]
    fates = column(part(section, Table), "Outcome")
    assert fates[0] == "misses the budget: size over 250.0 kB" and fates[2] == "chosen"
    assert fates[4] == "misses the budget: size over 250.0 kB, latency over 0.50x; beaten by inner channels 0.75, int8"


def test_a_candidate_without_a_number_is_in_the_table_alone() -> None:
    rows = made_up_run.front()
    del rows[0]["bytes"]
    section = front.section(outcome({"front": rows}))
    first, second, _ = part(section, Chart).data
    assert len(first["x"]) == len(rows) and len(second["x"]) == len(rows) + 1
    assert column(part(section, Table), "Size")[0] == "—"


def test_no_front_and_no_sensitivity_make_no_chapter() -> None:
    for empty in ([], None, "nothing", [1, 2]):
        assert front.section(outcome({"front": empty})) is None
        assert sensitivity.section(outcome({"sensitivity": empty})) is None


# --- sensitivity ---------------------------------------------------------------------------------------------------------


def test_every_measurement_has_a_dot_and_a_row() -> None:
    section, rows = sensitivity.section(outcome()), made_up_run.sensitivity()
    panels = part(section, Panels)
    assert [panel.title for panel in panels.panels] == list(dict.fromkeys(row["layer"] for row in rows))
    dots = [mark.text for panel in panels.panels for mark in panel.marks if mark.role.startswith("dot")]
    assert len(dots) == len(rows) and "prune.channels at 75 %: 55.12 %" in dots
    assert [meaning for _, meaning in panels.legend] == ["prune.channels", "factor.factorize"]
    assert section is not None
    text = Page(str(section.html())).text
    assert f"{len(rows)} measurements." in text and "The most sensitive is conv1" in text


@given(st.lists(SHARES, min_size=1, max_size=8), SHARES)
def test_what_a_layer_bears_is_what_held_all_the_way(accuracies: list[float], least: float) -> None:
    points = tuple((i / 8, accuracy) for i, accuracy in enumerate(accuracies))
    held = sensitivity.Curve("conv", "method", points).bears(least)
    if held is None:
        assert accuracies[0] < least
    else:
        assert all(accuracy >= least for amount, accuracy in points if amount <= held)
        assert all(accuracy < least for amount, accuracy in points if amount == held + 1 / 8)


@given(st.lists(st.tuples(SHARES, SHARES), min_size=1, max_size=6))
def test_every_dot_lies_in_its_panel(points: list[tuple[float, float]]) -> None:
    rows = [{"layer": "conv", "method": "m", "amount": x, "accuracy": y} for x, y in points]
    panels = part(sensitivity.section(outcome({"sensitivity": rows})), Panels)
    for mark in panels.panels[0].marks:
        if mark.role.startswith("dot"):
            x, y = map(float, mark.path[1:-2].split())
            assert 0 <= x <= sensitivity.WIDTH and 0 <= y <= sensitivity.HEIGHT


# --- weights and bytes ---------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.floats(0.1, 4))
def test_an_outline_is_as_high_as_the_counts(counts: list[int], scale: float) -> None:
    path = weights.outline([float(n) for n in counts], 1.0, 1 / scale)
    heights = [float(step.split("H")[0]) for step in path.removesuffix("Z").split("V")[1:-1]]
    peak = max(counts) or 1
    assert heights == pytest.approx([80 * (1 - n / peak) for n in counts], abs=0.01)
    ends = [float(step.split("H")[1]) for step in path.split("V")[1:-1]]
    assert ends == sorted(ends) and ends[-1] - float(path[1:].split()[0]) == pytest.approx(200 * scale, abs=0.2)


def test_sides_that_differ_widely_have_their_own_axes() -> None:
    counts = [1] * 64
    near, far = ({"elements": 64, "zeros": 0, "edge": edge, "counts": counts} for edge in (0.1, 2.0))
    found = weights.section(outcome(details={"weights": {"baseline": {"conv": near}, "compressed": {"conv": far}}}))
    panel = part(found, Panels).panels[0]
    assert panel.across == ("−0.1 → −2", "0", "0.1 → 2") and panel.marks[0].path == panel.marks[1].path


def test_every_layer_has_a_histogram_somewhere() -> None:
    section = weights.section(outcome())
    names, text = made_up_run.histograms("baseline"), str(section.html())
    assert len(names) > weights.SHOWN and all(f">{name}<" in text for name in names) and "0 → 30\u00a0% zero" in text


def test_a_bar_is_the_whole_file() -> None:
    section = contents.section(outcome())
    bands: list[Band] = list(part(section, Bands).bands)
    assert [math.isclose(sum(share for _, share, _ in band.shares), 1) for band in bands] == [True, True]
    table = part(section, Table)
    assert column(table, "After")[-1] == "249.4 kB" and column(table, "Before")[-1] == "3.442 MB"
    assert "masks and flags" not in column(table, "Kind")


# --- layers --------------------------------------------------------------------------------------------------------------


def row(name: str, kind: str, macs: int, **more: Any) -> dict[str, Any]:
    return {**made_up_run.layer(kind, name, macs, macs, 32.0, [1, 8, 4, 4]), **more}


def test_factors_are_summed_up_as_the_layer_they_replace() -> None:
    before = [row("stem", "Conv2d", 50), row("conv", "Conv2d", 900)]
    inner = [row("conv.first", "Conv2d", 100, bits=8.0), row("conv.last", "Conv2d", 300, bits=16.0)]
    after = [row("stem", "Conv2d", 50), *inner, row("conv", "Svd", 0, bits=None), row("conv2", "Conv2d", 7)]
    times = {"compressed": {"layers": {"conv.first": {"ms": 0.25, "kernel": "int8"}, "conv.last": {"ms": 0.5}}}}
    details = {"layers": {"baseline": before, "compressed": after}, "times": times, "ranks": {"compressed": {"conv": 5}}}
    _, found = layers.sides(outcome(details=details))
    assert [layer["name"] for layer in found] == ["stem", "conv", "conv2"]
    assert found[1]["macs"] == 400 and found[1]["ms"] == 0.75 and found[1]["rank"] == 5 and found[1]["bits"] == 14
    assert found[1]["kind"] == "Svd: Conv2d and Conv2d" and found[1]["kernel"] == "int8"
    kinds = part(layers.section(outcome(details=details)), Table)
    assert column(kinds, "Kind") == ["Convolutions"] and column(kinds, "MACs") == ["950 → 457"]
    assert column(kinds, "Layers") == ["2 → 3"]


def test_measured_milliseconds_are_a_quantity_like_others() -> None:
    chart = part(layers.section(outcome()), Chart)
    found = {choice.title: choice.data for choice in chart.choices}
    assert found["Milliseconds"]["before"][0] == made_up_run.times("baseline")["layers"]["conv1"]["ms"]
    assert "Rank" not in found and "Sparsity" not in found
    rows = made_up_run.layers("compressed")
    rows[0]["density"] = 0.25
    details = {"layers": {"baseline": made_up_run.layers("baseline"), "compressed": rows}}
    found = {c.title: c.data for c in part(layers.section(outcome(details=details)), Chart).choices}
    assert found["Sparsity"]["after"][0] == 75


# --- what became of candidates, and what a reader might not expect ----------------------------------------------------------


def test_what_was_dropped_says_why() -> None:
    rows = made_up_run.tried()
    rows[0]["why"] = "it is the network itself"
    fates = column(part(tried.section(outcome(details={"tried": rows})), Table), "Outcome")
    assert fates[0] == "it is the network itself" and fates[9] == "chosen"
    assert fates[1] == "misses the budget: size over 250.0 kB, latency over 0.50x"
    assert fates[11] == "meets the budget; less accurate before training than the chosen one"


def test_times_are_held_against_the_limit_as_it_was_asked_for() -> None:
    budget = {"latency": {"value": 1.2, "ratio": False}}
    rows = [{"methods": [], "ms": ms, "ratio": 0.5, "bytes": 9, "meets": False} for ms in (1.3, 1.1)]
    fates = column(part(tried.section(outcome({"budget": budget}, {"tried": rows})), Table), "Outcome")
    assert fates == ["misses the budget: latency over 1.20 ms", "too close to the budget to be sure of it"]


def test_memory_is_a_cost_where_it_is_limited() -> None:
    budget = {"memory": {"value": 0.25, "ratio": True}}  # of 196,608 bytes
    rows = [{**row, "memory": 10_000 * (i + 3), "meets": i < 2} for i, row in enumerate(made_up_run.front())]
    section = front.section(outcome({"front": rows, "budget": budget}))
    assert part(section, Chart).choices[-1].title == "against memory"
    assert part(section, Chart).data[-1]["lines"] == [{"axis": "x", "at": 0.25 * 196_608, "text": "memory budget"}]
    table = part(section, Table)
    assert column(table, "Memory")[0] == "30.00 kB"
    assert "Memory" not in [c.title for c in part(front.section(outcome()), Table).columns]
    assert column(table, "Outcome")[5].startswith("misses the budget: memory over 49.15 kB")
    rows = [{"methods": [], "ms": 1.0, "ratio": 0.5, "bytes": 9, "memory": 60_000, "meets": False}]
    fates = column(part(tried.section(outcome({"budget": budget}, {"tried": rows})), Table), "Outcome")
    assert fates == ["misses the budget: memory over 49.15 kB"]


def test_images_known_by_heart_speak_against_no_candidate() -> None:
    before = {**made_up_run.metrics()["baseline"], "val_accuracy": 0.985}
    rows = [{**row, "meets": False} for row in made_up_run.front()]
    section = front.section(outcome({"baseline": before, "front": rows}))
    chart, text = part(section, Chart), str(section.html())  # type: ignore[union-attr]
    assert "is not held against the budget" in text and "accuracy on validation below" not in text
    assert not any(line["axis"] == "y" for data in chart.data for line in data["lines"])
    fates = column(part(section, Table), "Outcome")
    assert fates[0] == "misses the budget: size over 250.0 kB" and fates[2] == "chosen"
    assert fates[3] == "meets the budget; another was preferred"
    trained = [{**row, "methods": [], "epochs": 3, "why": "", "proxy_accuracy": None} for row in rows]
    section = tried.section(outcome({"baseline": before}, {"tried": trained}))
    assert column(part(section, Table), "Outcome")[2:4] == ["chosen", "meets the budget; another was preferred"]


def test_what_is_lost_on_images_never_seen_counts() -> None:
    rows = [{**row, "meets": False, "accuracy": 0.93} for row in made_up_run.front()]
    section = front.section(outcome({"front": rows}))
    assert column(part(section, Table), "Outcome")[2] == "chosen; misses the budget: accuracy on validation below 93.50 %"
    assert "held against" not in str(section.html())  # type: ignore[union-attr]


def test_candidates_of_a_search_bring_their_names_and_epochs() -> None:
    more = {"accuracy": 0.91, "why": ""}
    rows = [{**row, **more, "name": f"way {i}", "epochs": 2 * (i == 9)} for i, row in enumerate(made_up_run.tried())]
    section = tried.section(outcome(details={"tried": rows}))
    table, text = part(section, Table), str(section.html())
    assert column(table, "Candidate")[9] == "way 9" and column(table, "Epochs")[8:10] == ["0", "2"]
    assert set(column(table, "Accuracy")) == {"91.00 %"} and column(table, "Outcome")[9] == "chosen"
    assert "12 candidates, 1 of them trained." in text and "prune.channels(keep=0.5" in text
    assert "Epochs" not in [c.title for c in part(tried.section(outcome()), Table).columns]


def found(metrics: dict[str, Any] | None = None, details: dict[str, Any] | None = None) -> str:
    return "\n".join(doubts.doubts(outcome(metrics, details)))


def slow() -> dict[str, Any]:
    compressed = made_up_run.metrics()["compressed"]
    compressed["latency_ms"].update(median=3.31, p10=3.27, p90=3.4)
    return {"compressed": compressed}


def test_a_good_run_leaves_no_doubt() -> None:
    assert found() == ""


def test_what_is_not_faster_is_said() -> None:
    text = found(slow())
    assert "int8 is not faster on this CPU: 3.31 ms before, 3.31 ms after on onnxruntime." in text
    assert "3.3x fewer multiply-adds, yet not faster on this CPU" in text
    assert "int8" not in found(slow(), {"integer_nodes": 0})
    restless = slow()
    restless["compressed"]["latency_ms"].update(median=1.5, p10=1.4, p90=9.0)
    assert "not faster" not in found(restless)
    rows = made_up_run.tried()
    rows[1]["ratio"] = 1.04
    assert found(details={"tried": rows}).startswith("int8 alone is not faster on this CPU: it takes 1.04x")


def test_zeros_that_nothing_uses_are_said() -> None:
    rows = made_up_run.layers("compressed")
    for each in rows:
        each["effective_macs"] = each["macs"] // 10
    details = {"layers": {"baseline": [], "compressed": rows}, "dense_nodes": ["/conv1: too few"]}
    text = found(details=details)
    assert "90.00 % of the multiply-adds have a weight of zero" in text and "1 layer full of zeros" in text
    assert "/conv1: too few" in str(notes.warnings(outcome(details=details)).html())
    assert "multiply-adds" not in found(details={**details, "packed_nodes": {"SparseConv": 3}})


def test_a_busy_machine_and_a_class_given_up_are_said() -> None:
    noisy = made_up_run.metrics()["compressed"]
    noisy["latency_ms"].update(p10=1.5, p90=9.5)
    assert "Latencies after spread from 1.50 ms to 9.50 ms" in found({"compressed": noisy})
    scores = made_up_run.details()["per_class"]
    scores["compressed"][3] -= 0.2
    assert "The class cat changed by −22.90 points" in found(details={"per_class": scores})


def test_a_file_over_the_size_asked_for_is_said_where_the_other_keeps_it() -> None:
    small = {**made_up_run.metrics()["compressed"], "onnx_bytes": 918_000}
    assert "model.onnx takes 918.0 kB, more than the 250.0 kB asked for" in found({"compressed": small})
    assert found({"compressed": small, "budget": {"latency": {"value": 0.5, "ratio": True}}}) == ""
    assert found({"compressed": {**small, "file_bytes": 260_000}}) == ""  # the verdict says it already


def test_a_run_says_how_it_was_called_and_on_what() -> None:
    said = outcome(details={"command": "lilliput compress it --size '9 kB'", "start": "abc", "images": {"val": 1000}})
    made = Outcome(said.metrics, said.details, "steps: []")
    assert "lilliput compress it --size &#39;9 kB&#39;" in str(notes.recipe(made).html())
    text = str(notes.environment(made).html())
    assert "abc" in text and "images.val" in text


def test_validation_images_that_were_learned_before_are_said() -> None:
    before = made_up_run.metrics()["baseline"]
    text = found({"baseline": {**before, "val_accuracy": 0.985}})
    assert "98.50 % of the validation images but 94.37 % of the test images" in text
    assert found({"baseline": {**before, "val_accuracy": 0.97}}) == ""
    assert "99.00 %" in found({"baseline": {**before, "val_accuracy": 0.99, "accuracy_interval": None}})


@given(st.integers(0, 400), st.integers(0, 400))
def test_the_test_of_changed_answers_is_a_probability(lost: int, gained: int) -> None:
    assert 0 <= mcnemar(lost, gained) == mcnemar(gained, lost) <= 1


@given(st.integers(0, 400), st.integers(0, 400), st.integers(800, 5000))
def test_the_interval_of_a_difference_holds_it_and_turns_with_it(lost: int, gained: int, total: int) -> None:
    low, high = difference(lost, gained, total)
    assert -1 <= low <= (gained - lost) / (total + 2) <= high <= 1
    assert difference(gained, lost, total) == pytest.approx((-high, -low))
    assert difference(lost, gained, 4 * total)[1] - difference(lost, gained, 4 * total)[0] < high - low


def test_an_interval_of_95_percent_misses_about_one_in_twenty() -> None:
    """Of networks that differ truly by two points on the images they disagree on."""
    draw, held = np.random.default_rng(0), 0
    for _ in range(2000):
        lost, gained, _ = draw.multinomial(1000, [0.03, 0.05, 0.92])
        low, high = difference(int(lost), int(gained), 1000)
        held += low <= 0.02 <= high
    assert 0.935 < held / 2000 < 0.97


def test_large_counts_go_on_where_small_ones_end() -> None:
    exact = 2 * sum(math.comb(501, k) for k in range(222)) / 2**501
    assert mcnemar(280, 221) == pytest.approx(exact, rel=0.02)
    assert mcnemar(10_000, 10_000) == 1
