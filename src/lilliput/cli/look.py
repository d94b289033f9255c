"""Commands that look: costs, times, accuracies, files, and what there is to choose from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lilliput.cli.options import (
    Data,
    Json,
    Model,
    Seed,
    Shape,
    SkipBad,
    Split,
    Threads,
    Trust,
    Weights,
    app,
    example_of,
    input_of,
    shape_of,
)
from lilliput.errors import UsageError


@app.command(epilog=example_of("profile mobilenet_v2 --input 3,192,192"))
def profile(
    model: Model,
    weights: Weights = None,
    input: Shape = None,
    energy: Annotated[bool, typer.Option("--energy", help="Also the energy of one inference: metered, or estimated.")] = False,
    trust: Trust = False,
    json_out: Json = False,
) -> None:
    """Count parameters, multiply-adds, bytes and peak activation memory, layer by layer."""
    from lilliput.measure import profile as measure
    from lilliput.opening import open_model
    from lilliput.terminal import show

    network = open_model(model, weights=weights, trust=trust)
    example = input_of(network, input)
    found = measure(network, example)
    joules = _energy(network, example, found) if energy else None
    show(found, {**found.to_json(), **({"energy": joules.to_json()} if joules else {})}, json_out)
    if joules and not json_out:
        show(f"Energy of one inference: {joules}.", None, False)


def _energy(network: Any, example: Any, found: Any) -> Any:
    """By the machine's meter, running the exported network on ONNX Runtime; by operations where there is no meter."""
    import tempfile

    from lilliput.export import export
    from lilliput.measure.energy import energy, meter
    from lilliput.measure.latency import file_call

    if meter() is None:
        return energy(found)
    with tempfile.TemporaryDirectory() as folder:
        return energy(found, file_call(export(network, example, Path(folder) / "it.onnx").path, example))


@app.command(epilog=example_of("latency out/digits/model.onnx --input 1,8,8"))
def latency(
    model: Annotated[str, typer.Argument(metavar="FILE", help="An `.onnx`, `.pte`, `.tflite`, or any MODEL, exported first.")],
    input: Shape = None,
    runtime: Annotated[str, typer.Option(help="onnxruntime, executorch, litert or torch.")] = "onnxruntime",
    threads: Threads = 1,
    layers: Annotated[bool, typer.Option("--layers", help="Time every layer instead of the whole.")] = False,
    kernels: Annotated[bool, typer.Option("--kernels", help="Which kernel runs every layer, with its time.")] = False,
    trust: Trust = False,
    json_out: Json = False,
) -> None:
    """Time one inference: median and spread, threads pinned, on the runtime that will run it."""
    from lilliput.clock import latency as measure
    from lilliput.export.files import readers
    from lilliput.opening import open_model
    from lilliput.terminal import show

    timed: Any
    if (reads := readers.get(Path(model).suffix)) is not None:
        import torch

        shape = shape_of(input) if input else reads.input_shape(Path(model))
        timed, example = Path(model), torch.zeros(1, *shape)
    else:
        timed = open_model(model, trust=trust)
        example = input_of(timed, input)
    if kernels:
        _show_kernels(timed, example, runtime, threads, json_out)
        return
    if layers:
        _show_layers(timed, example, runtime, threads, json_out)
        return
    found = measure(timed, example, runtime, threads)
    show(str(found), found.to_json(), json_out)


def _show_kernels(timed: Any, example: Any, runtime: str, threads: int, json_out: bool) -> None:
    from lilliput import terminal
    from lilliput.clock import kernels
    from lilliput.report.amounts import plural

    found, rest = kernels(timed, example, runtime, threads)
    cells = [[k.name or "(the model itself)", k.kind, k.runner, k.kernel, f"{k.median_ms:.4f}"] for k in found]
    made = terminal.table(
        "", ["layer", "kind", "kernel of", "which", "median ms"], [*cells, ["everything else", "", "", "", f"{rest:.4f}"]]
    )
    for column in made.columns[1:4]:
        column.justify = "left"
    terminal.show(made, {"layers": [k.to_json() for k in found], "rest_ms": rest}, json_out)
    if not json_out:
        terminal.show(
            f"{runtime}, {plural(threads, 'thread')}. Looking costs time: this adds up to more than the whole.", None, False
        )


