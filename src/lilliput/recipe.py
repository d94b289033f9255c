"""A recipe is a list of methods and trainings, and a value: text in, text out, hashed prefix by prefix.

The result of each prefix is stored under the hash of its canonical text, so recipes that begin alike share the work, and a
run that was stopped, in whatever way, goes on where it stood. Nothing but the current epoch can be lost.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn

from lilliput.config import Config, config, from_json, parse
from lilliput.core import edits as edit_values
from lilliput.core import state
from lilliput.core.edits import Edit
from lilliput.core.identity import file_identity, identity
from lilliput.core.method import Look, Method
from lilliput.core.perform import bake, perform
from lilliput.core.record import Record, attach, edits, record
from lilliput.data import Task
from lilliput.errors import ConfigError, FormatError, ModelError, at
from lilliput.opening import open_model
from lilliput.prune.lottery import Rewind
from lilliput.store import rebuild
from lilliput.supernet import Slim
from lilliput.train import BatchNorm, Event, Fit, Machine, Watch, fit, reestimate
from lilliput.zoo.resized import inherit


@config("bake")
class Bake(Config):
    """Replace every weight map by the weight it computes."""


@config("student")
class Student(Config):
    """Go on with another network, which learns from the one the recipe started from in every `fit(distill=...)` after it.

    architecture   as commands name models: a zoo name with options, `timm:NAME`, `torchvision:NAME`, `file.py:function`, or a
                   `.lil`. Fresh weights are drawn by the seed of the run; the same network at another resolution
                   (`resnet20:resolution=24`) starts from the weights of its teacher

    Costs nothing by itself. Raises `ModelError` where the two have different classes or take different images.
    Hinton, Vinyals, Dean 2015, arXiv:1503.02531.
    """

    architecture: str = "resnet20"

    def check(self) -> None:
        """Raise `ConfigError` without a name."""
        if not self.architecture:
            raise ConfigError("`architecture` (=) names the student, such as resnet20:width=0.5")

    def __call__(self, teacher: nn.Module, example: Tensor, seed: int) -> nn.Module:
        """The student, tried on `example` beside its teacher."""
        self.check()
        made = open_model(self.architecture, seed=seed)
        inherit(made, teacher)
        with torch.no_grad():
            wanted = teacher.eval()(example).shape
            try:
                found = made(example).shape
            except Exception as error:  # the forward may be the user's code
                told = f"{tuple(example.shape)} as its teacher does: {str(error).splitlines()[0]}"
                raise ModelError(f"{self.architecture} cannot take {told}") from None
        if found != wanted:
            told = f"{tuple(found)} where its teacher gives {tuple(wanted)}"
            raise ModelError(f"{self.architecture} gives {told}; say its `classes`")
        return made


Step = Method | Fit | BatchNorm | Bake | Rewind | Student | Slim
STEPS = (Method, Fit, BatchNorm, Bake, Rewind, Student, Slim)


@config("recipe")
class Recipe(Config):
    """Steps in order.

    >>> from lilliput.prune import Channels
    >>> recipe = Recipe([Channels(keep=0.5), Fit(epochs=2)])
    >>> recipe.text()
    'recipe(steps=[prune.channels(keep=0.5), fit(epochs=2)])'
    >>> Recipe.from_yaml(recipe.to_yaml()) == recipe
    True
    """

    steps: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))

    def check(self) -> None:
        """Raise `ConfigError` for a step that is none, or has options that can never work."""
        for number, step in enumerate(self.steps, 1):
            if not isinstance(step, STEPS):
                raise ConfigError(f"step {number} (={step!r}) is no method, fit, batchnorm, bake, rewind, student or slim")
            with at(f"step {number}, {step.name}"):
                step.check()
                if isinstance(step, Rewind) and step.to >= number:
                    raise ConfigError(f"`to` (={step.to}) is a step before this one, or 0 for the start")

    def to_yaml(self) -> str:
        """The recipe as YAML, one step an entry."""
        import yaml

        return str(yaml.safe_dump({"steps": [s.to_json() for s in self.steps]}, sort_keys=False))

    @staticmethod
    def from_yaml(text: str) -> Recipe:
        """Read what `to_yaml` wrote; a step may also be its canonical text, or a bare name.

        Raises `ConfigError` that names the step for anything that is not a recipe.
        """
        import yaml

        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"the recipe is not YAML: {' '.join(str(error).split())}") from None
        if not isinstance(content, dict) or not isinstance(content.get("steps"), list):
            raise ConfigError("a recipe is a mapping with a list of `steps`")
        steps = []
        for number, value in enumerate(content["steps"], 1):
            with at(f"step {number}"):
                steps.append(_step(value))
        recipe = Recipe(tuple(steps))
        recipe.check()
        return recipe

    @staticmethod
    def read(path: str | Path) -> Recipe:
        """Read a recipe file."""
        try:
            text = Path(path).read_text()
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        with at(str(path)):
            return Recipe.from_yaml(text)


def _step(value: Any) -> Any:
    if isinstance(value, str):
        return parse(value if "(" in value else f"{value}()")
    if not isinstance(value, dict) or len(value) != 1:
        raise ConfigError(f"`{value}` is not a step; write `name: {{option: value}}`")
    ((name, options),) = value.items()
    return from_json({name: options or {}})


@dataclass(frozen=True)
class Stage:
    """What one step did."""

    step: Config
    id: str
    edits: tuple[Edit, ...]
    history: list[Event]
    seconds: float
    reused: bool


@dataclass(frozen=True)
class Run:
    """The network a recipe made, and how."""

    model: nn.Module
    stages: list[Stage]
    seed: int


@dataclass(frozen=True)
class Bench:
    """Where and with what a recipe runs."""

    task: Task
    root: Path
    seed: int = 0
    machine: Machine = field(default_factory=Machine)
    watch: Watch | None = None
    clock: Callable[[nn.Module], float] | None = None


def run(model: nn.Module, recipe: Recipe, bench: Bench) -> Run:
    """Perform a recipe on a model, taking from the store every prefix that was run before.

    `model` is left untouched and is the teacher of every distilling fit. Each prefix's result lies in
    `root/<id>/replicate_<seed>`, its id being the hash of start, data and steps. Deterministic by seed.
    """
    recipe.check()
    texts = [start_text(model, bench.task)]
    current, stages = model, []
    wanted = {step.to for step in recipe.steps if isinstance(step, Rewind)}
    past = {0: model}
    for number, step in enumerate(recipe.steps, 1):
        texts.append(step.text() + (file_identity(step.architecture) if isinstance(step, Student) else ""))
        place = bench.root / prefix_id(texts) / f"replicate_{bench.seed}"
        with at(step.name):
            current, stage = _stage(model, current, step, place, bench, past)
        stages.append(stage)
        if number in wanted:
            past[number] = current
    made = perform(model, ()) if current is model else current  # an empty recipe must not hand the input itself back
    return Run(attach(made, recipe=recipe.text()), stages, bench.seed)


def start_text(model: nn.Module, task: Task) -> str:
    """What a run starts from, as text: version, architecture, edits, weights, code and data."""
    return f"lilliput {version('lilliput')} start({identity(model)}, task={task.id()})"


def prefix_id(texts: Sequence[str]) -> str:
    """Twelve hexadecimal digits that name a start and the steps after it."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


