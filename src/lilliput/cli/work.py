"""Commands that make something: train, export, pack, unpack."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

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
    Trust,
    Weights,
    app,
    example_of,
    input_of,
)
from lilliput.errors import UsageError


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
    out: Annotated[Path, typer.Argument(metavar="OUT", help="`.onnx`, `.pte`, `.tflite`, `.pt2` or `.safetensors`.")],
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
    int8: Annotated[
        bool, typer.Option("--int8", help="With either: integers for kernels follow, so it is fast as well.")
    ] = False,
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
        if int8:
            raise UsageError(
                "`--int8` follows rounding: give `--drop` or `--size` too, or a recipe of `quant.quantize` to compress"
            )
        written = save(network, out, coder=coder)
        show(f"{out}: {written:,} bytes", {"file": str(out), "bytes": written}, json_out)
        return
    if data is None or coder not in (None, "context"):
        raise UsageError("`--drop` and `--size` weigh the bits of the context coder by images: give `--data`, leave `--coder`")
    found = rounded(network, data, out, size, drop, int8, seed)
    lost = f"{100 * found['val_accuracy']:.2f} % on validation images, {100 * found['val_accuracy_before']:.2f} % before"
    show(f"{out}: {found['bytes']:,} bytes, {lost}", found, json_out)


@app.command(epilog=example_of("unpack out/digits/model.lil digits.safetensors"))
def unpack(
    file: Annotated[Path, typer.Argument(metavar="FILE.lil")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="`.safetensors`, `.onnx`, `.pte`, `.tflite` or `.pt2`.")],
    input: Shape = None,
    trust: Trust = False,
    json_out: Json = False,
) -> None:
    """Turn a `.lil` file into what other tools read."""
    export(str(file), out, input=input, trust=trust, json_out=json_out)


def rounded(network: Any, data: str, out: Path, size: str | None, drop: float | None, int8: bool, seed: int) -> dict[str, Any]:
    from lilliput.data import open_task
    from lilliput.job import check_fit
    from lilliput.search import Budget, pack
    from lilliput.search.candidates import RATE, RATE_INT8
    from lilliput.store import save
    from lilliput.terminal import say

    task = open_task(data, seed=seed)
    check_fit(network, task)
    budget = Budget.read(size=size, max_drop=drop)
    limit = None
    if budget.size is not None:
        with tempfile.TemporaryDirectory() as folder:
            limit = budget.size.of(save(network, Path(folder) / "exact.lil"))
    then = (RATE_INT8 if int8 else RATE).then
    found = pack(network, task, size=limit, drop=drop, seed=seed, then=then, say=say)
    written = save(found.model, out)
    return {"file": str(out), "bytes": written, "recipe": found.recipe.text(), "val_accuracy": found.after,
            "val_accuracy_before": found.before}  # fmt: skip
