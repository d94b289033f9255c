"""Every factorization at equal multiply-adds: accuracy after a short distillation, and measured latency.

    python bench/factor.py train [--net resnet20] [--macs 0.5 0.35] [--methods svd ...] [--seeds 0 1 2] [--epochs 20] [--runs N]
    python bench/factor.py table [--net resnet20]    times what was trained; writes bench/results/factor_<net>.json

Starts from $LILLIPUT_WEIGHTS/<net>-cifar10.safetensors, with CIFAR-10 where `lilliput data` finds it. What is trained lies in
--kept (out/factor) and is not trained again; a run that was stopped goes on at its last epoch. Several processes can share
the list: each takes what no other one has claimed, and stops after --runs of its own; the table wants the machine for itself.
Each method is the recipe [factorize to the share of multiply-adds, batch norm statistics, distil from the uncompressed
network, or from a larger one where the row says so]. Test accuracy of the last epoch; nothing is chosen on it. `--plain` takes
weights from the decomposition alone, without looking at images.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from sparse import task
from stored import named, once
from torch import nn

import lilliput as lp
from lilliput.distill import Hinton
from lilliput.export import export
from lilliput.factor import Factorize, forms, stages
from lilliput.measure import hardware, time_files, versions
from lilliput.measure.accuracy import accuracy
from lilliput.recipe import Bench, Recipe, Student, run

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "out/factor"
WEIGHTS = Path(os.environ.get("LILLIPUT_WEIGHTS", "."))


@dataclass(frozen=True)
class Way:
    """How a row of the table comes about: options of `Factorize`, in how many parts, and who teaches (itself, uncompressed)."""

    options: dict[str, Any]
    parts: int = 1
    teacher: str = ""


BEST = {"method": ("svd", "spatial", "tucker2")}
MIXES = {
    "best of svd, spatial, tucker2": Way(BEST),
    "best of three, shared by the loss": Way({**BEST, "worth": "loss"}),
    "spatial, shared by the loss": Way({"method": "spatial", "worth": "loss"}),
    "best of three, in two stages": Way(BEST, parts=2),
    "best of three, taught by resnet56": Way(BEST, teacher="resnet56"),
    "group, 4 with shuffle": Way({"method": "group", "options": {"groups": 4, "shuffle": True}}),
    "separable, relu between": Way({"method": "separable", "options": {"relu": True}}),
    "svd, shared by the largest error": Way({"method": "svd", "allocate": "max"}),
    "svd, plain": Way({"method": "svd", "whiten": False, "reconstruct": "none"}),
}
METHODS = {**{name: Way({"method": name}) for name in sorted(forms)}, **MIXES}


def method(name: str, macs: float, plain: bool) -> Factorize:
    """The method as it runs in the table: whitened where that means something, refitted behind the ReLU."""
    options = dict(METHODS[name].options)
    names = (options["method"],) if isinstance(options["method"], str) else options["method"]
    options.setdefault("whiten", not plain and all(forms[n].whitens for n in names))
    options.setdefault("reconstruct", "none" if plain else "relu")
    return Factorize(macs=macs, images=1024, **options)


def recipe(key: dict[str, Any], kept: Path) -> Recipe:
    """Factorize, statistics, distil; or half of the way, and half of the epochs, twice."""
    way = METHODS[key["method"]]
    fit = lp.Fit(epochs=key["epochs"] // way.parts, lr=key["lr"], precision=key["precision"], distill=Hinton())
    whole = method(key["method"], key["share"], key["how"] == "plain")
    student = (Student(os.path.relpath(stored(key["net"], kept))),) if way.teacher else ()
    return Recipe((*student, *stages(whole, way.parts, [lp.BatchNorm(), fit])))


def stored(net: str, kept: Path) -> Path:
    """The trained network as a file, for recipes that start from its teacher."""
    path = kept / f"{net}.lil"
    if not path.exists():
        kept.mkdir(parents=True, exist_ok=True)
        lp.save(start(net), path)
    return path


def start(net: str) -> nn.Module:
    """The trained network."""
    model = lp.zoo.create(net)
    model.load_state_dict(load_file(WEIGHTS / f"{net}-cifar10.safetensors"))
    return model.eval()


def runs(arguments: argparse.Namespace, images: int) -> Iterator[dict[str, Any]]:
    """Every method, share and seed that is asked for, seed by seed, so that what is there early is comparable."""
    how = "plain" if arguments.plain else "data"
    for seed in arguments.seeds:
        for macs in arguments.macs:
            for name in arguments.methods:
                yield {"net": arguments.net, "method": name, "share": macs, "how": how, "seed": seed,
                       "epochs": arguments.epochs, "images": images, "lr": arguments.lr,
                       "precision": arguments.precision}  # fmt: skip


def train(arguments: argparse.Namespace) -> None:
    """What is missing and what no other process is at."""
    model, on = start(arguments.net), task("cifar10", arguments.images)
    whole: list[float] = []  # the accuracy to compare with, read when the first run needs it
    left = arguments.runs or -1
    for key in runs(arguments, len(on.train)):
        if (arguments.kept / "runs" / f"{named(key)}.json").exists():
            continue
        if left == 0:
            break

        def work(key: dict[str, Any] = key) -> dict[str, Any]:
            whole.extend([] if whole else [accuracy(model, on.batches("test", 500)).value])
            return one(model, key, on, whole[0], arguments)

        if once(arguments.kept / "runs", key, work) is not None:
            left -= 1


def one(model: nn.Module, key: dict[str, Any], on: lp.Task, whole: float, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train one network, export it, and say what it lost and costs."""
    steps, teacher = recipe(key, arguments.kept), METHODS[key["method"]].teacher
    small = run(start(teacher) if teacher else model, steps, Bench(on, arguments.kept / "store", seed=key["seed"])).model.eval()
    found = accuracy(small, on.batches("test", 500)).value
    before, after = lp.profile(model, on.example()), lp.profile(small, on.example())
    file = arguments.kept / "files" / f"{named(key)}.onnx"
    file.parent.mkdir(parents=True, exist_ok=True)
    export(small, on.example()[:1], file)
    return {"accuracy": found, "lost": 100 * (whole - found), "macs": after.macs / before.macs,
            "effective_macs": sum(row.effective_macs for row in after.layers) / before.macs,
            "params": after.params / before.params, "recipe": steps.text(), "file": file.name}  # fmt: skip