def _stage(
    start: nn.Module, before: nn.Module, step: Step, place: Path, bench: Bench, past: dict[int, nn.Module]
) -> tuple[nn.Module, Stage]:
    """One step: from the store if it is there, else done and stored. `past`: networks that rewinding goes back to.

    The first process to come does it; others that want the same wait for it. The lock goes with its process.
    """
    if (place / "stage.json").exists():
        return _stored(start, step, place)
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place.with_suffix(".lock")):
        if (place / "stage.json").exists():
            return _stored(start, step, place)
        return _made(start, before, step, place, bench, past)


def _made(
    start: nn.Module, before: nn.Module, step: Step, place: Path, bench: Bench, past: dict[int, nn.Module]
) -> tuple[nn.Module, Stage]:
    begun = time.perf_counter()
    after, history = _do(start, before, step, place, bench, past)
    seconds = time.perf_counter() - begun
    new_edits = edits(after)[len(edits(before)) :] if isinstance(step, Method) else ()
    state.write(place / "state.safetensors", {"model": after.state_dict(), "training": after.training})
    meta = {"step": step.text(), "record": record(after).to_json(), "edits": edit_values.to_json(new_edits),
            "history": history, "seconds": seconds}  # fmt: skip
    state.write_json(place / "stage.json", meta)
    (place / "fit.safetensors").unlink(missing_ok=True)
    return after, Stage(step, place.parent.name, new_edits, history, seconds, False)


def _stored(start: nn.Module, step: Step, place: Path) -> tuple[nn.Module, Stage]:
    try:
        meta = json.loads((place / "stage.json").read_text())
    except ValueError as error:
        raise FormatError(f"{place}: not a stored stage: {error}. Without this folder the step is done again.") from None
    made = Record.from_json(meta["record"])
    first = edits(start)
    if made.architecture == record(start).architecture and made.edits[: len(first)] == first:
        model = perform(start, made.edits[len(first) :], weights=False)
    else:
        model = rebuild(made, trust=True)  # written by this user, about a model this user opened
    stored = state.read(place / "state.safetensors")
    model.load_state_dict(stored["model"])
    model.train(stored["training"])
    stage = Stage(step, place.parent.name, edit_values.from_json(meta["edits"]), meta["history"], meta["seconds"], True)
    return model, stage


def _do(
    start: nn.Module, before: nn.Module, step: Step, place: Path, bench: Bench, past: dict[int, nn.Module]
) -> tuple[nn.Module, list[Event]]:
    if isinstance(step, Fit):
        fitted = fit(
            before,
            bench.task,
            step,
            teacher=start,
            seed=bench.seed,
            folder=place,
            machine=bench.machine,
            watch=bench.watch,
            answers=bench.root / "answers",
        )
        return fitted.model, fitted.history
    if isinstance(step, BatchNorm):
        return reestimate(before, bench.task, step), []
    if isinstance(step, Bake):
        return bake(before), []
    if isinstance(step, Student):
        return step(start, bench.task.example(), bench.seed), []
    if isinstance(step, Slim):
        return step(before), []
    if isinstance(step, Rewind):
        return step(before, past[step.to], bench.seed), []
    return step(before, look(bench)), []


def look(bench: Bench) -> Look:
    """What methods may see of a task: its training split without augmentation, its loss, the seed and the clock."""
    task = bench.task
    return Look(task.example(), task.drawn(), task.loss, bench.seed, bench.clock)
