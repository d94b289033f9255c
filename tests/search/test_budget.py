"""Budgets: how they are written, what they find too large, and that the gentlest recipe that meets them is proposed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lilliput import kernels
from lilliput.config import Config
from lilliput.core.layers import Mapped
from lilliput.errors import ConfigError
from lilliput.job import Settings, compress
from lilliput.measure import Latency
from lilliput.prune import Channels
from lilliput.quant import Quantize
from lilliput.quant.rate import RateQuantize
from lilliput.recipe import Bake, Bench, Recipe, run
from lilliput.search import Budget, Limit, Proposal, propose
from lilliput.store import file_bytes
from lilliput.train import Fit

sys.path.insert(0, str(Path(__file__).parent.parent))
from small import network, task

native = pytest.mark.skipif(kernels.backend() != "native", reason="only the native core rounds")


class Priced:
    """A clock that charges a microsecond a convolution weight, and less for integers: exact, so that choices are known."""

    def __init__(self, integers: float) -> None:
        self.integers = integers

    def compare(self, models: dict[str, nn.Module]) -> dict[str, Latency]:
        return {name: Latency(self.ms(m), 0, 0, 1, "fake", 1) for name, m in models.items()}

    def ms(self, model: nn.Module) -> float:
        layers = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        price = self.integers if any(isinstance(m, Mapped) for m in layers) else 1.0
        return price * sum(m.weight.numel() for m in layers) / 1000


def found(budget: Budget, root: Path, integers: float = 0.6) -> tuple[Proposal, list[str]]:
    said: list[str] = []
    made = propose(network(1.0).eval(), Bench(task(), root), budget, Priced(integers), epochs=3, say=said.append)
    return made, said


def made_bytes(made: Proposal, root: Path) -> int:
    """The file of what the recipe makes."""
    return file_bytes(run(network(1.0).eval(), made.recipe, Bench(task(), root)).model)


def kinds(made: Proposal) -> list[type[Config]]:
    return [type(step) for step in made.recipe.steps]


def test_int8_alone_is_proposed_where_it_is_enough(tmp_path: Path) -> None:
    made, _ = found(Budget.read(latency="0.65x"), tmp_path)
    assert made.reachable and made.recipe.steps == (Quantize(),)


def test_channels_leave_where_int8_is_not_enough_and_no_more_than_needed(tmp_path: Path) -> None:
    made, _ = found(Budget.read(latency="0.5x"), tmp_path)
    methods = [type(s) for s in made.recipe.steps]
    assert made.reachable and methods[0] is Channels and methods[-1] is Quantize and len(methods) == 4
    chosen = [t for t in made.tried if t.meets]
    assert chosen and all(t.ratio <= 0.5 * 0.95 for t in chosen)
    gentler = [t for t in made.tried if t.shrink and t.shrink.scope == chosen[0].shrink.scope and not t.meets]  # type: ignore[union-attr]
    assert all(t.ratio > chosen[0].ratio for t in gentler)


def test_int8_is_left_out_where_it_is_slower(tmp_path: Path) -> None:
    made, said = found(Budget.read(latency="0.8x"), tmp_path, integers=1.2)
    assert made.reachable and Quantize() not in made.recipe.steps
    assert any("int8 is not faster" in line for line in said)


def test_what_cannot_be_reached_is_said_and_the_nearest_is_proposed(tmp_path: Path) -> None:
    made, _ = found(Budget.read(latency="0.001x"), tmp_path)
    assert not made.reachable and not any(t.meets for t in made.tried)
    assert made.recipe.steps


@native
@pytest.mark.parametrize("latency", [None, "0.65x"])
def test_a_file_that_is_too_large_is_rounded_and_trained_as_it_was(latency: str | None, tmp_path: Path) -> None:
    made, _ = found(Budget.read(size="40kB", latency=latency), tmp_path)
    (chosen,) = [t for t in made.tried if t.chosen]
    assert made.reachable and chosen.rounded and chosen.shrink is None and chosen.int8
    assert kinds(made).count(Fit) == 2 and kinds(made)[-1] is Quantize
    (grid,) = [s for s in made.recipe.steps if isinstance(s, RateQuantize)]
    assert grid.norms == "keep"
    assert made_bytes(made, tmp_path) <= 40_000


@native
def test_it_is_not_trained_where_enough_is_known_without(tmp_path: Path) -> None:
    made, _ = found(Budget.read(size="40kB", max_drop=100.0), tmp_path)
    assert made.reachable and kinds(made) == [RateQuantize, Quantize]
    (chosen,) = [t for t in made.tried if t.chosen]
    assert made_bytes(made, tmp_path) == chosen.bytes <= 40_000


@native
def test_what_is_narrow_enough_to_be_fast_is_rounded_for_its_file(tmp_path: Path) -> None:
    made, _ = found(Budget.read(size="20kB", latency="0.4x"), tmp_path)
    (chosen,) = [t for t in made.tried if t.chosen]
    same = [t for t in made.tried if t.shrink == chosen.shrink and t is not chosen]
    assert chosen.shrink and chosen.rounded and len(same) == 1
    assert same[0].bytes > 20_000 >= chosen.bytes and same[0].ratio == chosen.ratio <= 0.4 * 0.95
    assert kinds(made)[0] is Channels and made_bytes(made, tmp_path) <= 20_000


@native
@pytest.mark.parametrize("latency", [None, "1.1x"])
def test_floats_are_rounded_where_integers_are_slower(latency: str | None, tmp_path: Path) -> None:
    made, _ = found(Budget.read(size="40kB", latency=latency, max_drop=100.0), tmp_path, integers=1.3)
    assert made.reachable and kinds(made) == [RateQuantize]


@native
@pytest.mark.parametrize("size", ["0.35x", "0.2x"])  # which integers meet as they are, and which they do not
def test_floats_are_rounded_where_integers_lose_too_much(size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def known(model: nn.Module, *_: object) -> SimpleNamespace:
        return SimpleNamespace(value=0.9 if any(getattr(m, "input_maps", None) for m in model.modules()) else 0.96)

    monkeypatch.setattr("lilliput.search.gentle.accuracy", known)
    made, _ = found(Budget.read(size=size, max_drop=1.0), tmp_path)
    assert made.reachable and kinds(made) == [RateQuantize]


@native
@pytest.mark.parametrize(("size", "wanted"), [(1900, [Fit, Bake, RateQuantize, Quantize]), (1700, [RateQuantize, Quantize])])
def test_what_training_adds_to_a_file_too_small_for_it_is_left_out(
    size: int, wanted: list[type[Config]], tmp_path: Path
) -> None:
    made, said = found(Budget.read(size=f"{size}B"), tmp_path)
    assert kinds(made) == wanted and made_bytes(made, tmp_path) <= size
    failed = [line for line in said if line.startswith(("rounded halfway: ", "rounded after training: "))]
    assert len(failed) == (1 if Fit in wanted else 2) and all(f"{size:,} bytes" in line for line in failed)


@native
def test_what_no_step_can_round_so_small_is_said_and_channels_leave(tmp_path: Path) -> None:
    made, said = found(Budget.read(size="300B"), tmp_path)
    assert any(line.startswith("rounded for the file: no step") for line in said)
    assert any(t.shrink for t in made.tried)


def test_accuracy_alone_takes_the_fastest_that_keeps_it(tmp_path: Path) -> None:
    made, _ = found(Budget.read(max_drop=100.0), tmp_path)
    assert made.recipe.steps == (Quantize(),)


def test_a_run_without_hours_goes_on_with_what_it_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def once() -> Recipe:
        settings = Settings(epochs=1, root=tmp_path / "store")
        return compress(
            network().eval(), task(200), out=tmp_path / "out", budget=Budget.read(size="0.5x"), settings=settings
        ).recipe

    first = once()

    def asked(*_: object) -> None:
        raise AssertionError("it was measured before")

    monkeypatch.setattr("lilliput.clock.Clock.compare", asked)
    assert once() == first


@given(st.integers(1, 10**9))
def test_sizes_are_read_in_the_units_they_are_written_in(count: int) -> None:
    assert Budget.read(size=f"{count}B").size == Limit(count)
    assert Budget.read(size=f"{count}kB").size == Limit(count * 1000)
    assert Budget.read(size=f"{count}KiB").size == Limit(count * 1024)


@pytest.mark.parametrize("text", ["", "fast", "5", "5 parsecs", "-1ms", "0x", "0ms", "1e3ms", "x"])
def test_what_is_no_latency_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a budget; write it like 5ms or 0\.5x"):
        Budget.read(latency=text)


def row(ms: float, size: int, accuracy: float) -> dict:  # type: ignore[type-arg]
    return {"latency_ms": {"median": ms}, "file_bytes": size, "accuracy": accuracy}


def test_failures_name_the_budget_and_the_amount() -> None:
    before = row(2.0, 1000, 0.90)
    budget = Budget.read(size="0.5x", latency="0.5x", max_drop=1.0)
    assert budget.failures(before, row(1.0, 500, 0.89)) == []
    assert budget.failures(before, row(1.2, 700, 0.87)) == [
        "size: 700 bytes, 200 over the 500 asked for",
        "latency: 1.200 ms (0.60x), 0.200 ms over the 1.000 ms asked for",
        "accuracy: 3.00 points lost on the test split, 2.00 more than the 1 allowed",
    ]


def test_a_loss_of_just_what_may_be_lost_is_kept() -> None:
    budget = Budget.read(max_drop=1.0)
    assert budget.keeps(0.963, 0.953) and not budget.keeps(0.963, 0.9525)
    assert Budget().keeps(1.0, 0.0)


@pytest.mark.parametrize("drop", [-0.1, float("nan")])
def test_what_is_no_loss_is_refused(drop: float) -> None:
    with pytest.raises(ConfigError, match="max-drop"):
        Budget.read(max_drop=drop)
