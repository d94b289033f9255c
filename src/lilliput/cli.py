"""The command line. Exit code 0: done; 1: the work failed; 2: the call is wrong. Errors are one line; `--debug` shows more."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from lilliput.errors import LilliputError, UsageError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False,
    help="Make a trained convolutional network small and fast enough for the device in your hand, and prove it.",
)  # fmt: skip

Model = Annotated[
    str,
    typer.Argument(help="A zoo name (`resnet20`, `mobilenet_v1:width=0.5`), `file.py:function`, a `.lil` or a `.pt2`."),
]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        help="`digits`, `fashion-mnist`, `cifar10`, a folder or `.zip` of train|test/CLASS/IMAGE, or `file.py:function`.",
    ),
]
Weights = Annotated[Path | None, typer.Option(help="Weights for the model: safetensors or a state-dict checkpoint.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads the runtime may use.")]
Seed = Annotated[int, typer.Option(help="Seed of the validation split, of training and of every random choice.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave corrupt images out instead of stopping.")]
Split = Annotated[str, typer.Option(help="train, val or test.")]
Shape = Annotated[str | None, typer.Option("--input", help="Input as `C,H,W`; the architecture's own by default.")]
Devices = Annotated[int, typer.Option(min=1, help="Processes that share each batch.")]
Accelerator = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]


def _example(name: str) -> str:
    return f"Example: [bold]lilliput {name}[/bold]"


@app.command(
    epilog=_example(
        "compress resnet8:channels=1 --data digits --pretrain 12 --latency 0.6x --max-drop 2 --out out/digits"
    )
)
def compress(
    model: Model,
    data: Data,
    out: Annotated[Path, typer.Option(help="The folder that receives model, report and measurements.")],
    weights: Weights = None,
    recipe: Annotated[Path | None, typer.Option(help="A recipe (YAML); without one, budgets choose.")] = None,
    size: Annotated[str | None, typer.Option(help="Budget for the `.lil`: 0.5MB, 80kB or 0.25x.")] = None,
    latency: Annotated[str | None, typer.Option(help="Budget for one inference: 5ms or 0.5x.")] = None,
    max_drop: Annotated[float | None, typer.Option(help="Points of test accuracy that may be lost.")] = None,
    epochs: Annotated[int, typer.Option(min=0, help="Epochs of recovery where a budget chooses the recipe.")] = 8,
    pretrain: Annotated[int, typer.Option(min=0, help="Train the model from scratch for so many epochs first.")] = 0,
    threads: Threads = 1,
    seed: Seed = 0,
    skip_bad: SkipBad = False,
    devices: Devices = 1,
    accelerator: Accelerator = "auto",
    json_out: Json = False,
) -> None:
    """Compress a trained network by a recipe or to a budget, measure it beside the original, and report."""
    from lilliput import job, report
    from lilliput.data import open_task
    from lilliput.opening import open_model
    from lilliput.recipe import Recipe
    from lilliput.search import Budget
    from lilliput.terminal import Training, say, show
    from lilliput.terminal import out as screen
    from lilliput.train import Machine

    budget = Budget.read(size, latency, max_drop)
    plan = Recipe.read(recipe) if recipe else None
    if plan is None and budget == Budget():
        raise UsageError("say what to aim at: `--size`, `--latency`, `--max-drop`, or `--recipe FILE`")
    _need_weights(model, weights, pretrain)
    network, task = open_model(model, weights=weights), open_task(data, seed=seed, skip_bad=skip_bad)
    with Training() as watch:
        settings = job.Settings(seed, epochs, threads, Machine(accelerator, devices), watch=watch, say=say)
        job.check_fit(network, task)
        if pretrain:
            network = job.pretrain(network, task, pretrain, settings)
        result = job.compress(network, task, plan, out=out, budget=budget, settings=settings)
    show(report.summary(result.metrics), result.metrics, json_out)
    if not json_out:
        screen.print(f"report: {out / 'report.html'}")
    if not result.met:
        raise job.missed(result.failures, out)


@app.command(epilog=_example("profile mobilenet_v2 --input 3,192,192"))
def profile(model: Model, weights: Weights = None, input: Shape = None, json_out: Json = False) -> None:
    """Count parameters, multiply-adds, bytes and peak activation memory, layer by layer."""
    from lilliput.measure import profile as measure
    from lilliput.opening import open_model
    from lilliput.terminal import show

    network = open_model(model, weights=weights)
    found = measure(network, _input(network, input))
    show(found, found.to_json(), json_out)


@app.command(epilog=_example("latency out/digits/model.onnx --input 1,8,8"))
def latency(
    model: Annotated[str, typer.Argument(metavar="FILE", help="An `.onnx`, or any MODEL, which is exported first.")],
    input: Shape = None,
    runtime: Annotated[str, typer.Option(help="onnxruntime or torch.")] = "onnxruntime",
    threads: Threads = 1,
    json_out: Json = False,
) -> None:
    """Time one inference: median and spread, threads pinned, on the runtime that will run it."""
    from lilliput.clock import latency as measure
    from lilliput.export.onnx import input_shape
    from lilliput.opening import open_model
    from lilliput.terminal import show

    if model.endswith(".onnx"):
        import torch

        shape = _shape(input) if input else input_shape(Path(model))
        found = measure(Path(model), torch.zeros(1, *shape), runtime, threads)
    else:
        network = open_model(model)
        found = measure(network, _input(network, input), runtime, threads)
    show(str(found), found.to_json(), json_out)


@app.command(epilog=_example("evaluate out/digits/model.onnx --data digits"))
def evaluate(
    model: Annotated[str, typer.Argument(metavar="FILE", help="An `.onnx`, or any MODEL.")],
    data: Data,
    weights: Weights = None,
    split: Split = "test",
    seed: Seed = 0,
    skip_bad: SkipBad = False,
    json_out: Json = False,
) -> None:
    """Measure accuracy on a split, with its 95 % confidence interval."""
    from lilliput.data import open_task
    from lilliput.terminal import show

    task = open_task(data, seed=seed, skip_bad=skip_bad)
    found = _accuracy(model, task, split, weights)
    low, high = found.interval()
    line = f"{100 * found.value:.2f} % ({found.correct} of {found.total} right; 95 % interval {100 * low:.2f} to {100 * high:.2f})"
    show(line, found.to_json(), json_out)


@app.command(epilog=_example("compare out/digits/baseline.onnx out/digits/model.onnx --data digits"))
def compare(
    files: Annotated[list[Path], typer.Argument(help="Two or more `.onnx` files.")],
    data: Data,
    threads: Threads = 1,
    seed: Seed = 0,
    json_out: Json = False,
) -> None:
    """Compare exported networks on the same images: accuracy, agreement, bytes, and latency measured in turns."""
    from lilliput.data import open_task
    from lilliput.measure import time_files
    from lilliput.terminal import show, table

    for file in files:
        if file.suffix != ".onnx":
            raise UsageError(
                f"{file}: `compare` takes `.onnx` files; `lilliput export {file} {file.with_suffix('.onnx')}` makes one"
            )
    task = open_task(data, seed=seed)
    scores = {str(f): _accuracy(str(f), task, "test", None) for f in files}
    times = time_files({str(f): f for f in files}, task.example(), threads=threads)
    first = scores[str(files[0])]
    rows, values = [], []
    for file in files:
        score, time = scores[str(file)], times[str(file)]
        agree = float((score.hits == first.hits).float().mean())
        values.append(
            {
                "file": str(file),
                **score.to_json(),
                "agreement": agree,
                "bytes": file.stat().st_size,
                "latency_ms": time.to_json(),
            }
        )
        rows.append(
            [str(file), f"{100 * score.value:.2f} %", f"{100 * agree:.2f} %", f"{file.stat().st_size:,}", str(time)]
        )
    show(table("", ["file", "accuracy", "right and wrong alike", "bytes", "latency"], rows), values, json_out)


@app.command(epilog=_example("train resnet8:channels=1 --data digits --epochs 12 --out digits.lil"))
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
    json_out: Json = False,
) -> None:
    """Train a network; a run that was stopped goes on where it stood."""
    from lilliput import job
    from lilliput.data import open_task
    from lilliput.opening import open_model
    from lilliput.store import save
    from lilliput.terminal import Training, say, show
    from lilliput.train import Fit, Machine

    network, task = open_model(model, weights=weights), open_task(data, seed=seed, skip_bad=skip_bad)
    job.check_fit(network, task)
    step = Fit(epochs=epochs, lr=lr, batch_size=batch_size)
    with Training() as watch:
        settings = job.Settings(seed, machine=Machine(accelerator, devices), watch=watch, say=say)
        trained, history = job.train(network, task, step, settings)
    written = save(trained, out)
    last = history[-1]
    line = f"{out}: {written:,} bytes, validation accuracy {100 * last['val_accuracy']:.2f} % after {epochs} epochs"
    show(line, {"file": str(out), "bytes": written, "history": history}, json_out)


@app.command(epilog=_example("export out/digits/model.lil digits.onnx"))
def export(
    model: Annotated[str, typer.Argument(metavar="FILE", help="A `.lil`, or any MODEL.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="`.onnx`, `.pt2` or `.safetensors`.")],
    weights: Weights = None,
    input: Shape = None,
    json_out: Json = False,
) -> None:
    """Write a network for a runtime, read it back, and compare the two."""
    from lilliput.export import export as write
    from lilliput.opening import open_model
    from lilliput.terminal import show

    network = open_model(model, weights=weights)
    made = write(network, _input(network, input), out)
    show(str(made), made.to_json(), json_out)


@app.command(epilog=_example("pack resnet20 resnet20.lil --weights resnet20.safetensors"))
def pack(
    model: Model,
    out: Annotated[Path, typer.Argument(metavar="OUT.lil")],
    weights: Weights = None,
    json_out: Json = False,
) -> None:
    """Store a network as a compact `.lil` file."""
    from lilliput.opening import open_model
    from lilliput.store import save
    from lilliput.terminal import show

    written = save(open_model(model, weights=weights), out)
    show(f"{out}: {written:,} bytes", {"file": str(out), "bytes": written}, json_out)


@app.command(epilog=_example("unpack out/digits/model.lil digits.safetensors"))
def unpack(
    file: Annotated[Path, typer.Argument(metavar="FILE.lil")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="`.safetensors`, `.onnx` or `.pt2`.")],
    input: Shape = None,
    json_out: Json = False,
) -> None:
    """Turn a `.lil` file into what other tools read."""
    export(str(file), out, None, input, json_out)


@app.command(epilog=_example("show out/digits/model.lil"))
def show(file: Annotated[Path, typer.Argument(metavar="FILE.lil")], json_out: Json = False) -> None:
    """Print a `.lil` file's record, and where its bytes are."""
    from lilliput import terminal
    from lilliput.store import account, read_record

    record, rows = read_record(file), account(file)
    cells = [[r.name, r.kind, f"{r.elements:,}", f"{r.bytes:,}", f"{r.bits:.2f}"] for r in rows]
    if json_out:
        terminal.show(None, {"record": record.to_json(), "tensors": [r.to_json() for r in rows]}, True)
        return
    terminal.out.print(f"architecture  {record.architecture}")
    terminal.out.print(f"recipe        {record.recipe or 'none'}", markup=False)
    for edit in record.edits:
        terminal.out.print(f"  {edit}", markup=False)
    terminal.out.print(terminal.table("", ["tensor", "stored as", "elements", "bytes", "bits each"], cells))


