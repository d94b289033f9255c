"""Every family alone: one recipe each, for a file as small as the search's, trained as long as the whole search took.

    python bench/alone.py channels|factors|blocks|weights [--hours 1.5]    ResNet-56 on CIFAR-10, in floats
    python bench/alone.py table                                            writes bench/results/alone.json

The amount is the gentlest whose file is as small as that of the network that `bench/search.py resnet56` chose, or the
strongest there is where none is. The network then learns from the uncompressed one for as many epochs as the hours hold, 60 at
most, as the last candidate of a search does. What comes out is compared with every point of the search's front. Runs lie in
out/alone, can be stopped and go on; they need $LILLIPUT_WEIGHTS/resnet56-cifar10.safetensors, and CIFAR-10 where
`lilliput data` finds it. Let nothing else run while a part begins, which times an epoch, and while it ends.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search import MAIN, weights
from torch import nn

import lilliput as lp
from lilliput.config import Config
from lilliput.data import open_task
from lilliput.distill import Hinton
from lilliput.errors import LilliputError
from lilliput.factor import Factorize
from lilliput.measure.accuracy import accuracy
from lilliput.opening import open_model
from lilliput.prune import Channels, Layers, Weights, gradual
from lilliput.recipe import Bench, run
from lilliput.store import file_bytes

ROOT = Path(__file__).parent.parent
KEPT, RESULT, SEARCH = ROOT / "out/alone", ROOT / "bench/results/alone.json", ROOT / "bench/results/search.json"
LEAST, LOOKS, EPOCHS = 0.005, 8, 60  # the least amount that is looked at, amounts that are, epochs at most
FIT = lp.Fit(distill=Hinton(), precision="bf16-mixed", cache_teacher=True)


@dataclass(frozen=True)
class Alone:
    """A family: its shape for the share that stays, and its training."""

    shape: Callable[[float], Config]
    trained: Callable[[Config, lp.Fit], Sequence[Config]] = lambda shape, fit: (shape, lp.BatchNorm(), fit)


ALONE = {
    "channels": Alone(lambda a: Channels(params=a, criterion="group_norm", allocate="global")),
    "factors": Alone(
        lambda a: Factorize(method=("svd", "spatial", "tucker2"), params=a, worth="loss", whiten=True, images=256)
    ),
    "blocks": Alone(lambda a: Layers(keep=a, criterion="kl", images=64)),
    "weights": Alone(
        lambda a: Weights(rate=round(1 - a, 4), allocate="global"),
        lambda shape, fit: gradual(shape, fit, until=0.6),
    ),
}


def gentlest(family: Alone, model: nn.Module, on: Bench, target: int) -> tuple[Config, int]:
    """The shape that keeps most with a file of at most `target` bytes, and those bytes; else the smallest that there is."""
    low, high, sizes = LEAST, 1.0, dict[float, int]()
    amount = low
    for _ in range(LOOKS):
        try:
            shaped = run(model, lp.Recipe([family.shape(amount)]), on).model
        except LilliputError as error:  # no network is that small
            print(f"{amount:.4f}: {error}", flush=True)
            low, found = amount, 0
        else:
            found = sizes[amount] = file_bytes(shaped)
            print(f"{amount:.4f}: {found:,} bytes of {target:,}", flush=True)
            low, high = (amount, high) if found <= target else (low, amount)
        if high - low < 1e-4 or (found <= target and found > 0.98 * target):
            break
        amount = (low * high) ** 0.5
    fitting = [a for a, size in sizes.items() if size <= target]
    best = max(fitting) if fitting else min(sizes, key=lambda a: (sizes[a], a))
    return family.shape(best), sizes[best]


def epoch_seconds(family: Alone, shape: Config, model: nn.Module, on: Bench) -> float:
    """How long an epoch takes once the teacher's answers are stored: one is trained, without a teacher, and dropped."""
    with tempfile.TemporaryDirectory() as folder:
        steps = family.trained(shape, lp.Fit(epochs=1, precision=FIT.precision))
        begun = time.perf_counter()
        run(model, lp.Recipe(tuple(steps)), Bench(on.task, Path(folder), 0))
    return time.perf_counter() - begun


