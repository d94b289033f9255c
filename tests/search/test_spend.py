"""A search by hours: what it plans and recommends, that it goes on where it was killed, and that two processes share it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent))
from small import network, task

from lilliput import zoo
from lilliput.core.layers import Mapped
from lilliput.errors import ConfigError, UnknownName
from lilliput.kernels import Worth
from lilliput.measure import Latency
from lilliput.prune import Weights as Zeros
from lilliput.quant import Quantize
from lilliput.recipe import Bench, Recipe, Student, run
from lilliput.search import Budget, Effort, Proposal, Remembered, Search
from lilliput.search.budget import MARGIN
from lilliput.search.candidates import FAMILIES, Candidate, widths
from lilliput.search.halving import Rung
from lilliput.search.planning import CLOSE
from lilliput.search.trials import Outcome
from lilliput.store import file_bytes
from lilliput.train import Fit

pytest.importorskip("optuna", reason="a search by hours needs Optuna")
BUDGET = Budget.read(latency="0.6x", size="0.3x")
LAST = 12
EFFORT = Effort(0.005, families=("channels", "inner channels"))


class Weights:
    """A clock that charges by the weight, and less for integers: exact, so that the same is always chosen."""

    threads = 1

    def __call__(self, model: nn.Module) -> float:
        layers = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        price = 0.7 if any(isinstance(m, Mapped) for m in layers) else 1.0
        return price * sum(m.weight.numel() for m in layers) / 1000

    def ratio(self, model: nn.Module, baseline: nn.Module) -> float:
        return self(model) / self(baseline)

    def compare(self, models: dict[str, nn.Module], seconds: float = 1.0) -> dict[str, Latency]:
        return {name: Latency(self(m), 0, 0, 1, "fake", 1) for name, m in models.items()}

    def layers(self, shapes: Any) -> list[float]:
        return [1.0 for _ in shapes]

    def inside(self, model: nn.Module) -> dict[str, float]:
        return {}


def search(folder: Path, budget: Budget = BUDGET, effort: Effort = EFFORT) -> Search:
    """A search of a few seconds, trained for as long as a plan says that an epoch takes half a second."""
    known = Remembered(Weights(), folder / "times.json")  # type: ignore[arg-type]
    bench = Bench(task(), folder / "store", clock=known)
    made = Search(network(1.0).eval(), bench, known, budget, effort, folder / "search", lambda line: None)
    made.fit = replace(made.fit, batch_size=27)
    known.keep(f"epoch {effort.precision}", lambda: 0.5)
    known.keep("rounding", lambda: 0.03)
    known.keep(f"planning {made.trials.name}", lambda: 0.0)
    made.trials.agreed("last", lambda: LAST)  # what hours leave differs from run to run
    return made


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Search, Proposal]:
    """A search that is over, which the tests look at."""
    folder = tmp_path_factory.mktemp("finished")
    it = search(folder)
    return folder, it, it.go()


def test_it_recommends_the_best_of_what_it_trained_and_meets_the_budget(finished: tuple[Path, Search, Proposal]) -> None:
    _, it, found = finished
    rows: list[Any] = list(found.tried)
    (chosen,) = [r for r in rows if r.chosen]
    assert found.reachable and chosen.value == max(r.value for r in rows if r.value is not None)
    assert chosen.ratio <= 0.6 * MARGIN + 1e-9 and chosen.bytes <= 0.3 * file_bytes(it.model)
    again = run(it.model, found.recipe, it.bench).model
    assert file_bytes(again) == chosen.bytes and any(isinstance(s, Fit) for s in found.recipe.steps)
    assert all(r.why for r in rows if r.epochs == 0 and not r.bytes), "what was left out says why"
    json.dumps([r.to_json() for r in rows])


def test_the_front_holds_what_nothing_beats(finished: tuple[Path, Search, Proposal]) -> None:
    front = finished[2].front
    points = [(row["bytes"], row["ratio"], -row["accuracy"]) for row in front]
    assert any(row["chosen"] for row in front)
    for row, point in zip(front, points, strict=True):
        beaten = any(other != point and all(a <= b for a, b in zip(other, point, strict=True)) for other in points)
        assert row["dominated"] == beaten


def test_a_candidate_that_fails_when_trained_for_longer_counts_as_it_was(
    finished: tuple[Path, Search, Proposal], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, it, _ = finished
    first = it.trials.outcomes(1)[0]
    number = next(n for n, each in first.items() if each.value is not None)
    monkeypatch.setattr(it.trials, "outcomes", lambda rungs: [first, {number: Outcome(None, {"why": "it burst"})}])
    candidates = [Candidate.from_json(c) for c in it.plan()["candidates"]]
    row = list(it._trained(candidates, it.plan()["rungs"]))[number]
    assert row.value == first[number].value and row.bytes == first[number].found["bytes"]
    assert row.why == "trained for longer: it burst"


def test_where_all_training_fails_nothing_untrained_is_recommended_that_lost_channels(
    finished: tuple[Path, Search, Proposal], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, it, _ = finished
    failed = {n: Outcome(None, {"why": "it burst"}) for n in it.trials.outcomes(1)[0]}
    monkeypatch.setattr(it.trials, "outcomes", lambda rungs: [failed])
    assert all(isinstance(step, Quantize) for step in it.choose().recipe.steps)


def test_what_needs_no_training_keeps_the_margin_that_candidates_keep(finished: tuple[Path, Search, Proposal]) -> None:
    _, it, _ = finished
    start = it.start
    known = Candidate("as it is", (), "int8", memory=start["memory"], accuracy=start["accuracy"])
    for share, kept in ((0.6 * MARGIN, True), (0.6 * (MARGIN + 1) / 2, False)):
        row = it._untrained(replace(known, ratio=share, ms=share * start["ms"]))
        assert (row.value is not None) == kept == (row.why == "")


def test_called_again_it_trains_nothing_and_says_the_same(finished: tuple[Path, Search, Proposal]) -> None:
    folder, _, first = finished
    states = {p: p.stat().st_mtime_ns for p in (folder / "store").rglob("stage.json")}
    second = search(folder).go()
    assert second.recipe == first.recipe and second.front == first.front
    assert states == {p: p.stat().st_mtime_ns for p in (folder / "store").rglob("stage.json")}


def test_the_winner_trains_for_what_the_hours_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    it = search(tmp_path)
    it.say = said.append
    it.plan()
    monkeypatch.setattr(it.trials, "agreed", lambda key, find: find())
    monkeypatch.setattr("lilliput.search.spend.epoch_seconds", lambda *_: 0.5)
    ladder, candidate = [Rung(**r) for r in it.plan()["rungs"]], Candidate.from_json(it.plan()["candidates"][0])
    assert len(ladder) > 1, "with one rung nothing can be left over"
    found = {}
    for worked in (1.0, 8.0, 1000.0):
        monkeypatch.setattr(it.trials, "worked", lambda worked=worked: worked)
        *before, found[worked] = it._epochs(candidate, ladder)
        assert before == [r.epochs for r in ladder[:-1]]
        assert it._epochs(candidate, ladder[:-1]) == before, "only the last rung waits for what is left"
    assert found[1.0] == int((it.plan()["seconds"] - 1) / 0.5) > found[8.0] > found[1000.0] == ladder[-2].epochs
    assert "until the hours are over" in said[-1]


VICTIM = """
import sys
sys.path.insert(0, {tests!r})
from search.test_spend import search
from pathlib import Path
made = search(Path({folder!r}))
made.{what}()
"""


def other(folder: Path, what: str) -> subprocess.Popen[bytes]:
    """Another process at the same search."""
    code = VICTIM.format(tests=str(Path(__file__).parent.parent), folder=str(folder), what=what)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", code], env=env)


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_same_recommendation(
    tmp_path: Path, finished: tuple[Path, Search, Proposal]
) -> None:
    for _ in range(3):
        victim, stages = other(tmp_path, "go"), written(tmp_path)
        until = time.monotonic() + 20
        while victim.poll() is None and written(tmp_path) <= stages + 1 and time.monotonic() < until:
            time.sleep(0.02)
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
    killed = search(tmp_path).go()
    assert killed.recipe == finished[2].recipe and killed.front == finished[2].front


def written(folder: Path) -> int:
    """How far a search is: stages and epochs on disk."""
    return sum(1 for p in folder.rglob("*") if p.name in ("stage.json", "fit.safetensors", "times.json"))


@pytest.mark.slow
def test_two_workers_never_train_the_same_prefix(tmp_path: Path) -> None:
    search(tmp_path).plan()
    workers = [other(tmp_path, "join") for _ in range(2)]
    assert [w.wait() for w in workers] == [0, 0]
    trials = search(tmp_path).trials
    done = Counter((t.user_attrs["rung"], t.user_attrs["candidate"]) for t in trials.study.get_trials() if t.value is not None)
    assert done and set(done.values()) == {1}
    ladder = [Rung(**r) for r in (trials.plan or {})["rungs"]]
    assert [len(each) for each in trials.outcomes(len(ladder))] == [r.entrants for r in ladder]


def test_only_accuracy_limited_the_fastest_that_keeps_it_is_taken(tmp_path: Path) -> None:
    found = search(tmp_path, Budget.read(max_drop=100)).go()
    rows: list[Any] = [r for r in found.tried if r.accuracy is not None]  # type: ignore[attr-defined]
    assert next(r for r in rows if r.chosen).ratio == min(r.ratio for r in rows if r.value is not None)


def test_hours_and_workers_that_cannot_be(tmp_path: Path) -> None:
    for effort in (Effort(0), Effort(float("inf")), Effort(1, workers=0), Effort(1, workers=2)):
        with pytest.raises(ConfigError, match=r"`(hours|workers)`"):
            effort.check()
    with pytest.raises(UnknownName, match="blocks"):
        Effort(1, families=("block",)).check()


def test_where_nothing_fits_the_nearest_is_taken_and_not_the_most_accurate(tmp_path: Path) -> None:
    it = search(tmp_path, Budget.read(latency="0.001x"))
    found = it.go()
    rows: list[Any] = [r for r in found.tried if r.bytes]  # type: ignore[attr-defined]
    assert not found.reachable and next(r for r in rows if r.chosen).over == min(r.over for r in rows)


def test_what_meets_the_budget_without_training_counts(tmp_path: Path) -> None:
    found = search(tmp_path, Budget.read(latency="1.5x")).go()
    rows: list[Any] = list(found.tried)
    assert found.reachable and {r.name for r in rows if r.epochs == 0 and r.value is not None} >= {"as it is", "as it is, int8"}


@pytest.mark.parametrize(
    ("limits", "ends"),
    [
        ({"latency": "0.6x", "size": "0.3x"}, {"rate", "rate in int8"}),
        ({"latency": "0.6x"}, {"float", "int8"}),
        ({"size": "0.3x"}, {"rate in int8"}),
        ({"max_drop": 1.0}, {"float", "int8"}),
    ],
)
def test_finishes_are_those_of_the_budget_and_no_family_is_forgotten(limits: Any, ends: set[str], tmp_path: Path) -> None:
    plan = search(tmp_path, Budget.read(**limits), Effort(0.005)).plan()
    found = {(c["finish"], c["name"].rstrip("0123456789. ")) for c in plan["candidates"]}
    assert {end for end, _ in found} == ends
    dropped = {name.split(",")[0].rstrip("0123456789. ") for name in plan["dropped"]}
    assert {name for _, name in found} | dropped >= {family.name for family in FAMILIES}


def test_zeros_are_made_where_a_kernel_gains_and_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if packing paid in the second half of the layers; the clock charges by weights that are not zero."""

    def worth(model: nn.Module, example: Any) -> tuple[Worth, ...]:
        layers = [name for name, m in model.named_modules() if isinstance(m, nn.Conv2d)]
        return tuple(Worth(name, 0.9, 1.0, 1.5 - (i >= len(layers) // 2)) for i, name in enumerate(layers))

    def charged(self: Weights, model: nn.Module) -> float:
        return sum(int(m.weight.count_nonzero()) for m in model.modules() if isinstance(m, nn.Conv2d)) / 1000

    monkeypatch.setattr("lilliput.search.planning.worth", worth)
    monkeypatch.setattr(Weights, "__call__", charged)
    it = search(tmp_path, Budget.read(latency="0.2x"), Effort(0.005, families=("zeros",)))
    (found,) = [Candidate.from_json(c) for c in it.plan()["candidates"]]
    assert found.finish == "float" and found.name == "zeros" and CLOSE * 0.2 * MARGIN <= found.ratio <= 0.2 * MARGIN
    made = run(it.model, Recipe(found.shape), it.bench).model
    halves: dict[bool, list[bool]] = {True: [], False: []}
    layers = [m for m in made.modules() if isinstance(m, nn.Conv2d)]
    for i, layer in enumerate(layers):
        halves[i >= len(layers) // 2].append(bool((layer.weight == 0).any()))
    assert all(halves[True]) and not any(halves[False])
    first, *_ = found.steps([2], it.fit)
    assert isinstance(first, Zeros) and first.rate == 0  # they leave while it trains, and in the end as many as were planned
    trained = run(it.model, Recipe(found.steps([2], it.fit)), it.bench).model
    assert [zeros(m) for m in trained.modules()] == [zeros(m) for m in made.modules()]


def zeros(module: nn.Module) -> int:
    """Weights of a convolution that are zero."""
    return int((module.weight == 0).sum()) if isinstance(module, nn.Conv2d) else 0


def test_no_zeros_where_no_kernel_gains_or_the_file_makes_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only = Effort(0.005, families=("zeros",))
    assert "zeros of its own" in str(search(tmp_path / "a", BUDGET, only).plan()["dropped"])
    monkeypatch.setattr("lilliput.search.planning.worth", lambda model, example: (Worth("conv1", 0.9, 1.0, 2.0),))
    plan = search(tmp_path / "b", Budget.read(latency="0.4x"), only).plan()
    assert "no kernel for zeros gains here (conv1: 90 % zeros" in plan["dropped"]["zeros"] and not plan["candidates"]


def test_where_the_whole_is_fast_enough_shapes_of_fewer_weights_compete_and_not_its_like(tmp_path: Path) -> None:
    """The clock charges 0.7 for integers, which is enough, so floats that would have to shrink for it are left out."""
    plan = search(tmp_path, Budget.read(latency="0.8x", size="0.3x"), Effort(0.005, families=("channels in eights",))).plan()
    found = {(c["name"], c["finish"]) for c in plan["candidates"]}
    assert {end for _, end in found} == {"rate in int8"} and "without" in plan["dropped"]["as it is, rate"]
    amounts, out = {name for name, _ in found}, {name.removesuffix(", rate in int8") for name in plan["dropped"]}
    assert "as it is" in amounts
    assert (amounts | out) - {"as it is", "as it is, rate"} == {"channels in eights 0.6", "channels in eights 0.35"}
    kept = [c["macs"] for c in plan["candidates"]]
    assert kept == sorted(kept, reverse=True) and kept[0] > kept[-1] > 0


def test_floats_stay_where_integers_lose_what_floats_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lilliput.search.planning.INTACT", -1.0)  # as if they had lost too much
    plan = search(tmp_path, Budget.read(latency="0.8x", size="0.3x"), Effort(0.005, families=("inner channels",))).plan()
    assert {c["finish"] for c in plan["candidates"]} == {"rate", "rate in int8"} and "as it is, rate" not in plan["dropped"]


def test_students_of_other_architectures_compete(tmp_path: Path) -> None:
    small = "resnet8:channels=1,classes=3,width=0.25"
    found = search(tmp_path, Budget.read(latency="0.5x"), Effort(0.005, families=(), students=(small,))).go()
    rows: list[Any] = [r for r in found.tried if r.name.startswith("student")]  # type: ignore[attr-defined]
    assert {r.name for r in rows} == {f"student {small}", f"student {small}, int8"} and found.reachable
    best = next(r for r in rows if r.chosen)
    assert best.steps[0] == Student(small) and best.epochs > 0


def test_the_widths_of_a_supernet_share_its_training(tmp_path: Path) -> None:
    name = "slimmable_resnet20:channels=1,classes=3,widths=0.125/0.25"
    made = search(tmp_path, Budget.read(latency="0.5x"), Effort(0.005, families=(), students=(name,)))
    found = made.go()
    rows: list[Any] = [r for r in found.tried if r.name.startswith("student")]  # type: ignore[attr-defined]
    assert {r.name.split(",widths=0.125/0.25")[1].split(",")[0] for r in rows} == {" at 0.125", " at 0.25"}
    assert found.reachable and found.recipe.steps[0] == Student(name)
    together = [p for p in (tmp_path / "store").rglob("stage.json") if "callbacks=[widths" in p.read_text()]
    assert len(together) == 1, "one training of all widths, whichever is taken"


def test_a_trained_supernet_offers_its_widths(tmp_path: Path) -> None:
    model = zoo.create("slimmable_resnet20", channels=1, classes=3, widths="0.125/0.25").eval()
    assert [f.name for f in widths(model)] == ["width 0.125"] and widths(network()) == []
