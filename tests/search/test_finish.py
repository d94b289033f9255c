"""How a search trains and finishes what is rounded for a file."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from small import network, task

from lilliput import kernels
from lilliput.config import Config
from lilliput.errors import BudgetError
from lilliput.quant import Fold
from lilliput.quant.hold import HoldBits
from lilliput.quant.rate import RateQuantize
from lilliput.recipe import Bench
from lilliput.search.candidates import Candidate
from lilliput.search.finish import Finisher
from lilliput.store import file_bytes
from lilliput.train import Fit

pytestmark = pytest.mark.skipif(kernels.backend() != "native", reason="only the native core rounds")
SIZE = 40_000


@pytest.fixture
def finisher(tmp_path: Path) -> Finisher:
    return Finisher(network(1.0).eval(), Bench(task(), tmp_path), Fit(batch_size=27), SIZE)


def fits(steps: tuple[Config, ...]) -> list[tuple[int, bool]]:
    """Epochs of each training, and whether it holds the bits."""
    return [(s.epochs, any(isinstance(c, HoldBits) for c in s.callbacks)) for s in steps if isinstance(s, Fit)]


def grids(model: Any) -> set[str]:
    return {m.weight_maps[0].name for m in model.modules() if getattr(m, "weight_maps", None)}


@pytest.mark.parametrize("finish", ["rate", "rate in int8"])
def test_after_the_first_rung_it_is_trained_as_it_was_rounded(finish: str, finisher: Finisher) -> None:
    whole = Candidate("as it is", (), finish)
    first = finisher(whole, [1], None, only=False)
    (grid,) = [s for s in first if isinstance(s, RateQuantize)]
    then = finisher(whole, [1, 2, 3], grid, only=False)
    assert fits(then) == [(1, False), (2, True), (3, True)]
    (room,) = {c.bytes for s in then if isinstance(s, Fit) for c in s.callbacks if isinstance(c, HoldBits)}
    assert 0 < room < SIZE
    assert [s for s in then if isinstance(s, RateQuantize)] == [replace(grid, norms="keep")] and not grid.turns
    for steps, name in ((first, "grid"), (then, "fine_grid")):
        model = finisher.run(steps)
        assert grids(model) == {name} and file_bytes(model) <= SIZE


def test_with_one_rung_half_of_its_epochs_follow_rounding(finisher: Finisher) -> None:
    whole = Candidate("as it is", (), "rate")
    assert fits(finisher(whole, [3], None, only=True)) == [(2, False), (1, True)]
    assert fits(finisher(whole, [1], None, only=True)) == [(1, False)]


def test_what_is_a_little_too_large_gets_more_zeros(finisher: Finisher) -> None:
    whole = Candidate("as it is", (), "rate in int8")
    (grid,) = [s for s in finisher(whole, [1], None, only=False) if isinstance(s, RateQuantize)]
    steps = finisher(whole, [1, 8], grid, only=False)
    made = file_bytes(finisher.run(steps))
    finisher.size = 0.98 * made
    steps = finisher.folded(whole, steps[: [s.name for s in steps].index("fold")])
    (fold,) = [s for s in steps if isinstance(s, Fold)]
    assert fold.zone > 0 and file_bytes(finisher.run(steps)) <= finisher.size
    finisher.size = 0.1 * made
    with pytest.raises(BudgetError, match="bytes asked for"):
        finisher(whole, [1, 1], grid, only=False)


def test_what_is_not_rounded_is_trained_in_one_go(finisher: Finisher) -> None:
    assert fits(finisher(Candidate("as it is", (), "int8"), [1, 2], None, only=False)) == [(1, False), (2, False)]