def asked(name: str, hours: float) -> dict[str, Any]:
    """What is to be run, decided once."""
    kept = KEPT / name / "asked.json"
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    target = json.loads(SEARCH.read_text())["runs"][MAIN]["bytes"]
    on = Bench(open_task("cifar10"), KEPT / "store", 0)
    model = open_model("resnet56", weights=weights()[1]).eval()
    shape, size = gentlest(ALONE[name], model, on, target)
    epoch = epoch_seconds(ALONE[name], shape, model, on)
    fit = lp.Fit(**{**vars(FIT), "epochs": max(1, min(EPOCHS, int(3600 * hours / epoch)))})
    recipe = lp.Recipe(tuple(ALONE[name].trained(shape, fit)))
    found = {"family": name, "hours": hours, "target": target, "planned_bytes": size, "epoch_seconds": epoch,
             "epochs": fit.epochs, "recipe": recipe.to_yaml(), "seconds": 0.0}  # fmt: skip
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(found, indent=2) + "\n")
    return found


def train(name: str, hours: float) -> None:
    """One recipe, by the command line."""
    folder, found = KEPT / name, asked(name, hours)
    recipe = folder / "asked.yaml"
    recipe.write_text(found["recipe"])
    print(found["recipe"], flush=True)
    begun = time.perf_counter()
    command = ["compress", "resnet56", *weights(), "--data", "cifar10", "--recipe", str(recipe), "--out", str(folder)]
    done = subprocess.run([sys.executable, "-m", "lilliput", *command], check=False)
    found["seconds"] = round(found["seconds"] + time.perf_counter() - begun, 1)
    if done.returncode == 0:
        on = open_task("cifar10")
        found["val"] = accuracy(lp.load(folder / "model.lil").eval(), on.batches("val", 250), on.metric).value
    (folder / "asked.json").write_text(json.dumps(found, indent=2) + "\n")
    print(f"{name}: exit {done.returncode}, {folder / 'report.html'}")


def beats(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether `one` costs no more in any respect and knows as much, and is better in something."""
    pairs = [(one[key], other[key]) for key in ("bytes", "ratio")] + [(other["accuracy"], one["accuracy"])]
    return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)


def table() -> None:
    """Every recipe beside the search's front, beside rows of runs whose folders are gone."""
    rows: dict[str, Any] = json.loads(RESULT.read_text())["runs"] if RESULT.exists() else {}
    front = [p for p in json.loads(SEARCH.read_text())["runs"][MAIN]["front"] if not p["dominated"]]
    for path in sorted(KEPT.glob("*/metrics.json")):
        metrics, found = json.loads(path.read_text()), json.loads((path.parent / "asked.json").read_text())
        before, after = metrics["baseline"], metrics["compressed"]
        rows[found["family"]] = {
            "bytes": after["file_bytes"], "ratio": after["latency_ms"]["median"] / before["latency_ms"]["median"],
            "accuracy": found["val"], "test": after["accuracy"], "test_before": before["accuracy"], **found,
            "hardware": metrics["device"], "versions": metrics["versions"],
        }  # fmt: skip
    for name, row in rows.items():
        row["beats"], row["of"] = sum(beats(row, point) for point in front), len(front)
        row["beaten"] = any(beats(point, row) for point in front)
        print(f"{name:9} {row['bytes']:9,} bytes  {row['ratio']:.2f}x  validation {100 * row['accuracy']:.2f} %, test "
              f"{100 * row['test']:.2f} %, {row['epochs']} epochs; beats {row['beats']} of {row['of']}"
              f"{', beaten' if row['beaten'] else ''}")  # fmt: skip
    RESULT.write_text(json.dumps({"runs": rows}, indent=2) + "\n")
    print(RESULT.relative_to(ROOT))


def main() -> None:
    """One family, or the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=(*ALONE, "table"), nargs="?", default="table")
    parser.add_argument("--hours", type=float, default=1.5)
    args = parser.parse_args()
    if args.part == "table":
        table()
    else:
        train(args.part, args.hours)


if __name__ == "__main__":
    main()
