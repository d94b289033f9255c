"""The main job: a trained network, a task, and a recipe or a budget; a folder with everything that proves the result."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lilliput import report
from lilliput.clock import Clock
from lilliput.core import edits as edit_values
from lilliput.core import state
from lilliput.core.perform import perform
from lilliput.core.record import attach, edits, record
from lilliput.data import Task
from lilliput.data.cache import root as cache_root
from lilliput.errors import BudgetError, ConfigError, ModelError, at
from lilliput.export import Exported, export
from lilliput.export.onnx import predictor
from lilliput.measure import SESSIONS, hardware, profile, time_exports, versions
from lilliput.measure.accuracy import Accuracy, accuracy
from lilliput.recipe import Bench, Recipe, Run, prefix_id, run, start_text
from lilliput.search import Budget, Effort, Proposal, Remembered, Search, propose
from lilliput.store import save
from lilliput.train import Event, Fit, Machine, Watch

__all__ = ["Result", "Settings", "check_fit", "compress", "join", "missed", "pretrain", "train"]

Say = Callable[[str], None]
UNNAMED = "nothing says how to build this network again; take it from the zoo, or set `model.architecture = 'file.py:function'`"


@dataclass(frozen=True)
class Settings:
    """How a compression runs, beside what it makes. With an `effort` a budget is searched for by training many candidates.
    `command` is what was typed, for the report."""

    seed: int = 0
    epochs: int = 8
    threads: int = 1
    machine: Machine = field(default_factory=Machine)
    root: Path | None = None
    watch: Watch | None = None
    say: Say = lambda line: None
    effort: Effort | None = None
    command: str = ""


@dataclass(frozen=True)
class Result:
    """The compressed network and what was measured of it and of the network it came from."""

    model: nn.Module
    recipe: Recipe
    metrics: dict[str, Any]
    failures: list[str]
    out: Path

    @property
    def met(self) -> bool:
        """Whether every budget was met."""
        return not self.failures


def compress(
    model: nn.Module,
    task: Task,
    recipe: Recipe | None = None,
    *,
    out: str | Path,
    budget: Budget | None = None,
    settings: Settings = Settings(),
) -> Result:
    """Compress a trained network by a recipe, or by the gentlest recipe measured to meet a budget, and prove it.

    `out` receives `model.lil`, `model.onnx`, `report.html`, `metrics.json`, `recipe.yaml` and `log.jsonl`. Accuracies are those
    of the exported files in ONNX Runtime, latencies are measured there in turns with the uncompressed network, and nothing is
    chosen on the test split. A run that is stopped goes on where it stood when it is called again.
    A budget that is missed is in `Result.failures`; what was reached is written all the same.
    """
    return _Compression(model, task, Path(out), budget or Budget(), settings).go(recipe)


def join(model: nn.Module, task: Task, budget: Budget, *, out: str | Path, settings: Settings) -> int:
    """Train what a search for the same network, data, budget and effort wants trained, here or on another machine.

    How many candidates that were: others may have trained the rest.
    """
    if settings.effort is None:
        raise ConfigError("to join a search, say the same `hours` as it")
    model = perform(model, ()).eval()
    check_fit(model, task)
    folder = Path(out) / "search"
    known = _remembered(model, task, Clock(task.example(), threads=settings.threads), folder)
    bench = replace(_bench(task, settings, None), clock=known)
    return Search(model, bench, known, budget, settings.effort, folder, settings.say).join()


def missed(failures: Sequence[str], out: Path) -> BudgetError:
    """The error for budgets that were not met, which says where what was reached lies."""
    return BudgetError(f"{'; '.join(failures)}. What was reached is in {out}.")


def pretrain(model: nn.Module, task: Task, epochs: int, settings: Settings) -> nn.Module:
    """Train a network from its initialisation, by the same store of results as a recipe's steps."""
    step = Fit(epochs=epochs, lr=0.1, batch_size=64 if len(task.train) < 10_000 else 128)
    return train(model, task, step, settings)[0]


def train(model: nn.Module, task: Task, step: Fit, settings: Settings) -> tuple[nn.Module, list[Event]]:
    """Train a network, and what happened, one row an epoch."""
    made = run(model, Recipe((step,)), _bench(task, settings, None))
    return attach(made.model, recipe=None), made.stages[-1].history