def _show_layers(timed: Any, example: Any, runtime: str, threads: int, json_out: bool) -> None:
    from lilliput import terminal
    from lilliput.clock import layers
    from lilliput.report.amounts import plural

    found = layers(timed, example, runtime, threads)
    total = sum(t.median_ms for t in found) or 1.0
    rows = [
        [
            t.name or "(the model itself)",
            t.kind,
            f"{t.median_ms:.4f}",
            f"{t.p10:.4f}",
            f"{t.p90:.4f}",
            f"{t.median_ms / total:.1%}",
        ]
        for t in found
    ]
    made = terminal.table("", ["layer", "kind", "median ms", "p10", "p90", "share"], rows)
    made.columns[1].justify = "left"
    terminal.show(made, [t.to_json() for t in found], json_out)
    if not json_out:
        runs = f"{found[0].runs} runs" if found else "no layer ran"
        line = f"{runtime}, {plural(threads, 'thread')}, {runs}. Looking costs time: the layers add up to more than the whole."
        terminal.show(line, None, False)


@app.command(epilog=example_of("evaluate out/digits/model.onnx --data digits"))
def evaluate(
    model: Annotated[str, typer.Argument(metavar="FILE", help="An `.onnx`, `.pte`, `.tflite`, or any MODEL.")],
    data: Data,
    weights: Weights = None,
    split: Split = "test",
    seed: Seed = 0,
    skip_bad: SkipBad = False,
    trust: Trust = False,
    json_out: Json = False,
) -> None:
    """Measure accuracy on a split, with its 95 % confidence interval."""
    from lilliput.data import open_task
    from lilliput.terminal import show

    task = open_task(data, seed=seed, skip_bad=skip_bad)
    found = accuracy_of(model, task, split, weights, trust)
    low, high = found.interval()
    line = (
        f"{100 * found.value:.2f} % ({found.correct} of {found.total} right; 95 % interval {100 * low:.2f} to {100 * high:.2f})"
    )
    show(line, found.to_json(), json_out)


@app.command(epilog=example_of("compare out/digits/baseline.onnx out/digits/model.lil --data digits"))
def compare(
    files: Annotated[list[Path], typer.Argument(help="Two or more `.lil`, `.onnx`, `.pte` or `.tflite` files.")],
    data: Data,
    threads: Threads = 1,
    seed: Seed = 0,
    trust: Trust = False,
    json_out: Json = False,
) -> None:
    """Compare networks on the same images: accuracy and whether it differs by chance, agreement, bytes, latency in turns."""
    from lilliput.comparison import compare as side_by_side
    from lilliput.data import open_task
    from lilliput.terminal import show, table

    found = side_by_side(files, open_task(data, seed=seed), threads=threads, trust=trust)
    rows = []
    for one in found:
        low, high = one.accuracy.interval()
        rows.append(
            [
                str(one.file), f"{100 * one.accuracy.value:.2f} % ({100 * low:.1f} to {100 * high:.1f})",
                f"{100 * one.agreement:.2f} %", f"{one.lost}, {one.gained}", f"{one.chance:.2g}", f"{one.bytes:,}",
                f"{one.latency.median_ms:.3g} ms ({one.ratio.median:.2f}x)",
            ]
        )  # fmt: skip
    made = table("", ["file", "accuracy", "alike", "lost, gained", "p", "bytes", "latency"], rows)
    made.columns[0].overflow = "fold"  # a name that is cut short names nothing
    show(made, [one.to_json() for one in found], json_out)
    if not json_out:
        for one in found[1:]:
            show(f"{one.file}: {_told(one)}", None, False)
        how = f"{found[0].latency.runtime}, {threads} thread{'s' * (threads > 1)}, {found[0].latency.runs} runs in turns"
        told = "Accuracy with its 95 % interval; answers alike, lost and gained beside the first; p of McNemar's test"
        show(f"{told}. {how}.", None, False)


def _told(one: Any) -> str:
    """What is known of the accuracy of a network beside the first."""
    from lilliput.measure.chance import LEVEL

    value, low, high = (100 * part for part in one.difference)
    fate = "which could be chance" if one.chance > LEVEL else "more than chance makes"
    return f"{value:+.2f} points beside the first (95 %: {low:+.2f} to {high:+.2f}), {fate}"


