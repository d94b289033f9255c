"""Every factorization at equal multiply-adds: accuracy after a short distillation, and measured latency.

    python bench/factor.py train [--net resnet20] [--macs 0.5 0.35] [--methods svd ...] [--seeds 0 1 2] [--epochs 20]
    python bench/factor.py table [the same]    profiles and times, alone on the machine; writes bench/results/factor_<net>.json

Starts from $LILLIPUT_WEIGHTS/<net>-cifar10.safetensors, with CIFAR-10 where `lilliput data` finds it. What is trained lies in
out/factor and is not trained again; a run that was stopped goes on at its last epoch. Each method is the recipe
[factorize to the share of multiply-adds, batch norm statistics, distil from the uncompressed network]. Test accuracy of the
last epoch; nothing is chosen on it. `--plain` takes weights from the decomposition alone, without looking at images.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

import lilliput as lp
from lilliput.data import open_task
from lilliput.distill import Hinton
from lilliput.export import export
from lilliput.factor import Factorize, forms
from lilliput.measure import hardware, time_files, versions
from lilliput.measure.accuracy import accuracy
from lilliput.recipe import Bench, Recipe, run

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "out/factor"
WEIGHTS = Path(os.environ.get("LILLIPUT_WEIGHTS", "."))
MIXES: dict[str, dict[str, Any]] = {
    "best of svd, spatial, tucker2": {"method": ("svd", "spatial", "tucker2")},
    "group, 4 with shuffle": {"method": "group", "options": {"groups": 4, "shuffle": True}},
    "separable, relu between": {"method": "separable", "options": {"relu": True}},
    "svd, shared by the largest error": {"method": "svd", "allocate": "max"},
    "svd, plain": {"method": "svd", "whiten": False, "reconstruct": "none"},
}
METHODS = {**{name: {"method": name} for name in sorted(forms)}, **MIXES}


def method(name: str, macs: float, plain: bool) -> Factorize:
    """The method as it runs in the table: whitened where that means something, refitted behind the ReLU."""
    options = dict(METHODS[name])
    names = (options["method"],) if isinstance(options["method"], str) else options["method"]
    options.setdefault("whiten", not plain and all(forms[n].whitens for n in names))
    options.setdefault("reconstruct", "none" if plain else "relu")
    return Factorize(macs=macs, images=1024, **options)


def recipe(name: str, macs: float, arguments: argparse.Namespace) -> Recipe:
    """Factorize, statistics, distil."""
    fit = lp.Fit(epochs=arguments.epochs, lr=arguments.lr, distill=Hinton())
    return Recipe((method(name, macs, arguments.plain), lp.BatchNorm(), fit))


def start(net: str) -> nn.Module:
    """The trained network."""
    model = lp.zoo.create(net)
    model.load_state_dict(load_file(WEIGHTS / f"{net}-cifar10.safetensors"))
    return model.eval()


def train(model: nn.Module, task: lp.Task, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Every method, share and seed that is asked for; what was done before is read."""
    rows = []
    whole = accuracy(model, task.batches("test", 500)).value
    before = lp.profile(model, task.example())
    print(f"{arguments.net}: {100 * whole:.2f} %, {before.macs / 1e6:.2f} M multiply-adds, {before.params:,} parameters")
    for seed in arguments.seeds:
        for macs in arguments.macs:
            for name in arguments.methods:
                made = run(model, recipe(name, macs, arguments), Bench(task, KEPT, seed=seed))
                small, after = made.model.eval(), lp.profile(made.model, task.example())
                found = accuracy(small, task.batches("test", 500)).value
                counted = sum(row.effective_macs for row in after.layers)
                rows.append({"method": name, "share": macs, "seed": seed, "accuracy": found, "lost": 100 * (whole - found),
                             "macs": after.macs / before.macs, "effective_macs": counted / before.macs,
                             "params": after.params / before.params, "recipe": recipe(name, macs, arguments).text(),
                             "model": small, "seconds": sum(s.seconds for s in made.stages)})  # fmt: skip
                print(f"{macs:.2f}  {name:34} seed {seed}  {100 * found:.2f} %  ({rows[-1]['lost']:+.2f} lost)", flush=True)
    return rows


def table(model: nn.Module, task: lp.Task, arguments: argparse.Namespace) -> None:
    """All in one table, timed against the uncompressed network in one run."""
    rows = train(model, task, arguments)
    example = torch.zeros(1, *task.example().shape[1:])
    first = {f"{row['method']} {row['share']}": row["model"] for row in rows if row["seed"] == arguments.seeds[0]}
    files = {key: export(net, example, KEPT / f"{key.replace(' ', '_')}.onnx").path for key, net in first.items()}
    times = time_files({"whole": export(model, example, KEPT / "whole.onnx").path, **files}, example)
    found = []
    for key in first:
        mine = [row for row in rows if f"{row['method']} {row['share']}" == key]
        lost = [row["lost"] for row in mine]
        spread = statistics.stdev(lost) if len(lost) > 1 else None
        ratio = times[key].median_ms / times["whole"].median_ms
        kept = {k: v for k, v in mine[0].items() if k not in ("model", "accuracy", "lost", "seed", "seconds")}
        found.append({**kept, "lost": statistics.mean(lost), "spread": spread, "seeds": [row["seed"] for row in mine],
                      "latency": ratio, "latency_ms": times[key].to_json()})  # fmt: skip
    result = {"net": arguments.net, "epochs": arguments.epochs, "whole_ms": times["whole"].to_json(), "rows": found,
              "hardware": hardware(), "versions": versions()}  # fmt: skip
    path = ROOT / "bench/results" / f"factor_{arguments.net}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    for row in sorted(found, key=lambda r: (-r["share"], r["lost"])):
        spread = "" if row["spread"] is None else f" ± {row['spread']:.2f}"
        print(
            f"{row['share']:.2f}  {row['method']:34} {row['lost']:+6.2f}{spread} points lost   "
            f"{row['effective_macs']:.3f} macs   {row['params']:.3f} parameters   {row['latency']:.2f}x latency"
        )
    print(path.relative_to(ROOT))


def main() -> None:
    """Train, or train what is missing and tabulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "table"))
    parser.add_argument("--net", default="resnet20")
    parser.add_argument("--macs", type=float, nargs="+", default=[0.5, 0.35])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--plain", action="store_true")
    arguments = parser.parse_args()
    KEPT.mkdir(parents=True, exist_ok=True)
    (train if arguments.what == "train" else table)(start(arguments.net), open_task("cifar10"), arguments)


if __name__ == "__main__":
    main()