@app.command(name="zoo", epilog=_example("zoo resnet20"))
def zoo_command(
    name: Annotated[
        str | None, typer.Argument(help="One architecture, with options as in `mobilenet_v1:width=0.5`.")
    ] = None,
    json_out: Json = False,
) -> None:
    """List the architectures, or print one with its cost layer by layer."""
    from lilliput import terminal, zoo
    from lilliput.zoo import architectures

    if name is not None:
        profile(name, None, None, json_out)
        return
    rows = [[n, "x".join(map(str, a.input)), a.summary] for n, a in architectures.items()]
    values = [
        {"name": n, "input": list(a.input), "paper": a.paper, "options": a.options} for n, a in architectures.items()
    ]
    made = terminal.table(f"{len(zoo.names())} architectures", ["name", "input", "what it is"], rows)
    made.columns[2].justify = "left"
    terminal.show(made, values, json_out)


@app.command(epilog=_example("methods prune.channels"))
def methods(
    name: Annotated[str | None, typer.Argument(help="One method or step.")] = None, json_out: Json = False
) -> None:
    """List the methods and steps a recipe is made of, or print one with its options."""
    import dataclasses
    import inspect

    from lilliput import terminal
    from lilliput.config import configs
    from lilliput.job import STEPS

    listed = [(n, c) for n, c in configs.items() if issubclass(c, STEPS)]
    if name is None:
        rows = [[n, (inspect.getdoc(c) or "").split("\n")[0]] for n, c in listed]
        made = terminal.table("", ["name", "what it does"], rows)
        made.columns[1].justify = "left"
        terminal.show(made, [{"name": n, "summary": r[1]} for (n, _), r in zip(listed, rows, strict=True)], json_out)
        return
    chosen = configs[name]
    fields = {f.name: str(f.default) for f in dataclasses.fields(chosen)}  # type: ignore[arg-type]
    text = inspect.getdoc(chosen) or ""
    defaults = ", ".join(f"{k}={v}" for k, v in fields.items())
    if json_out:
        terminal.show(None, {"name": name, "doc": text, "defaults": fields}, True)
    else:
        terminal.out.print(f"{name}\n\n{text}\n\ndefaults: {defaults}", markup=False)


