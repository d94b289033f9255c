"""Commands that choose and prove: compress, and the search over architectures."""

from __future__ import annotations

import itertools
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lilliput.cli.options import (
    Accelerator,
    Data,
    Devices,
    Json,
    Log,
    Model,
    Seed,
    SkipBad,
    Threads,
    Trust,
    Weights,
    app,
    called,
    example_of,
)
from lilliput.errors import UsageError

if TYPE_CHECKING:
    from lilliput.recipe import Recipe
    from lilliput.search import Effort

Out = Annotated[Path, typer.Option(help="The folder that receives model, report and measurements.")]
Size = Annotated[str | None, typer.Option(help="Budget for the `.lil`: 0.5MB, 80kB or 0.25x.")]
Latency = Annotated[str | None, typer.Option(help="Budget for one inference: 5ms or 0.5x.")]
Memory = Annotated[str | None, typer.Option(help="Budget for activations alive at once: 256kB or 0.5x.")]
MaxDrop = Annotated[float | None, typer.Option(help="Points of test accuracy that may be lost.")]
Family = Annotated[list[str] | None, typer.Option(help="Of the ways to shape MODEL in a search only this; repeatable.")]
Student = Annotated[list[str] | None, typer.Option(help="Another network that learns from MODEL in a search; repeatable.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes that train side by side in a search.")]
Storage = Annotated[
    str | None, typer.Option(help="A database that machines share in a search: `sqlite:///FILE`, `postgresql://...`.")
]
Join = Annotated[bool, typer.Option("--join", help="Only train for a search that another process plans.")]
Precision = Annotated[str, typer.Option(help="Of training in a search: 32 or bf16-mixed.")]
Pretrain = Annotated[int, typer.Option(min=0, help="Train the model from scratch for so many epochs first.")]


@app.command(
    epilog=example_of("compress resnet8:channels=1 --data digits --pretrain 12 --latency 0.6x --max-drop 2 --out out/digits")
)
def compress(
    model: Model,
    data: Data,
    out: Out,
    weights: Weights = None,
    recipe: Annotated[Path | None, typer.Option(help="A recipe (YAML); without one, budgets choose.")] = None,
    bits: Annotated[str | None, typer.Option(help="Quantize, without training: 8, w4a8 or mixed.")] = None,
    size: Size = None,
    latency: Latency = None,
    memory: Memory = None,
    max_drop: MaxDrop = None,
    hours: Annotated[float | None, typer.Option(help="Search so long, training many; else the gentlest that fits.")] = None,
    family: Family = None,
    student: Student = None,
    workers: Workers = 1,
    storage: Storage = None,
    join: Join = False,
    precision: Precision = "32",
    epochs: Annotated[int | None, typer.Option(min=0, help="Of recovery where a budget chooses without hours: 8.")] = None,
    pretrain: Pretrain = 0,
    threads: Threads = 1,
    seed: Seed = 0,
    skip_bad: SkipBad = False,
    devices: Devices = 1,
    accelerator: Accelerator = "auto",
    log: Log = None,
    trust: Trust = False,
    json_out: Json = False,
) -> None:
    """Compress a trained network by a recipe or to a budget, measure it beside the original, and report."""
    from lilliput import job, report
    from lilliput.data import open_task
    from lilliput.logs import Log as Logging
    from lilliput.opening import open_model
    from lilliput.search import Budget
    from lilliput.terminal import Training, say, show
    from lilliput.terminal import out as screen
    from lilliput.train import Machine

    budget = Budget.read(size, latency, max_drop, memory)
    effort = effort_of(hours, storage, precision, workers, join, family, student, plan=recipe or bits)
    plan = plan_of(recipe, bits, epochs, effort, aims=budget != Budget())
    need_weights(model, weights, pretrain)
    network = open_model(model, weights=weights, trust=trust, seed=seed)
    task = open_task(data, seed=seed, skip_bad=skip_bad)
    with Training() as bar, Logging(log or (), out / "logs", watch=bar) as watch:
        watch.settings({"model": model, "data": data, "seed": seed, **({"recipe": plan.text()} if plan else {})})
        machine, recovery = Machine(accelerator, devices), 8 if epochs is None else epochs
        settings = job.Settings(seed, recovery, threads, machine, watch=watch, say=say, effort=effort, command=typed())
        job.check_fit(network, task)
        network = job.pretrain(network, task, pretrain, settings) if pretrain else network
        if join:
            return show_joined(job.join(network, task, budget, out=out, settings=settings), json_out)
        result = job.compress(network, task, plan, out=out, budget=budget, settings=settings)
        watch.result(result.metrics)
    show(report.summary(result.metrics), result.metrics, json_out)
    if not json_out:
        screen.print(f"report: {out / 'report.html'}")
    if not result.met:
        raise job.missed(result.failures, out)


def typed() -> str:
    return shlex.join(["lilliput", *called.get()]) if called.get() else ""


def show_joined(trained: int, json_out: bool) -> None:
    from lilliput.terminal import show

    show(f"trained {trained} for the search, and nothing is left to train", {"trained": trained}, json_out)


