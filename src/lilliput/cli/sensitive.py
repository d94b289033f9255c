"""The command that asks what every layer bears."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lilliput.cli.options import Data, Json, Model, Seed, SkipBad, Trust, Weights, app, example_of


@app.command(epilog=example_of("sensitivity resnet20 --data cifar10 --weights resnet20.safetensors --method bits"))
def sensitivity(
    model: Model,
    data: Data,
    weights: Weights = None,
    method: Annotated[list[str] | None, typer.Option(help="channels, weights, bits or ranks; repeatable.")] = None,
    images: Annotated[int, typer.Option(min=1, help="Validation images a measurement, rounded to batches of 250.")] = 500,
    report: Annotated[Path | None, typer.Option(help="Show it in the report of this finished run of the network, too.")] = None,
    seed: Seed = 0,
    skip_bad: SkipBad = False,
    trust: Trust = False,
    json_out: Json = False,
) -> None:
    """Compress one layer at a time, without training, and show what the network still knows."""
    from lilliput import job, terminal
    from lilliput import report as reports
    from lilliput.data import open_task
    from lilliput.data.progress import watched
    from lilliput.measure.accuracy import accuracy
    from lilliput.opening import open_model
    from lilliput.recipe import Bench, look
    from lilliput.search.sensitivity import at_most
    from lilliput.search.sensitivity import sensitivity as measure

    network = open_model(model, weights=weights, trust=trust, seed=seed).eval()
    task = open_task(data, seed=seed, skip_bad=skip_bad)
    job.check_fit(network, task)
    seen = look(Bench(task, Path(), seed))
    methods = method or ("channels", "weights", "bits")
    total = at_most(network, seen, methods)
    points = list(watched(measure(network, task, seen, methods, images), "compressing one layer at a time", total))
    whole = accuracy(network, task.batches("val", 250), task.metric).value
    found = {"val_accuracy": whole, "sensitivity": [p.to_json() for p in points]}
    if report is not None:
        reports.add(report, {"sensitivity": found["sensitivity"]})
    rows = [[p.layer, p.method, f"{p.amount:.0%}", *_points(p.accuracy, whole)] for p in points]
    title = f"{model} on {data}: {100 * whole:.2f} % on validation"
    made = terminal.table(title, ["layer", "method", "removed", "validation", "points"], rows)
    terminal.show(made, found, json_out)


def _points(found: float, whole: float) -> list[str]:
    return [f"{100 * found:.1f} %", f"{100 * (found - whole):+.1f}"]
