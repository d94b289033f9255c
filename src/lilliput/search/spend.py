"""A search by hours: many ways into the budget, training for those that deserve it, one recommendation at the end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from lilliput.config import Config, from_json
from lilliput.core.identity import file_identity
from lilliput.errors import ConfigError, UnknownName, WorkError
from lilliput.measure.accuracy import accuracy
from lilliput.opening import open_model
from lilliput.quant import Quantize
from lilliput.quant.rate import RateQuantize
from lilliput.recipe import Bench, Recipe, Student, look, prefix_id, run, start_text
from lilliput.search.budget import MARGIN, Budget
from lilliput.search.candidates import FAMILIES, Candidate, students, widths
from lilliput.search.finish import Finisher
from lilliput.search.gentle import Proposal
from lilliput.search.halving import Rung, due, filling, rungs
from lilliput.search.planning import VERDICTS, Planner, epoch_seconds
from lilliput.search.remembered import Remembered
from lilliput.search.rows import Row, front
from lilliput.search.trials import Outcome, Trials
from lilliput.search.workers import cores, follow_parent, helpers
from lilliput.store import file_bytes
from lilliput.supernet import Slim
from lilliput.train import Fit

PLANS = "plans 2"  # the form they are stored in: one of another form is another search's
POLL = 1.0  # seconds between two looks at what others do
KEPT = 64 * 2**20  # bytes an epoch that what the teacher says may take on disk
ROUNDINGS = 6  # and what comes with them, until a file of the size asked for has been found


@dataclass(frozen=True)
class Effort:
    """What a search may spend, and with whom.

    hours      of the clock, for planning and training with all workers
    storage    a database that other processes and machines share, as SQLAlchemy names it; by default a file beside the result
    precision  of training: 32 or bf16-mixed
    workers    processes on this machine that train side by side, each with its share of the cores
    command    what starts another process that joins; `workers` needs it
    families   the ways to shape a network that are tried (search/candidates); None for all
    students   other networks, as commands name models, that learn from the given one beside them
    """

    hours: float
    storage: str | None = None
    precision: str = "32"
    workers: int = 1
    command: tuple[str, ...] = ()
    families: tuple[str, ...] | None = None
    students: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise `ConfigError` for what can never work, and `UnknownName` for families and students that are none."""
        if not 0 < self.hours < math.inf:
            raise ConfigError(f"`hours` (={self.hours}) is a number above 0")
        known = [family.name for family in FAMILIES]
        for name in self.families or ():
            if name not in known:
                raise UnknownName("family of candidates", name, known)
        for name in self.students:
            open_model(name)  # which knows whether there is such a network
        if self.workers < 1 or (self.workers > 1 and not self.command):
            raise ConfigError(f"`workers` (={self.workers}) is at least 1, and more need a `command` that starts them")