def check_fit(model: nn.Module, task: Task) -> None:
    """Raise `ModelError` unless the network takes the task's images and has its classes."""
    shape = task.input_shape
    try:
        with torch.no_grad():
            outputs = copy.deepcopy(model).eval()(task.example())
    except Exception as error:  # the forward is the user's code
        first = str(error).split("\n")[0]
        raise ModelError(f"the model cannot take {task.name}'s images of {' x '.join(map(str, shape))}: {first}") from None
    if not isinstance(outputs, torch.Tensor) or outputs.dim() != 2:
        raise ModelError(f"the model returns a {type(outputs).__name__}; a classifier returns one tensor of (images, classes)")
    if outputs.shape[-1] != task.classes:
        raise ModelError(
            f"the model has {outputs.shape[-1]} classes and {task.name} has {task.classes}; "
            f"build it with `classes={task.classes}`"
        )


@dataclass
class _Measured:
    """One network with its files and figures."""

    exported: Exported
    file_bytes: int | None
    profile: Any
    test: Accuracy
    val: Accuracy

    def row(self, latency: Any) -> dict[str, Any]:
        """The network's part of `metrics.json`."""
        return {
            "accuracy": self.test.value, "accuracy_interval": list(self.test.interval()), "val_accuracy": self.val.value,
            "params": self.profile.params, "macs": self.profile.macs, "file_bytes": self.file_bytes,
            "onnx_bytes": self.exported.bytes, "latency_ms": latency.to_json(),
            "peak_activation_bytes": self.profile.peak_activation_bytes,
        }  # fmt: skip