@app.command(epilog=_example("report out/digits"))
def report(folder: Annotated[Path, typer.Argument(metavar="DIR")], json_out: Json = False) -> None:
    """Write the report of a finished run again."""
    from lilliput import report as reports
    from lilliput import terminal

    path = reports.render(folder)
    terminal.show(str(path), {"report": str(path)}, json_out)


@app.command(epilog=_example("data digits"))
def data(
    name: Annotated[str | None, typer.Argument(help="A data set by name or place.")] = None,
    seed: Seed = 0,
    skip_bad: SkipBad = False,
    json_out: Json = False,
) -> None:
    """List the data sets known by name, or open one and say what is in it."""
    from lilliput import terminal
    from lilliput.data import open_task, sources

    if name is None:
        rows = [[n, s.summary] for n, s in sources.items()]
        made = terminal.table("", ["name", "what it is"], rows)
        made.columns[1].justify = "left"
        terminal.show(made, [{"name": r[0], "summary": r[1]} for r in rows], json_out)
        return
    task = open_task(name, seed=seed, skip_bad=skip_bad)
    sizes = {split: len(task.split(split)) for split in ("train", "val", "test")}
    facts = {
        "name": task.name,
        "id": task.id(),
        "input": list(task.input_shape),
        "classes": list(task.class_names),
        **sizes,
    }
    terminal.show(repr(task), facts, json_out)