class Search:
    """One search; the same call goes on where a stopped one was, and others may `join`."""

    def __init__(
        self, model: nn.Module, bench: Bench, clock: Remembered, budget: Budget, effort: Effort, folder: Path,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        effort.check()
        self.model, self.bench, self.clock, self.budget, self.effort, self.say = model, bench, clock, budget, effort, say
        others = [name + file_identity(name) for name in effort.students]
        spent = f"{effort.hours} {effort.precision} {bench.seed} {effort.families} {others} {clock.threads}"
        key = [start_text(model, bench.task), repr(budget), spent, PLANS]
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._plan: dict[str, Any] | None = None
        self.trials = Trials(effort.storage or f"sqlite:///{folder.resolve() / 'trials.db'}", f"lilliput {prefix_id(key)}")
        images, outputs = len(bench.task.train), 4 * bench.task.classes
        kept = images * outputs <= KEPT  # all candidates of an epoch see the same images, and have the same teacher
        self.fit = Fit(precision=effort.precision, batch_size=min(128, images), cache_teacher=kept)
        shapes = [f for f in FAMILIES if effort.families is None or f.name in effort.families]
        self.families = (*shapes, *widths(model), *(each for name in effort.students for each in students(name)))

    def go(self) -> Proposal:
        """Plan, train with as many processes as are asked for, choose."""
        self.plan()
        with helpers(self.effort.command, self.effort.workers, self.folder, self.say):
            self.work()
        return self.choose()

    def join(self) -> int:
        """Only train what another process planned; how many candidates that were."""
        follow_parent()
        if self.trials.plan is None:
            others = self.trials.others()
            beside = f", where these lie, of other networks, data, budgets or efforts: {', '.join(others)}" if others else ""
            self.say(f"waiting for the plan of `{self.trials.name}` in its storage{beside}")
        while self.trials.plan is None:
            time.sleep(POLL)
        return self.work()

    def plan(self) -> dict[str, Any]:
        """What is to be tried: made once, and the same for every process and every time this search goes on."""
        if self._plan is None:
            self._plan = dict(self.trials.agreed("plan", self._made))
        return self._plan

    def _made(self) -> dict[str, Any]:
        """Measure and decide."""
        with self.clock.counted(f"spent on {self.trials.name}") as spent:

            def say(line: str) -> None:
                spent()
                self.say(line)

            planned = Planner(self.model, self.bench, self.budget, self.clock, say, self.families).plan()
            epoch = self.clock.keep(f"epoch {self.effort.precision}", lambda: epoch_seconds(
                self.model, self.model, self.bench, self.fit))  # fmt: skip
            judging = self._judging(epoch)
            left = 3600 * self.effort.hours - self.clock.keep(f"planning {self.trials.name}", spent)
        ladder = self._ladder(planned.candidates, left, epoch, judging)
        plan = {
            "candidates": [c.to_json() for c in planned.candidates], "whole": [c.to_json() for c in planned.whole],
            "dropped": planned.dropped, "rungs": [asdict(r) for r in ladder], "epoch_seconds": epoch,
            "seconds": left - judging,  # until the last training ends, so that it can be judged
        }  # fmt: skip
        self.say(_told(ladder, epoch, len(planned.candidates)))
        return plan

    def _ladder(self, candidates: list[Candidate], seconds: float, epoch: float, judging: float) -> list[Rung]:
        """The rungs; what the training of supernets takes, about as much as of one more candidate each, is set aside."""
        found = rungs(len(candidates), seconds, epoch, judging)
        supernets = {c.shape[0] for c in candidates if c.supernet}
        if not found or not supernets:
            return found
        return rungs(len(candidates), seconds - len(supernets) * found[0].epochs * epoch, epoch, judging)

    def _judging(self, epoch: float) -> float:
        """About how many seconds it takes to see what a trained candidate is worth: a forward is a quarter of the work of a
        training, and where the file is limited, weights are rounded until they fit."""
        right = epoch / 4 * len(self.bench.task.val) / len(self.bench.task.train)
        return right if self.budget.size is None else right + ROUNDINGS * self.clock.keep("rounding", self._rounding)

    def _rounding(self) -> float:
        """Seconds of rounding the network once."""
        begun = time.perf_counter()
        try:
            RateQuantize()(self.model, look(self.bench))
        except (*VERDICTS, WorkError) as error:  # every candidate that is like it will be out for the same reason
            self.say(f"as it is, rounded: {error}")
        return time.perf_counter() - begun

    def work(self) -> int:
        """Train whatever is due and nobody else trains, until nothing is left; how many candidates that were."""
        plan = self.plan()
        candidates, ladder = [Candidate.from_json(c) for c in plan["candidates"]], [Rung(**r) for r in plan["rungs"]]
        waiting, trained = False, 0
        while (open_ := self._due(ladder)) is not None:
            rung, entrants, beside = open_
            claimed = next(((c, t) for c in entrants if (t := self.trials.claim(rung, c)) is not None), None)
            if claimed is None:
                if not waiting:
                    self.say(f"rung {rung + 1}: the rest is being trained by other processes, or was by one that died just now")
                waiting = True
                time.sleep(POLL)
                continue
            number, trial = claimed
            waiting = False
            with self.trials.alive(trial), cores(min(self.effort.workers, beside)):
                epochs = self._epochs(candidates[number], ladder[: rung + 1])
                outcome = self.judge(candidates[number], epochs, self._grid(number) if rung else None)
            if self.trials.finish(trial, outcome):
                trained += 1
                self._tell(candidates[number], ladder, rung, outcome)
        return trained

    def _due(self, ladder: list[Rung]) -> tuple[int, list[int], int] | None:
        """The rung that is open, which of its candidates are not done, and how many it has in all."""
        outcomes = self.trials.outcomes(len(ladder))
        found = due(ladder, [{c: o.value for c, o in each.items()} for each in outcomes])
        return None if found is None else (found[0], [c for c in found[1] if c not in outcomes[found[0]]], len(found[1]))

    def _grid(self, number: int) -> RateQuantize | None:
        """What rounded a candidate for its file on the first rung."""
        steps = [from_json(s) for s in self.trials.outcomes(1)[0][number].found["steps"]]
        return next((s for s in steps if isinstance(s, RateQuantize)), None)

    def _epochs(self, candidate: Candidate, climbed: list[Rung]) -> list[int]:
        """How long a candidate trains on each of these rungs; alone on the last of several for as long as the hours last."""
        planned = [r.epochs for r in climbed]
        if len(planned) == 1 or len(planned) < len(self.plan()["rungs"]):
            return planned
        last = self.trials.agreed("last", lambda: self._filled(candidate, climbed))
        return [*planned[:-1], last]

    def _filled(self, candidate: Candidate, climbed: list[Rung]) -> int:
        """The epochs of the last rung, from the time that the others took and that one of this network takes."""
        shaped = run(self.model, Recipe(candidate.shape), self.bench).model
        epoch = epoch_seconds(shaped, self.model, self.bench, self.fit)
        found = filling(climbed, self.plan()["seconds"] - self.trials.worked(), epoch)
        self.say(f"{candidate.title} trains until the hours are over: {found} epochs of about {epoch:.0f} s")
        return found

    def judge(self, candidate: Candidate, epochs: list[int], grid: RateQuantize | None = None) -> Outcome:
        """Train a candidate for so long, finish it, and see what it is worth on validation."""
        limit = None if self.budget.size is None else self.budget.size.of(self.start["bytes"])
        finish = Finisher(self.model, self.bench, self.fit, limit)
        try:
            after = finish(candidate, epochs, grid, only=len(self.plan()["rungs"]) == 1)
            model = finish.run(after)
        except VERDICTS as error:
            return Outcome(None, {"why": str(error)})
        task = self.bench.task
        right = accuracy(model, task.batches("val", 250), task.metric).value
        size = file_bytes(model)
        found = {"steps": [s.to_json() for s in after], "bytes": size, "accuracy": right, "epochs": sum(epochs)}
        if limit is not None and size > limit:
            return Outcome(None, {**found, "why": f"{size:,} bytes after training, over the {limit:,.0f} asked for"})
        return Outcome(self.value(right, candidate.ratio), found)

    @property
    def start(self) -> dict[str, Any]:
        """What is known of the network as it is."""
        return dict(self.plan()["whole"][0])

    def value(self, right: float, ratio: float) -> float:
        """What is compared: accuracy; or speed among those that keep it, where only accuracy is limited."""
        budget = self.budget
        if budget.max_drop is None or budget.size or budget.latency or budget.memory:
            return right
        lost = 100 * (self.start["accuracy"] - right)
        return -ratio if self._kept(right) else -1 - lost

    def choose(self) -> Proposal:
        """The best that meets the budget, trained or not, and everything else that was tried."""
        plan = self.plan()
        rows = [self._untrained(Candidate.from_json(c)) for c in plan["whole"]]
        rows += list(self._trained([Candidate.from_json(c) for c in plan["candidates"]], plan["rungs"]))
        rows += [Row(name, why=why) for name, why in plan["dropped"].items()]
        able = [r for r in rows if r.value is not None]
        measured = [r for r in rows if r.bytes and (r.epochs or not _bare(r.steps))]
        best = max(able, key=lambda r: (r.value, -(r.bytes or 0))) if able else min(measured, key=lambda r: r.over)
        told = tuple(replace(r, chosen=r is best) for r in rows)
        return Proposal(Recipe(best.steps), told, best.meets, front(told))

    def _kept(self, right: float | None) -> bool:
        """Whether accuracy is lost by no more than what is allowed, on validation."""
        return right is not None and self.budget.keeps(self.start["accuracy"], right)

    def _limited(self, c: Candidate) -> int | None:
        """What a candidate holds in memory, where that is limited."""
        return None if self.budget.memory is None else c.memory

    def _untrained(self, c: Candidate, why: str = "") -> Row:
        """A candidate as it was measured: without training it meets the budget, or it does not."""
        over = self.budget.taken(self.start, c.bytes, c.ms, c.ratio, c.memory, MARGIN)
        missed = [f"{name}: {share:.2f} of what is aimed for" for name, share in over.items() if share > 1]
        able = not missed and c.accuracy is not None and not c.end.rated and not _fresh(c.shape)
        value = self.value(c.accuracy, c.ratio) if able and c.accuracy is not None else None
        return Row(c.title, (*c.shape, *c.end.then), 0, c.ms, c.ratio, c.bytes, c.accuracy,
                   None if c.end.rated else c.accuracy, value, "; ".join([*missed, *([why] if why else [])]),
                   over=max(over.values(), default=0.0), meets=value is not None and self._kept(c.accuracy),
                   memory=self._limited(c))  # fmt: skip

    def _trained(self, candidates: list[Candidate], ladder: list[dict[str, int]]) -> Iterable[Row]:
        outcomes = self.trials.outcomes(len(ladder))
        for number, c in enumerate(candidates):
            tried = [each[number] for each in outcomes if number in each]
            last = next((o for o in reversed(tried) if o.value is not None), tried[-1] if tried else None)
            if last is None or "steps" not in last.found:
                yield self._untrained(c, last.found["why"] if last else "not trained: fewer start than there are candidates")
                continue
            found: Mapping[str, Any] = last.found
            over = self.budget.taken(self.start, found["bytes"], c.ms, c.ratio, c.memory)
            steps = tuple(from_json(s) for s in found["steps"])
            yield Row(c.title, steps, found["epochs"], c.ms, c.ratio, found["bytes"], c.accuracy, found["accuracy"], last.value,
                      _why(last, tried[-1]), over=max(over.values(), default=0.0),
                      meets=last.value is not None and self._kept(found["accuracy"]), memory=self._limited(c))  # fmt: skip

    def _tell(self, candidate: Candidate, ladder: list[Rung], rung: int, outcome: Outcome) -> None:
        found = outcome.found
        fate = (
            f"out: {found['why']}"
            if "why" in found
            else f"{100 * found['accuracy']:.2f} % on validation, {found['bytes']:,} bytes"
        )
        left = f"; about {_minutes(self._left(ladder))} left" if self._due(ladder) else ""
        self.say(f"rung {rung + 1} of {len(ladder)}, {candidate.title}: {fate}{left}")

    def _left(self, ladder: list[Rung]) -> float:
        """Seconds of training to come: with several rungs what the hours leave, which the last one fills."""
        if len(ladder) > 1:
            return max(0.0, float(self.plan()["seconds"]) - self.trials.worked())
        missing = ladder[0].entrants - len(self.trials.outcomes(1)[0])
        return max(0, missing) * ladder[0].epochs * float(self.plan()["epoch_seconds"])


def _why(counted: Outcome, last: Outcome) -> str:
    """Why a candidate is out; or, where it counts as it was on a rung before, why it does not as it is on the last."""
    why = str(last.found.get("why", ""))
    return why if counted is last else f"trained for longer: {why}"


def _minutes(seconds: float) -> str:
    """A time as one says it.

    >>> _minutes(50), _minutes(4000)
    ('50 s', '1 h 7 min')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _bare(steps: Iterable[Config]) -> bool:
    """Whether these steps take from a network, or begin another, what only a training makes up for."""
    return not all(isinstance(step, Quantize | Slim) for step in steps)


def _fresh(steps: Iterable[Config]) -> bool:
    """Whether these steps begin with a student: one that learned nothing is no network to recommend."""
    return any(isinstance(step, Student) for step in steps)


def _told(ladder: list[Rung], epoch: float, candidates: int) -> str:
    """The plan in one line."""
    if not ladder:
        return "nothing is worth training"
    parts = ", then ".join(f"{r.entrants} for {r.epochs} epoch{'s' * (r.epochs > 1)}" for r in ladder)
    return f"{candidates} candidates; {parts}; about {epoch:.0f} s an epoch"