class _Compression:
    """One run, from the first measurement to the report."""

    def __init__(self, model: nn.Module, task: Task, out: Path, budget: Budget, settings: Settings) -> None:
        self.model = perform(model, ()).eval()  # a copy, so that the user's network and its mode stay as they are
        self.task, self.out, self.budget, self.settings = task, out, budget, settings
        self.begun = time.perf_counter()
        self.say = settings.say
        self.example = task.example()
        self.storable = record(model).architecture is not None
        self.start = prefix_id([start_text(self.model, task)])

    def go(self, recipe: Recipe | None) -> Result:
        """All of it."""
        check_fit(self.model, self.task)
        if self.budget.size is not None and not self.storable:
            raise ModelError(f"a size budget is about model.lil, which cannot be written: {UNNAMED}")
        self._open()
        clock = Clock(self.example, threads=self.settings.threads)
        bench = _bench(self.task, self.settings, clock, self._log)
        proposal = None
        if recipe is None:
            proposal = self._propose(clock, bench)
            recipe = proposal.recipe
        network = record(self.model).architecture or type(self.model).__name__
        told = f"# {network} on {self.task.name}, seed {self.settings.seed}\n"
        (self.out / "recipe.yaml").write_text(told + recipe.to_yaml())
        made = run(self.model, recipe, bench)
        return self._prove(recipe, made, proposal)

    def _propose(self, clock: Clock, bench: Bench) -> Proposal:
        """The recipe for the budget: by training many where there are hours for it, else the gentlest that fits."""
        effort, known = self.settings.effort, _remembered(self.model, self.task, clock, self.out / "search")
        if effort is None:
            self.say("looking for the gentlest recipe that meets the budget")
            return propose(self.model, bench, self.budget, known, epochs=self.settings.epochs, say=self.say)
        return Search(self.model, replace(bench, clock=known), known, self.budget, effort, self.out / "search", self.say).go()

    def _open(self) -> None:
        """The folder, and a log of this run alone, unless it goes on. What an earlier run left stays until it is replaced."""
        self.out.mkdir(parents=True, exist_ok=True)
        log = self.out / "log.jsonl"
        first = {"event": "run", "start": self.start, "seed": self.settings.seed}
        line = json.dumps(first)
        if not log.exists() or log.read_text().partition("\n")[0] != line:
            log.write_text(line + "\n")

    def _log(self, event: Event) -> None:
        if event["event"] != "step":
            with (self.out / "log.jsonl").open("a") as file:
                file.write(json.dumps(event) + "\n")
        if self.settings.watch is not None:
            self.settings.watch(event)

    def _prove(self, recipe: Recipe, made: Run, proposal: Proposal | None) -> Result:
        """Write the files, read them back, measure both networks side by side."""
        self.say("measuring both networks on ONNX Runtime")
        before = self._measure(self.model, "baseline")
        after = self._measure(made.model, "model")
        files = {"baseline": before.exported.path, "compressed": after.exported.path}
        times = time_exports(files, self.example, threads=self.settings.threads, sessions=SESSIONS)
        rows = {"baseline": before.row(times["baseline"]), "compressed": after.row(times["compressed"])}
        rows["compressed"]["answers"] = report.answers(before.test.hits, after.test.hits)
        failures = self.budget.failures(rows["baseline"], rows["compressed"])
        metrics = {
            **rows, "device": hardware(), "versions": versions(), "seed": self.settings.seed,
            "seconds": round(time.perf_counter() - self.begun, 1), "budget": _budget(self.budget), "failures": failures,
            **({"front": list(proposal.front)} if proposal is not None and proposal.front else {}),
        }  # fmt: skip
        state.write_json(self.out / "metrics.json", metrics)
        state.write_json(self.out / "details.json", self._details(made, proposal, before, after, failures))
        report.render(self.out)
        return Result(made.model, recipe, metrics, failures, self.out)

    def _measure(self, model: nn.Module, name: str) -> _Measured:
        path = self.out / f"{name}.onnx"
        with at(f"export {path.name}"):
            exported = export(model, self.example, path)
        predict = predictor(path)
        scores = {s: accuracy(predict, self.task.batches(s, 250), self.task.metric) for s in ("test", "val")}
        file = self.out / f"{name}.lil"
        if not self.storable:
            file.unlink(missing_ok=True)
        size = save(model, file) if self.storable else None
        return _Measured(exported, size, profile(model, self.example), scores["test"], scores["val"])

    def _details(
        self, made: Run, proposal: Proposal | None, before: _Measured, after: _Measured, failures: list[str]
    ) -> dict[str, Any]:
        return {
            "model": record(self.model).architecture or type(self.model).__name__, "data": self.task.name,
            "classes": list(self.task.class_names), "command": self.settings.command,
            "images": {split: len(getattr(self.task, split)) for split in ("train", "val", "test")},
            "start": self.start,
            "per_class": {"baseline": before.test.to_json()["per_class"], "compressed": after.test.to_json()["per_class"]},
            "layers": {"baseline": before.profile.to_json()["layers"], "compressed": after.profile.to_json()["layers"]},
            **report.inside({"baseline": (self.model, before.exported.path), "compressed": (made.model, after.exported.path)},
                            self.example, self.settings.threads),
            "tried": [t.to_json() for t in proposal.tried] if proposal else [],
            "stages": [
                {"step": s.step.text(), "id": s.id, "seconds": round(s.seconds, 2), "reused": s.reused, "edits": len(s.edits),
                 "history": s.history} for s in made.stages
            ],
            "edits": [str(e) for e in edits(made.model)],
            "digest": edit_values.digest(edits(made.model)),
            "integer_nodes": sum(after.exported.integer_nodes.values()),
            "float_nodes": [f"{name}: {why}" for name, why in after.exported.float_nodes.items()],
            "packed_nodes": after.exported.packed_nodes,
            "dense_nodes": [f"{name}: {why}" for name, why in after.exported.dense_nodes.items()],
            "warnings": self._warnings(before, after, proposal is None or proposal.reachable or not failures),
        }  # fmt: skip

    def _warnings(self, before: _Measured, after: _Measured, reached: bool) -> list[str]:
        found = {**before.profile.uncounted, **after.profile.uncounted}
        lines = [f"{name} ran {times} times and its cost is not counted" for name, times in found.items()]
        if not self.storable:
            lines.append(f"model.lil was not written: {UNNAMED}")
        if packed := sum(after.exported.packed_nodes.values()):
            lines.append(
                f"model.onnx holds {packed} operations of domain `lilliput`, which need its library "
                "(`lilliput.kernels.register`); `lilliput export model.lil model.onnx --plain` writes one without."
            )
        if not reached:
            lines.append("No candidate met the budgets; the nearest one was taken.")
        return lines


def _bench(task: Task, settings: Settings, clock: Clock | None, watch: Watch | None = None) -> Bench:
    root = settings.root or cache_root() / "stages"
    return Bench(task, root, settings.seed, settings.machine, watch or settings.watch, clock)


def _remembered(model: nn.Module, task: Task, clock: Clock, folder: Path) -> Remembered:
    """What is known of a network's times on this machine."""
    machine = hardware()
    context = [start_text(model, task), f"{machine['cpu']} {machine['cores']}", f"{clock.runtime} {clock.threads}"]
    return Remembered(clock, folder / "times.json", prefix_id(context))


def _budget(budget: Budget) -> dict[str, Any]:
    limits = {"size": budget.size, "latency": budget.latency, "memory": budget.memory}
    found: dict[str, Any] = {k: None if v is None else {"value": v.value, "ratio": v.ratio} for k, v in limits.items()}
    return {**found, "max_drop": budget.max_drop}