def table(arguments: argparse.Namespace) -> None:
    """All that was trained in one table, timed against the uncompressed network in one run.

    Rows of an earlier table whose networks are gone stay as they were measured then, in turns with the same network.
    """
    rows = [json.loads(path.read_text()) for path in sorted((arguments.kept / "runs").glob("*.json"))]
    same = ("net", "method", "share", "how", "epochs", "images", "lr", "precision")
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in (row for row in rows if row["net"] == arguments.net):
        groups.setdefault(tuple(row[name] for name in same), []).append(row)
    if not groups:
        raise SystemExit(f"nothing of {arguments.net} is trained in {arguments.kept}; run `bench/factor.py train` first")
    example = torch.zeros(1, 3, 32, 32)
    files = {mine[0]["file"]: arguments.kept / "files" / mine[0]["file"] for mine in groups.values()}
    whole = export(start(arguments.net), example, arguments.kept / f"{arguments.net}.onnx").path
    times = time_files({"whole": whole, **files}, example)
    found = [summary({name: mine[0][name] for name in same}, mine, times) for mine in groups.values()]
    earlier = arguments.result / f"factor_{arguments.net}.json"
    if earlier.exists():
        known = [row for row in json.loads(earlier.read_text())["rows"] if tuple(row[name] for name in same) not in groups]
        found += known
    result = {"net": arguments.net, "whole_ms": times["whole"].to_json(), "rows": found,
              "hardware": hardware(), "versions": versions()}  # fmt: skip
    arguments.result.mkdir(parents=True, exist_ok=True)
    path = arguments.result / f"factor_{arguments.net}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    for row in sorted(found, key=lambda r: (-r["share"], r["lost"])):
        spread = "" if row["spread"] is None else f" ± {row['spread']:.2f}"
        print(
            f"{row['share']:.2f}  {row['method']:34} {row['lost']:+6.2f}{spread} points lost   "
            f"{row['effective_macs']:.3f} macs   {row['params']:.3f} parameters   {row['latency']:.2f}x latency"
        )
    print(path)


def summary(key: dict[str, Any], mine: list[dict[str, Any]], times: dict[str, Any]) -> dict[str, Any]:
    """One row: the mean over seeds of what is lost, and the times of the first seed's network."""
    ms, whole = times[mine[0]["file"]], times["whole"]
    lost = [row["lost"] for row in mine]
    costs = {name: mine[0][name] for name in ("macs", "effective_macs", "params", "recipe")}
    return {**key, **costs, "lost": statistics.mean(lost), "spread": statistics.stdev(lost) if len(lost) > 1 else None,
            "seeds": [row["seed"] for row in mine], "latency": ms.median_ms / whole.median_ms,
            "latency_ms": ms.to_json()}  # fmt: skip


def main() -> None:
    """Train what is missing, or tabulate what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "table"))
    parser.add_argument("--net", default="resnet20")
    parser.add_argument("--macs", type=float, nargs="+", default=[0.5, 0.35])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--images", type=int, default=0, help="a stratified part of the training images; 0: all")
    parser.add_argument("--precision", default="bf16-mixed", help="of training: bf16-mixed or 32")
    parser.add_argument("--runs", type=int, default=0, help="stop after so many runs of this process; 0: when nothing is left")
    parser.add_argument("--kept", type=Path, default=KEPT)
    parser.add_argument("--result", type=Path, default=ROOT / "bench/results")
    parser.add_argument("--plain", action="store_true")
    arguments = parser.parse_args()
    {"train": train, "table": table}[arguments.what](arguments)


if __name__ == "__main__":
    main()
