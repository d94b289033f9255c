"""Commands that make something: compress, train, export, pack, unpack."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lilliput.cli.options import (
    Accelerator,
    Data,
    Devices,
    Json,
    Log,
    Model,
    Seed,
    Shape,
    SkipBad,
    Threads,
    Trust,
    Weights,
    app,
    example_of,
    input_of,
)
from lilliput.errors import UsageError

if TYPE_CHECKING:
    from lilliput.search import Effort


@app.command(
    epilog=example_of("compress resnet8:channels=1 --data digits --pretrain 12 --latency 0.6x --max-drop 2 --out out/digits")
)
def compress(
    model: Model,
    data: Data,
    out: Annotated[Path, typer.Option(help="The folder that receives model, report and measurements.")],
    weights: Weights = None,
    recipe: Annotated[Path | None, typer.Option(help="A recipe (YAML); without one, budgets choose.")] = None,
    bits: Annotated[str | None, typer.Option(help="Quantize, without training: 8, w4a8 or mixed.")] = None,
    size: Annotated[str | None, typer.Option(help="Budget for the `.lil`: 0.5MB, 80kB or 0.25x.")] = None,
    latency: Annotated[str | None, typer.Option(help="Budget for one inference: 5ms or 0.5x.")] = None,
    memory: Annotated[str | None, typer.Option(help="Budget for activations alive at once: 256kB or 0.5x.")] = None,
    max_drop: Annotated[float | None, typer.Option(help="Points of test accuracy that may be lost.")] = None,
    hours: Annotated[
        float | None, typer.Option(help="Search so long, training many candidates; without it, the gentlest that fits.")
    ] = None,
    family: Annotated[
        list[str] | None, typer.Option(help="Only candidates of this family in a search; repeatable. See docs/search.md.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that train side by side in a search.")] = 1,
    storage: Annotated[
        str | None, typer.Option(help="A database that machines share in a search: `sqlite:///FILE`, `postgresql://...`.")
    ] = None,
    join: Annotated[bool, typer.Option("--join", help="Only train for a search that another process plans.")] = False,
    precision: Annotated[str, typer.Option(help="Of training in a search: 32 or bf16-mixed.")] = "32",
    epochs: Annotated[
        int | None,
        typer.Option(min=0, help="Epochs of recovery where a budget chooses, without hours; 8 by default."),
    ] = None,
    pretrain: Annotated[int, typer.Option(min=0, help="Train the model from scratch for so many epochs first.")] = 0,
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
    from lilliput.quant.shortcuts import shortcut
    from lilliput.recipe import Recipe
    from lilliput.search import Budget
    from lilliput.terminal import Training, say, show
    from lilliput.terminal import out as screen
    from lilliput.train import Machine

    budget = Budget.read(size, latency, max_drop, memory)
    effort = effort_of(hours, storage, precision, workers, join, tuple(family or ()), plan=recipe or bits)
    if recipe and bits:
        raise UsageError(f"`--recipe {recipe}` beside `--bits {bits}`: each is the whole plan; give one")
    plan = Recipe.read(recipe) if recipe else Recipe(shortcut(bits)) if bits else None
    if epochs is not None and (plan or effort):
        raise UsageError(f"`--epochs {epochs}` is for a budget without `--hours`: a recipe has its own, hours what fits")
    if plan is None and budget == Budget():
        raise UsageError("say what to aim at: `--size`, `--latency`, `--memory`, `--max-drop`, `--bits 8` or `--recipe FILE`")
    need_weights(model, weights, pretrain)
    network = open_model(model, weights=weights, trust=trust, seed=seed)
    task = open_task(data, seed=seed, skip_bad=skip_bad)
    with Training() as bar, Logging(log or (), out / "logs", watch=bar) as watch:
        watch.settings({"model": model, "data": data, "seed": seed, **({"recipe": plan.text()} if plan else {})})
        machine = Machine(accelerator, devices)
        recovery = 8 if epochs is None else epochs
        settings = job.Settings(seed, recovery, threads, machine, watch=watch, say=say, effort=effort)
        job.check_fit(network, task)
        if pretrain:
            network = job.pretrain(network, task, pretrain, settings)
        if join:
            job.join(network, task, budget, out=out, settings=settings)
            return
        result = job.compress(network, task, plan, out=out, budget=budget, settings=settings)
        watch.result(result.metrics)
    show(report.summary(result.metrics), result.metrics, json_out)
    if not json_out:
        screen.print(f"report: {out / 'report.html'}")
    if not result.met:
        raise job.missed(result.failures, out)


@app.command(epilog=example_of("train resnet8:channels=1 --data digits --epochs 12 --out digits.lil"))
def train(
    model: Model,
    data: Data,
    out: Annotated[Path, typer.Option(help="Where the trained network goes: a `.lil`.")],
    weights: Weights = None,
    epochs: Annotated[int, typer.Option(min=1)] = 30,
    lr: Annotated[float, typer.Option(help="The highest learning rate, for one batch.")] = 0.1,
    batch_size: Annotated[int, typer.Option(min=1)] = 128,
    seed: Seed = 0,
    skip_bad: SkipBad = False,
    devices: Devices = 1,
    accelerator: Accelerator = "auto",
    log: Log = None,
    trust: Trust = False,
    json_out: Json = False,
) -> None:
    """Train a network; a run that was stopped goes on where it stood."""
    from lilliput import job
    from lilliput.data import open_task
    from lilliput.logs import Log as Logging
    from lilliput.opening import open_model
    from lilliput.store import save
    from lilliput.terminal import Training, say, show
    from lilliput.train import Fit, Machine

    network = open_model(model, weights=weights, trust=trust, seed=seed)
    task = open_task(data, seed=seed, skip_bad=skip_bad)
    job.check_fit(network, task)
    step = Fit(epochs=epochs, lr=lr, batch_size=batch_size)
    with Training() as bar, Logging(log or (), out.with_suffix(".logs"), watch=bar) as watch:
        watch.settings({"model": model, "data": data, "seed": seed, "fit": step.text()})
        settings = job.Settings(seed, machine=Machine(accelerator, devices), watch=watch, say=say)
        trained, history = job.train(network, task, step, settings)
    written = save(trained, out)
    last = history[-1]
    line = f"{out}: {written:,} bytes, validation accuracy {100 * last['val_accuracy']:.2f} % after {epochs} epochs"
    show(line, {"file": str(out), "bytes": written, "history": history}, json_out)


@app.command(epilog=example_of("export out/digits/model.lil digits.onnx"))
def export(
    model: Annotated[str, typer.Argument(metavar="FILE", help="A `.lil`, or any MODEL.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="`.onnx`, `.pt2` or `.safetensors`.")],
    weights: Weights = None,
    input: Shape = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Operations of ONNX alone, whatever packed layers would gain.")
    ] = False,
    trust: Trust = False,
    json_out: Json = False,
) -> None:
    """Write a network for a runtime, read it back, and compare the two."""
    from lilliput.export import export as write
    from lilliput.opening import open_model
    from lilliput.terminal import show

    network = open_model(model, weights=weights, trust=trust)
    made = write(network, input_of(network, input), out, plain=plain)
    show(str(made), made.to_json(), json_out)


@app.command(epilog=example_of("pack resnet20 resnet20.lil --weights resnet20.safetensors"))
def pack(
    model: Model,
    out: Annotated[Path, typer.Argument(metavar="OUT.lil")],
    weights: Weights = None,
    coder: Annotated[
        str | None, typer.Option(help="context (the smallest), huffman (for comparison) or plain (version 1).")
    ] = None,
    drop: Annotated[
        float | None, typer.Option(help="Round weights, losing at most so many points of validation accuracy.")
    ] = None,
    size: Annotated[str | None, typer.Option(help="Round weights, as finely as fits: 60kB or 0.1x.")] = None,
    data: Annotated[str | None, typer.Option(help="Images for `--drop` and `--size`; as for `compress`.")] = None,
    seed: Seed = 0,
    trust: Trust = False,
    json_out: Json = False,
) -> None:
    """Store a network as a compact `.lil` file: exactly, or rounded without training as `--drop` or `--size` says."""
    from lilliput.opening import open_model
    from lilliput.store import save
    from lilliput.terminal import show

    network = open_model(model, weights=weights, trust=trust)
    if drop is None and size is None:
        written = save(network, out, coder=coder)
        show(f"{out}: {written:,} bytes", {"file": str(out), "bytes": written}, json_out)
        return
    if data is None or coder not in (None, "context"):
        raise UsageError("`--drop` and `--size` weigh the bits of the context coder by images: give `--data`, leave `--coder`")
    found = rounded(network, data, out, size, drop, seed)
    lost = f"{100 * found['val_accuracy']:.2f} % on validation images, {100 * found['val_accuracy_before']:.2f} % before"
    show(f"{out}: {found['bytes']:,} bytes, {lost}", found, json_out)


@app.command(epilog=example_of("unpack out/digits/model.lil digits.safetensors"))
def unpack(
    file: Annotated[Path, typer.Argument(metavar="FILE.lil")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="`.safetensors`, `.onnx` or `.pt2`.")],
    input: Shape = None,
    trust: Trust = False,
    json_out: Json = False,
) -> None:
    """Turn a `.lil` file into what other tools read."""
    export(str(file), out, input=input, trust=trust, json_out=json_out)


def rounded(network: Any, data: str, out: Path, size: str | None, drop: float | None, seed: int) -> dict[str, Any]:
    from lilliput.data import open_task
    from lilliput.job import check_fit
    from lilliput.search import Budget, pack
    from lilliput.store import save

    task = open_task(data, seed=seed)
    check_fit(network, task)
    budget = Budget.read(size=size, max_drop=drop)
    limit = None
    if budget.size is not None:
        with tempfile.TemporaryDirectory() as folder:
            limit = budget.size.of(save(network, Path(folder) / "exact.lil"))
    found = pack(network, task, size=limit, drop=drop, seed=seed)
    written = save(found.model, out, recipe=found.method.text())
    return {"file": str(out), "bytes": written, "method": found.method.text(), "val_accuracy": found.after,
            "val_accuracy_before": found.before}  # fmt: skip


def effort_of(
    hours: float | None, storage: str | None, precision: str, workers: int, join: bool, families: tuple[str, ...], plan: object
) -> Effort | None:
    from lilliput.search import Effort

    if hours is None:
        if storage or join or workers > 1 or families or precision != "32":
            named = "`--storage`, `--workers`, `--join`, `--family`, `--precision`"
            raise UsageError(f"{named} are for a search: say how long with `--hours`")
        return None
    if plan:
        raise UsageError(f"`--hours {hours:g}` searches for a recipe, and one is given; leave out `--recipe` and `--bits`")
    return Effort(hours, storage, precision, workers, (sys.executable, "-m", "lilliput", *sys.argv[1:], "--join"), families)


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
