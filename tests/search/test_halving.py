"""Successive halving: pure decisions, so that every process comes to the same."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import assume, given
from hypothesis import strategies as st

from lilliput.search.halving import MOST, SHARE, Rung, due, rungs, survivors

SECONDS = st.floats(1, 1e6)


@given(st.integers(1, 40), SECONDS, SECONDS, st.floats(0, 1e3))
def test_rungs_halve_and_double_and_fill_the_time(candidates: int, seconds: float, epoch: float, judging: float) -> None:
    ladder = rungs(candidates, seconds, epoch, judging)
    assert ladder[0].entrants <= candidates and ladder[-1].entrants == 1
    for before, after in pairwise(ladder[:-1]):
        assert after == Rung(before.entrants // 2, 2 * before.epochs)
    assert all(ladder[-1].epochs >= 2 * before.epochs for before in ladder[:-1]) and ladder[-1].epochs <= MOST
    taken = sum(r.entrants * (r.epochs * epoch + judging) for r in ladder)
    if len(ladder) > 1 or ladder[0].epochs > 1:  # one candidate for one epoch is the least there is
        assert taken <= SHARE * seconds * (1 + 1e-9)
    if ladder[-1].epochs < MOST:
        assert taken + epoch >= SHARE * seconds * (1 - 1e-9), "an epoch more would have had room"


def test_more_time_is_never_less_training_for_the_winner() -> None:
    trained = [sum(r.epochs for r in rungs(8, hours * 3600, 60)) for hours in (0.5, 1, 2, 4, 8)]
    assert trained == sorted(trained) and trained[0] < trained[-1]


@given(st.dictionaries(st.integers(0, 20), st.none() | st.floats(0, 1)), st.integers(1, 8))
def test_survivors_are_the_best_and_deterministic(values: dict[int, float | None], count: int) -> None:
    kept = survivors(values, count)
    able = {c: v for c, v in values.items() if v is not None}
    assert len(kept) == min(count, len(able)) and kept == sorted(kept)
    assume(kept)
    assert min(able[c] for c in kept) >= max((v for c, v in able.items() if c not in kept), default=0.0)
    assert kept == survivors(dict(reversed(values.items())), count)


def test_what_is_due_opens_rung_by_rung_and_ends() -> None:
    ladder = [Rung(4, 1), Rung(2, 2), Rung(1, 4)]
    values: list[dict[int, float | None]] = [{}, {}, {}]
    trained = []
    while (found := due(ladder, values)) is not None:
        rung, entrants = found
        candidate = next(c for c in entrants if c not in values[rung])
        trained.append((rung, candidate))
        values[rung][candidate] = None if (rung, candidate) == (0, 3) else candidate / 10
    assert trained == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (2, 2)]


def test_where_all_are_out_nothing_is_due() -> None:
    assert due([Rung(2, 1), Rung(1, 2)], [{0: None, 1: None}, {}]) is None
    assert due([], []) is None
