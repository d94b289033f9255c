"""Trials in a shared database: each is done by one process, and those of the dead are done again."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from lilliput.errors import ConfigError
from lilliput.search.trials import Outcome, Trials

pytest.importorskip("optuna", reason="a search by hours needs Optuna")

WORKER = """
import os, sys, time
from lilliput.search.trials import Outcome, Trials
trials = Trials(sys.argv[1], "it", beat=1, grace=3)
for candidate in range(12):
    if (trial := trials.claim(0, candidate)) is not None:
        with trials.alive(trial):
            print(candidate, flush=True)
        trials.finish(trial, Outcome(float(candidate), {"by": os.getpid()}))
"""

VICTIM = """
import sys, time
from lilliput.search.trials import Trials
trials = Trials(sys.argv[1], "it", beat=1, grace=2)
with trials.alive(trials.claim(0, 7)):
    print("claimed", flush=True)
    time.sleep(60)
"""


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'trials.db'}"


def test_three_processes_do_each_trial_once(tmp_path: Path) -> None:
    Trials(url(tmp_path), "it")  # the tables, before everybody wants them
    started = [
        subprocess.Popen([sys.executable, "-c", WORKER, url(tmp_path)], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    done = [int(line) for process in started for line in process.communicate()[0].split()]
    assert all(process.returncode == 0 for process in started)
    assert sorted(done) == list(range(12))
    found = Trials(url(tmp_path), "it").outcomes(1)[0]
    assert {c: o.value for c, o in found.items()} == {c: float(c) for c in range(12)}


def test_the_trial_of_a_process_that_died_is_free_again(tmp_path: Path) -> None:
    victim = subprocess.Popen([sys.executable, "-c", VICTIM, url(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert victim.stdout is not None and victim.stdout.readline().strip() == "claimed"
    mine = Trials(url(tmp_path), "it", beat=1, grace=2)
    assert mine.claim(0, 7) is None
    victim.kill()
    victim.communicate()
    until = time.monotonic() + 30
    while (trial := mine.claim(0, 7)) is None and time.monotonic() < until:
        time.sleep(0.2)
    assert trial is not None


def test_a_process_that_died_before_its_first_sign_of_life_holds_nothing(tmp_path: Path) -> None:
    dying = Trials(url(tmp_path), "it", beat=1, grace=2)
    dying.storage.record_heartbeat = lambda trial: 1 / 0
    with pytest.raises(ZeroDivisionError):
        dying.claim(0, 7)
    mine = Trials(url(tmp_path), "it", beat=1, grace=2)
    until = time.monotonic() + 30
    while (trial := mine.claim(0, 7)) is None and time.monotonic() < until:
        time.sleep(0.2)
    assert trial is not None


def test_the_dead_are_not_kept_alive_by_who_is_restarted_again_and_again(tmp_path: Path) -> None:
    assert Trials(url(tmp_path), "it", beat=1, grace=2).claim(0, 7) is not None
    until = time.monotonic() + 30
    while (trial := Trials(url(tmp_path), "it", beat=1, grace=2).claim(0, 7)) is None and time.monotonic() < until:
        time.sleep(0.2)
    assert trial is not None


def test_who_lost_a_claim_is_told_so_and_spoils_nothing(tmp_path: Path) -> None:
    slept, other = (Trials(url(tmp_path), "it", beat=1, grace=1) for _ in range(2))
    lost = slept.claim(0, 7)
    assert lost is not None
    until = time.monotonic() + 30
    while (trial := other.claim(0, 7)) is None and time.monotonic() < until:
        time.sleep(0.2)
    assert trial is not None
    with pytest.raises(KeyboardInterrupt), slept.alive(lost):
        raise KeyboardInterrupt
    assert not slept.finish(lost, Outcome(0.1))
    assert other.finish(trial, Outcome(0.9))
    assert Trials(url(tmp_path), "it").outcomes(1)[0][7].value == 0.9


def test_an_error_frees_the_trial_and_out_is_remembered(tmp_path: Path) -> None:
    trials = Trials(url(tmp_path), "it")
    first = trials.claim(1, 2)
    assert first is not None
    with pytest.raises(KeyboardInterrupt), trials.alive(first):
        raise KeyboardInterrupt
    again = trials.claim(1, 2)
    assert again is not None and again != first
    trials.finish(again, Outcome(None, {"why": "too large"}))
    assert trials.claim(1, 2) is None
    assert Trials(url(tmp_path), "it").outcomes(2) == [{}, {2: Outcome(None, {"why": "too large"})}]


def test_a_plan_is_kept_and_other_searches_do_not_see_it(tmp_path: Path) -> None:
    Trials(url(tmp_path), "it").agreed("plan", lambda: {"candidates": [1, 2]})
    assert Trials(url(tmp_path), "it").plan == {"candidates": [1, 2]}
    assert Trials(url(tmp_path), "another").plan is None


def test_what_is_agreed_on_is_found_once(tmp_path: Path) -> None:
    assert Trials(url(tmp_path), "it").agreed("last", lambda: 3) == 3
    assert Trials(url(tmp_path), "it").agreed("last", lambda: 4) == 3


def test_time_counts_once_however_many_work_and_until_the_last_sign_of_the_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("lilliput.search.trials.time", SimpleNamespace(time=lambda: now))
    trials = Trials(url(tmp_path), "it")
    assert trials.worked() == 0.0
    first = trials.claim(0, 0)
    assert first is not None and trials.worked() == 0.0, "no sign of life yet"
    with trials.alive(first):
        now = 1010.0
        second = trials.claim(0, 1)
        assert second is not None
        with trials.alive(second):
            now = 1030.0
        trials.finish(second, Outcome(0.5))
        now = 1035.0
    trials.finish(first, Outcome(0.5))
    assert trials.worked() == 35.0, "two side by side for twenty of them"
    now = 2000.0
    third = trials.claim(1, 0)
    assert third is not None
    with pytest.raises(KeyboardInterrupt), trials.alive(third):
        now = 2005.0
        raise KeyboardInterrupt
    now = 3000.0
    assert trials.worked() == 40.0, "what failed has taken time as well, and waiting has not"


def test_a_storage_that_is_none_is_named() -> None:
    with pytest.raises(ConfigError, match=r"--storage nonsense.*cannot be opened"):
        Trials("nonsense", "it")