def _need_weights(model: str, weights: Path | None, pretrain: int) -> None:
    from lilliput.opening import is_fresh
    from lilliput.zoo import architectures

    if weights is None and not pretrain and is_fresh(model) and model.partition(":")[0] in architectures:
        raise UsageError(
            f"{model} has no trained weights: give `--weights FILE`, or `--pretrain EPOCHS` to train it first"
        )


def _accuracy(model: str, task: Any, split: str, weights: Path | None) -> Any:
    from lilliput.evaluate import evaluate as measure
    from lilliput.job import check_fit
    from lilliput.opening import open_model

    if model.endswith(".onnx"):
        return measure(Path(model), task, split)
    network = open_model(model, weights=weights)
    check_fit(network, task)
    return measure(network, task, split)


def _shape(text: str) -> tuple[int, ...]:
    parts = text.replace("x", ",").split(",")
    if len(parts) != 3 or not all(p.strip().isdigit() and int(p) > 0 for p in parts):
        raise UsageError(f"`--input {text}` is not channels, height and width, such as 3,224,224")
    return tuple(int(p) for p in parts)


def _input(network: Any, text: str | None) -> Any:
    """One input of the asked or the architecture's own shape."""
    import torch

    shape = _shape(text) if text else vars(network).get("input_shape")
    if shape is None:
        raise UsageError("say what the network takes: `--input C,H,W`")
    return torch.zeros(1, *shape)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [w for w in words if w != "--debug"]
    try:
        code = app(words, standalone_mode=False, prog_name="lilliput")
    except BaseException as error:  # noqa: BLE001 - the last place where an error can become one line
        if debug and not isinstance(error, SystemExit):
            raise
        code = _explain(error)
    sys.exit(code if isinstance(code, int) else 0)


def _explain(error: BaseException) -> int:
    """Print an error as one line and return the exit code."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, KeyboardInterrupt):
        return _complain("stopped. What was finished is stored: the same command goes on from there.", 1)
    if isinstance(error, LilliputError):
        return _complain(str(error), error.exit_code)
    if isinstance(error, typer.exceptions.TyperException):
        message = error.format_message() if isinstance(error, typer.BadParameter.__mro__[1]) else str(error)
        return _complain(f"{message} See `lilliput --help`.", 2)
    if isinstance(error, OSError):
        return _complain(f"{error.filename or 'system'}: {error.strerror or error}", 1)
    return _complain(
        f"internal error: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''} (`--debug` shows where)",
        1,
    )


def _complain(line: str, code: int) -> int:
    sys.stderr.write(f"lilliput: {' '.join(line.split())}\n")
    return code


if __name__ == "__main__":
    main()