def plan_of(recipe: Path | None, bits: str | None, epochs: int | None, effort: Effort | None, aims: bool) -> Recipe | None:
    """The recipe that is given, in one way alone; none where a budget chooses."""
    from lilliput.quant.shortcuts import shortcut
    from lilliput.recipe import Recipe

    if recipe and bits:
        raise UsageError(f"`--recipe {recipe}` beside `--bits {bits}`: each is the whole plan; give one")
    plan = Recipe.read(recipe) if recipe else Recipe(shortcut(bits)) if bits else None
    if epochs is not None and (plan or effort):
        raise UsageError(f"`--epochs {epochs}` is for a budget without `--hours`: a recipe has its own, hours what fits")
    if plan is None and not aims:
        raise UsageError("say what to aim at: `--size`, `--latency`, `--memory`, `--max-drop`, `--bits 8` or `--recipe FILE`")
    return plan


@app.command(
    epilog=example_of("search resnet20 --data cifar10 --weights resnet20.safetensors --vary width=0.5,0.75 --latency 0.5x "
                      "--hours 1 --out out/s")
)  # fmt: skip
def search(
    model: Model,
    data: Data,
    out: Out,
    hours: Annotated[float, typer.Option(help="How long.")],
    vary: Annotated[list[str] | None, typer.Option(help="MODEL with other options: width=0.25,0.5; repeatable.")] = None,
    student: Student = None,
    weights: Weights = None,
    size: Size = None,
    latency: Latency = None,
    memory: Memory = None,
    max_drop: MaxDrop = None,
    family: Family = None,
    workers: Workers = 1,
    storage: Storage = None,
    join: Join = False,
    precision: Precision = "32",
    pretrain: Pretrain = 0,
    threads: Threads = 1,
    seed: Seed = 0,
    skip_bad: SkipBad = False,
    devices: Devices = 1,
    accelerator: Accelerator = "auto",
    log: Log = None,
    trust: Trust = False,
    json_out: Json = False,
) -> None:
    """Search over architectures that learn from MODEL, and over ways to compress it, for what a budget allows."""
    students = [*(student or ()), *variants(model, vary or [])]
    if not students and not is_slimmable(model, trust):
        raise UsageError("say which architectures: `--vary width=0.5,0.75` or `--student NAME`; without any it is `compress`")
    compress(
        model, data, out, weights, size=size, latency=latency, memory=memory, max_drop=max_drop, hours=hours, family=family,
        student=students, workers=workers, storage=storage, join=join, precision=precision, pretrain=pretrain,
        threads=threads, seed=seed, skip_bad=skip_bad, devices=devices, accelerator=accelerator, log=log, trust=trust,
        json_out=json_out,
    )  # fmt: skip


def is_slimmable(model: str, trust: bool) -> bool:
    """Whether a network holds several, which are what is searched."""
    from lilliput.opening import open_model
    from lilliput.zoo.slimmable import Slimmable

    return isinstance(open_model(model, trust=trust), Slimmable)


def variants(model: str, vary: list[str]) -> list[str]:
    """The architecture with every combination of the options.

    >>> variants("resnet20:classes=5", ["width=0.5,1"])
    ['resnet20:classes=5,width=0.5', 'resnet20:classes=5,width=1']
    """
    from lilliput.zoo.libraries import is_library

    if not vary:
        return []
    if is_library(model) or Path(model.partition(":")[0]).suffix:
        raise UsageError(f"`--vary` sets options of the zoo's architectures, and {model} is none; name others by `--student`")
    ways = []
    for text in vary:
        option, _, values = text.partition("=")
        if not option or not values:
            raise UsageError(f"`--vary {text}`: write an option of the architecture and its values: width=0.25,0.5")
        ways.append([f"{option}={value}" for value in values.split(",")])
    joint = "," if ":" in model else ":"
    return [f"{model}{joint}{','.join(way)}" for way in itertools.product(*ways)]


def effort_of(
    hours: float | None,
    storage: str | None,
    precision: str,
    workers: int,
    join: bool,
    families: list[str] | None,
    students: list[str] | None,
    plan: object,
) -> Effort | None:
    from lilliput.search import Effort

    if hours is None:
        if storage or join or workers > 1 or families or students or precision != "32":
            named = "`--storage`, `--workers`, `--join`, `--family`, `--student`, `--precision`"
            raise UsageError(f"{named} are for a search: say how long with `--hours`")
        return None
    if plan:
        raise UsageError(f"`--hours {hours:g}` searches for a recipe, and one is given; leave out `--recipe` and `--bits`")
    again = (sys.executable, "-m", "lilliput", *called.get(), "--join")
    shapes = tuple(families) if families else None
    effort = Effort(hours, storage, precision, workers, again, shapes, tuple(students or ()))
    effort.check()
    return effort


def need_weights(model: str, weights: Path | None, pretrain: int) -> None:
    from lilliput.opening import is_fresh
    from lilliput.zoo import architectures
    from lilliput.zoo.libraries import is_library

    if weights is None and not pretrain and is_fresh(model):
        if is_library(model):
            raise UsageError(
                f"{model} has fresh weights: give `--weights pretrained` for those its library publishes, `--weights FILE`, or "
                "`--pretrain EPOCHS` to train it first"
            )
        if model.partition(":")[0] in architectures:
            raise UsageError(f"{model} has no trained weights: give `--weights FILE`, or `--pretrain EPOCHS` to train it first")
