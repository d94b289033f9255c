"""Sparse networks: ResNet-20 on CIFAR-10 at 80, 90 and 95 % zeros, one-shot pruning without training, lottery tickets.

    python bench/sparse.py train [--epochs N] [--seeds 0 1 2] [--rates 0.8 0.9 0.95] [--images N] [--only NAME...]
    python bench/sparse.py oneshot [--images N]     every criterion at 50 %, no training at all
    python bench/sparse.py lottery [--data NAME] [--model NAME] [--epochs N] [--rounds N] [--seeds 0 1 2] [--images N]
    python bench/sparse.py table                    writes bench/results/sparse.json and docs/lottery.svg

Every part does what is missing, in out/sparse, and can be stopped at any time. All of `train` starts from the same weights
and trains for the same epochs; the last epoch is read on test, once. Needs CIFAR-10 where `lilliput data` finds it and
$LILLIPUT_WEIGHTS/resnet20-cifar10.safetensors; the tickets need Fashion-MNIST and no weights.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from stored import once

import lilliput as lp
from lilliput.config import Config
from lilliput.data import open_task
from lilliput.data.splits import carve
from lilliput.distill import Hinton
from lilliput.measure import hardware, versions
from lilliput.measure.accuracy import accuracy
from lilliput.opening import open_model
from lilliput.prune import Weights, gradual, lottery, one_shot, regrown
from lilliput.prune.lottery import TICKETS
from lilliput.recipe import Bench, look, run

ROOT = Path(__file__).parent.parent
KEPT, RESULT, FIGURE = ROOT / "out/sparse", ROOT / "bench/results/sparse.json", ROOT / "docs/lottery.svg"
DENSE = ("dense, plain", "dense, distilled")
METHODS = (
    "obs global, distilled", "gradual lamp, distilled", "gradual erk, distilled", "gradual global, distilled",
    "granet, distilled", "one-shot uniform, plain", "one-shot uniform, distilled",
)  # fmt: skip
ROUND = 0.8  # of the weights are left by each round of the lottery


def steps(name: str, rate: float, args: argparse.Namespace) -> list[Config]:
    """The recipe of a row."""
    what, _, how = name.partition(", ")
    taught = Hinton() if how == "distilled" else None
    fit = lp.Fit(epochs=args.epochs, lr=args.lr, distill=taught, precision=args.precision)
    kind, _, allocate = what.partition(" ")
    if kind == "dense":
        return [fit]
    if kind == "obs":
        return one_shot(Weights("obs", rate=rate, allocate=allocate, images=1024), fit)
    if kind == "one-shot":
        return one_shot(Weights(rate=rate, allocate=allocate), fit)
    if kind == "granet":
        return regrown(Weights(rate=rate, allocate="global"), fit, start=rate / 2, every=args.every)
    return gradual(Weights(rate=rate, allocate=allocate), fit, every=args.every)


def task(name: str, images: int) -> lp.Task:
    """A task, with a stratified part of its training images."""
    whole = open_task(name)
    if not images:
        return whole
    _, part = carve(whole.train.labels, images / len(whole.train), 0)
    splits = (whole.train.subset(part), whole.test, whole.val)
    return lp.Task(*splits, classes=whole.class_names, name=f"{name}-{images}", augment=whole.augment)


def trained() -> Any:
    """The network that `train` and `oneshot` start from."""
    weights = Path(os.environ.get("LILLIPUT_WEIGHTS", ".")) / "resnet20-cifar10.safetensors"
    return open_model("resnet20", weights=str(weights)).eval()


def zeros(model: Any) -> float:
    """The share of zero weights in convolutions and linear layers."""
    weights = [m.weight for m in lp.bake(model).modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


def judged(model: Any, on: lp.Task) -> dict[str, float]:
    """Accuracies and the share of zeros."""
    found = {split: accuracy(model.eval(), on.batches(split, 250), on.metric).value for split in ("test", "val")}
    return {"accuracy": found["test"], "val_accuracy": found["val"], "zeros": zeros(model)}


def train(args: argparse.Namespace) -> None:
    """Every row of the table, seed by seed, so that what is there early is comparable."""
    on, start = task("cifar10", args.images), trained()

    def one(name: str, rate: float, seed: int) -> dict[str, Any]:
        recipe = lp.Recipe(steps(name, rate, args))
        return {**judged(run(start, recipe, Bench(on, KEPT / "store", seed)).model, on), "recipe": recipe.text()}

    for seed in args.seeds:
        rows = [(name, 0.0) for name in DENSE] + [(name, rate) for name in METHODS for rate in args.rates]
        for name, rate in rows:
            if not args.only or name in args.only:
                key = {"name": name, "rate": rate, "seed": seed, "epochs": args.epochs, "images": len(on.train), "lr": args.lr}
                once(KEPT / "train", key, lambda name=name, rate=rate, seed=seed: one(name, rate, seed))


def oneshot(args: argparse.Namespace) -> None:
    """Half of the weights go, and nothing is trained, nor are norms estimated anew."""
    on, start = task("cifar10", 0), trained()
    seen = look(Bench(on, KEPT / "store"))
    once(KEPT / "oneshot", {"name": "dense", "rate": 0.0, "images": 0}, lambda: judged(start, on))
    for name in ("random", "magnitude", "gradient", "obd", "obs"):
        for allocate in ("uniform", "global"):
            weights = Weights(name, 0.5, allocate, images=args.images or 512)
            key = {"name": f"{name} {allocate}", "rate": 0.5, "images": weights.images}
            once(KEPT / "oneshot", key, lambda weights=weights: timed(weights, start, seen, on))


def timed(weights: Weights, start: Any, seen: Any, on: lp.Task) -> dict[str, Any]:
    """What one method gives, and how long it alone takes."""
    begun = time.perf_counter()
    made = weights(start, seen)
    return {"pruning_seconds": round(time.perf_counter() - begun, 2), **judged(made, on), "method": weights.text()}


def tickets(args: argparse.Namespace) -> None:
    """The winning tickets of every round, and both controls at the same shares of weights in every one, or in some."""
    on = task(args.data, args.images)
    fit = lp.Fit(epochs=args.epochs, lr=args.lr, precision=args.precision)
    early = lp.Fit(epochs=1, lr=0.01, schedule="constant", precision=args.precision)
    for seed in args.seeds:
        torch.manual_seed(seed)
        start = lp.zoo.create(args.model, channels=on.input_shape[0], classes=on.classes)
        bench = Bench(on, KEPT / "store", seed)
        key = {"data": args.data, "model": args.model, "seed": seed, "epochs": args.epochs, "images": len(on.train)}
        for k in range(args.rounds + 1):
            for ticket in TICKETS if k and k % args.controls == 0 else ("winning",):
                recipe = lp.Recipe(written(k, ticket, fit, early))
                whole = {"ticket": ticket, "round": k, **key}
                once(KEPT / "lottery", whole, lambda r=recipe, n=start, b=bench: judged(run(n, r, b).model, on))


def written(k: int, ticket: str, fit: lp.Fit, early: lp.Fit) -> list[Config]:
    """The recipe of round k; round 0 is the dense network."""
    if k == 0:
        return [early, fit]
    weights = Weights(rate=round(1 - ROUND**k, 6), allocate="global")
    return lottery(weights, fit, early=early, rounds=k, ticket=ticket)


def rows(part: str, by: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The stored results of a part: mean and spread over seeds, in points."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for path in sorted((KEPT / part).glob("*.json")):
        result = json.loads(path.read_text())
        found.setdefault(tuple(result[name] for name in by), []).append(result)
    for key, results in sorted(found.items()):
        points = [100 * r["accuracy"] for r in results]
        spread = statistics.stdev(points) if len(points) > 1 else 0.0
        yield {
            **dict(zip(by, key, strict=True)), "seeds": len(points), "accuracy": round(statistics.mean(points), 2),
            "stdev": round(spread, 2), "zeros": round(statistics.mean(r["zeros"] for r in results), 4),
            **{name: results[0][name] for name in ("pruning_seconds", "recipe", "method") if name in results[0]},
        }  # fmt: skip


def table(args: argparse.Namespace) -> None:
    """Gather what is there."""
    content = {
        "train": list(rows("train", ("epochs", "images", "lr", "rate", "name"))),
        "oneshot": list(rows("oneshot", ("rate", "name", "images"))),
        "lottery": list(rows("lottery", ("data", "model", "epochs", "images", "ticket", "round"))),
        "hardware": hardware(), "versions": versions(),
    }  # fmt: skip
    RESULT.write_text(json.dumps(content, indent=2) + "\n")
    print(RESULT.relative_to(ROOT))
    for row in content["train"] + content["oneshot"]:
        print(f"{row['rate']:5.0%} {row['name']:32} {row['accuracy']:6.2f} ± {row['stdev']:.2f}  zeros {row['zeros']:.1%}")
    if content["lottery"]:
        FIGURE.write_text(figure(content["lottery"]))
        print(FIGURE.relative_to(ROOT))


def figure(points: list[dict[str, Any]]) -> str:
    """Accuracy against the share of weights left, as the papers draw it: dense to the left, log scale."""
    from math import log

    first = points[0]
    same = [p for p in points if all(p[k] == first[k] for k in ("data", "model", "epochs", "images"))]
    low, high = min(p["accuracy"] for p in same), max(p["accuracy"] for p in same)
    last = min(1 - p["zeros"] for p in same)

    def place(p: dict[str, Any]) -> tuple[float, float]:
        left = log(max(1 - p["zeros"], 1e-3)) / log(min(last, 0.99))
        return 60 + 480 * left, 260 - 220 * (p["accuracy"] - low) / max(high - low, 0.1)

    lines = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 680 320" font-family="sans-serif" font-size="12">']
    lines.append('<rect width="680" height="320" fill="white"/><path d="M60 30V270H550" fill="none" stroke="#888"/>')
    free = 0.0  # below the last label
    for colour, ticket in zip(("#1667b7", "#c4521c", "#6b6b6b"), TICKETS, strict=True):
        own = sorted((p for p in same if p["ticket"] == ticket or p["round"] == 0), key=lambda p: p["round"])
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, own))
        x, y = place(own[-1])
        y = max(y, free)
        free = y + 14
        lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        lines.append(f'<text x="{x + 6:.1f}" y="{y + 4:.1f}" fill="{colour}">{ticket}</text>')
    for p in (p for p in same if p["ticket"] == "winning"):
        lines.append(f'<text x="{place(p)[0]:.1f}" y="286" text-anchor="middle">{100 * (1 - p["zeros"]):.0f}</text>')
    for value in (low, high):
        y = 264 - 220 * (value - low) / max(high - low, 0.1)
        lines.append(f'<text x="54" y="{y:.1f}" text-anchor="end">{value:.1f}</text>')
    title = f"{first['model']} on {first['data']}, {first['epochs']} epochs, mean of {first['seeds']} seeds"
    lines.append(f'<text x="60" y="18">Test accuracy in %: {title}</text>')
    lines.append('<text x="300" y="308" text-anchor="middle">weights left in %</text></svg>')
    return "\n".join(lines) + "\n"


def main() -> None:
    """Read the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("train", "oneshot", "lottery", "table"), nargs="?", default="table")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--every", type=int, default=50, help="steps between two choices of masks")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.8, 0.9, 0.95])
    parser.add_argument("--images", type=int, default=0, help="training images; 0: all (oneshot: 512 for the criterion)")
    parser.add_argument("--only", nargs="+", default=[], help=f"rows of: {'; '.join((*DENSE, *METHODS))}")
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--controls", type=int, default=1, help="random and reinitialised tickets each so many rounds")
    args = parser.parse_args()
    KEPT.mkdir(parents=True, exist_ok=True)
    {"train": train, "oneshot": oneshot, "lottery": tickets, "table": table}[args.part](args)


if __name__ == "__main__":
    main()
