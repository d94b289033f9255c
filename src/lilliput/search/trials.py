"""Who trains what: trials in a database that processes and machines share, through Optuna.

A trial is one candidate on one rung. Who wants it adds it as running, and the first of equals has it; who is alive says so
every few seconds, so that the trial of a process that died is free again. Nothing is trained twice.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Any

from lilliput.errors import ConfigError

BEAT, GRACE = 5, 20  # seconds between two signs of life, and without one until a process is taken for dead


@dataclass(frozen=True)
class Outcome:
    """What a trial gave: its value (none where the candidate is out), and whatever else was found."""

    value: float | None
    found: Mapping[str, Any] = field(default_factory=dict)


class Trials:
    """The trials of one search, in a storage as SQLAlchemy names it: `sqlite:///file`, `postgresql://...`."""

    def __init__(self, storage: str, name: str, beat: int = BEAT, grace: int = GRACE) -> None:
        self.optuna, self.name = _optuna(), name
        self.state = self.optuna.trial.TrialState
        with _quiet():
            try:
                self.storage = self.optuna.storages.RDBStorage(storage, heartbeat_interval=beat, grace_period=grace)
            except Exception as error:  # whatever the database's driver raises
                raise ConfigError(f"`--storage {storage}` cannot be opened: {str(error).splitlines()[0]}") from None
            self.study = self.optuna.create_study(
                storage=self.storage, study_name=name, direction="maximize", load_if_exists=True
            )
        self.number = self.storage.get_study_id_from_name(name)
        self.grace = grace

    @property
    def plan(self) -> dict[str, Any] | None:
        """What is to be tried, once it is known."""
        text = self.study.user_attrs.get("plan")
        return None if text is None else dict(json.loads(text))

    def agreed(self, key: str, find: Callable[[], Any]) -> Any:
        """A JSON value that all processes take, found by whoever asks first."""
        text = self.study.user_attrs.get(key)
        if text is None:
            self.study.set_user_attr(key, text := json.dumps(find()))
        return json.loads(text)

    def worked(self) -> float:
        """Seconds in which anybody was at a trial; for a process that died, until its last sign of life."""
        spans = [(t.user_attrs["begun"], t.user_attrs["seen"]) for t in self.study.get_trials(deepcopy=False)
                 if {"begun", "seen"} <= set(t.user_attrs)]  # fmt: skip
        total, until = 0.0, 0.0
        for begun, seen in sorted(spans):
            total += max(0.0, seen - max(begun, until))
            until = max(until, seen)
        return total

    def others(self) -> list[str]:
        """What else lies in this storage."""
        return [name for name in self.optuna.get_all_study_names(self.storage) if name != self.name]

    def outcomes(self, rungs: int) -> list[dict[int, Outcome]]:
        """What is finished, by rung and candidate."""
        found: list[dict[int, Outcome]] = [{} for _ in range(rungs)]
        for (rung, candidate), trial in self._first().items():
            if trial.state.is_finished() and rung < rungs:
                value = trial.value if trial.state == self.state.COMPLETE else None
                found[rung][candidate] = Outcome(value, json.loads(trial.user_attrs["found"]))
        return found

    def claim(self, rung: int, candidate: int) -> int | None:
        """A new trial's id, or none where another process has this one."""
        self._free()
        if (rung, candidate) in self._first():
            return None
        whose = {"rung": rung, "candidate": candidate, "begun": time.time()}
        wish = self.optuna.trial.create_trial(state=self.state.RUNNING, user_attrs=whose)
        mine: int = self.storage.create_new_trial(self.number, wish)
        self.storage.record_heartbeat(mine)
        self.storage.set_trial_user_attr(mine, "beats", True)
        # Numbers are given one after the other, so whoever adds an equal later sees this one.
        if self._first()[rung, candidate]._trial_id == mine:
            return mine
        self._fail(mine)
        return None

    def finish(self, trial: int, outcome: Outcome) -> bool:
        """Write what a claimed trial gave; False where the claim was lost, because no sign of life came for too long."""
        try:
            self.storage.set_trial_user_attr(trial, "found", json.dumps(dict(outcome.found)))
            if outcome.value is None:
                self.storage.set_trial_state_values(trial, self.state.PRUNED)
            else:
                self.storage.set_trial_state_values(trial, self.state.COMPLETE, [outcome.value])
        except self.optuna.exceptions.UpdateFinishedTrialError:
            return False
        return True

    def _fail(self, trial: int) -> None:
        """Give a claim back, unless another process has already taken it away."""
        with suppress(self.optuna.exceptions.UpdateFinishedTrialError):
            self.storage.set_trial_state_values(trial, self.state.FAIL)

    def _free(self) -> None:
        """Give back the claims of processes that died.

        Optuna frees those whose last sign of life is old, and never those without one.
        """
        with _quiet():
            self.optuna.storages.fail_stale_trials(self.study)
        for trial in self.study.get_trials(deepcopy=False, states=(self.state.RUNNING,)):
            if "beats" not in trial.user_attrs and time.time() - trial.user_attrs.get("begun", 0) > self.grace:
                self._fail(trial._trial_id)

    @contextmanager
    def alive(self, trial: int) -> Iterator[None]:
        """Signs of life of a claimed trial, as long as the context lasts; where it ends in an error the trial is free again."""
        over = Event()

        def beat() -> None:
            while not over.wait(self.storage.get_heartbeat_interval()):
                with suppress(Exception):  # a database that is away for a moment; the next sign may reach it
                    self.storage.record_heartbeat(trial)
                    self.storage.set_trial_user_attr(trial, "seen", time.time())

        thread = Thread(target=beat, daemon=True)
        thread.start()
        failed = True
        try:
            yield
            failed = False
        finally:
            over.set()
            thread.join()
            with suppress(Exception):  # the claim was lost, or the database is away: no reason to hide another error
                self.storage.set_trial_user_attr(trial, "seen", time.time())
            if failed:
                self._fail(trial)

    def _first(self) -> dict[tuple[int, int], Any]:
        """The trial that counts of every rung and candidate: the first that did not fail."""
        found: dict[tuple[int, int], Any] = {}
        for trial in sorted(self.study.get_trials(deepcopy=False), key=lambda t: t.number):
            if trial.state != self.state.FAIL and "rung" in trial.user_attrs:
                found.setdefault((trial.user_attrs["rung"], trial.user_attrs["candidate"]), trial)
        return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Heartbeats are called experimental since 2021."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ConfigError("a search by hours needs Optuna: pip install 'lilliput[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