@app.command(epilog=example_of("show out/digits/model.lil"))
def show(file: Annotated[Path, typer.Argument(metavar="FILE.lil")], json_out: Json = False) -> None:
    """Print a `.lil` file's record, and where its bytes are."""
    from lilliput import terminal
    from lilliput.store import account, read_record

    record, rows = read_record(file), account(file)
    cells = [[r.name, r.kind, f"{r.elements:,}", f"{r.bytes:,}", f"{r.bits:.2f}", _overhead(r)] for r in rows]
    if json_out:
        terminal.show(None, {"record": record.to_json(), "tensors": [r.to_json() for r in rows]}, True)
        return
    terminal.out.print(f"architecture  {record.architecture}")
    terminal.out.print(f"recipe        {record.recipe or 'none'}", markup=False)
    for edit in record.edits:
        terminal.out.print(f"  {edit}", markup=False)
    terminal.out.print(terminal.table("", ["tensor", "stored as", "elements", "bytes", "bits each", "over entropy"], cells))


def _overhead(row: Any) -> str:
    """How far a tensor's bytes are from the entropy of its single numbers; below it where neighbours tell something."""
    return f"{100 * row.overhead:+.1f} %" if row.entropy else "–"


@app.command(name="zoo", epilog=example_of("zoo resnet20"))
def zoo_command(
    name: Annotated[str | None, typer.Argument(help="One architecture, with options as in `mobilenet_v1:width=0.5`.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw accuracy, multiply-adds and parameters of published networks: `.html` or `.png`.")
    ] = None,
    runs: Annotated[
        list[Path] | None, typer.Option("--with", help="A run's `metrics.json`, whose networks join the plot; repeatable.")
    ] = None,
    json_out: Json = False,
) -> None:
    """List the architectures, print one as the papers do, stage by stage with its cost, or plot what is published."""
    from lilliput import terminal, zoo
    from lilliput.zoo import architectures

    if runs and plot is None:
        raise UsageError(f"`--with {runs[0]}` joins a plot; name one with `--plot FILE.html`")
    if plot is not None:
        _plot(name, plot, runs or [], json_out)
        return
    if name is not None:
        found = _stages(name)
        terminal.show(found, found.to_json(), json_out)
        return
    rows = [[n, "x".join(map(str, a.input)), a.summary] for n, a in architectures.items()]
    values = [{"name": n, "input": list(a.input), "paper": a.paper, "options": a.options} for n, a in architectures.items()]
    made = terminal.table(f"{len(zoo.names())} architectures", ["name", "input", "what it is"], rows)
    made.columns[2].justify = "left"
    terminal.show(made, values, json_out)


def _stages(name: str) -> Any:
    """Without a number in any tensor: counting needs shapes alone."""
    import torch

    from lilliput import zoo
    from lilliput.measure import stages

    with torch.device("meta"):
        network = zoo.create(name)
        return stages(network, torch.zeros(1, *network.input_shape))  # type: ignore[misc]


def _plot(name: str | None, plot: Path, runs: list[Path], json_out: bool) -> None:
    from lilliput import report as reports
    from lilliput import terminal

    if name is not None:
        raise UsageError(f"`{name}` beside `--plot {plot}`: the plot shows every published network; leave the name out")
    path = reports.draw(plot, runs)
    terminal.show(str(path), {"plot": str(path)}, json_out)


@app.command(epilog=example_of("methods prune.channels"))
def methods(name: Annotated[str | None, typer.Argument(help="One method or step.")] = None, json_out: Json = False) -> None:
    """List the methods and steps a recipe is made of, or print one with its options."""
    import dataclasses
    import inspect

    from lilliput import terminal
    from lilliput.config import configs
    from lilliput.recipe import STEPS

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


@app.command(epilog=example_of("report out/digits"))
def report(folder: Annotated[Path, typer.Argument(metavar="DIR")], json_out: Json = False) -> None:
    """Write the report of a finished run again."""
    from lilliput import report as reports
    from lilliput import terminal

    path = reports.render(folder)
    terminal.show(str(path), {"report": str(path)}, json_out)


@app.command(epilog=example_of("data digits"))
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


def accuracy_of(model: str, task: Any, split: str, weights: Path | None, trust: bool) -> Any:
    from lilliput.evaluate import evaluate as measure
    from lilliput.export.files import readers
    from lilliput.job import check_fit
    from lilliput.opening import open_model

    if Path(model).suffix in readers:
        return measure(Path(model), task, split)
    network = open_model(model, weights=weights, trust=trust)
    check_fit(network, task)
    return measure(network, task, split)
