"""Integer networks that were trained as such: ResNet-20 on CIFAR-10 in 4, 3 and 2 bits, and DoReFa's table of bits.

    python bench/integer_training.py [--epochs N] [--images N] [--seeds 0 1 2] [--only NAME...]
    python bench/integer_training.py table      writes bench/results/integer_training.json

All rows start from $LILLIPUT_WEIGHTS/resnet20-cifar10.safetensors, train for the same epochs with the float network as
teacher, and are read on test once, at the last epoch. W4A4 has 4 bits for weights and inputs; the first and the last layer
have 8, as is usual. "Sums of 8": what additions read and return has 8 bits, and convolutions quantize it once more; without
it the sums have as few bits as the inputs. "Inputs first" spends half of the epochs on inputs, and quantizes the weights
then. The rows of DoReFa are W/A/G, with G the bits of gradients; there the first and the last layer are in floats, as in
the paper. `dense` is the float network itself, trained for as long. Every row does what is missing, in
out/integer_training; a run that was stopped goes on, and several processes share the list. Needs CIFAR-10 where `lilliput
data` finds it.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from sparse import task, trained
from stored import once

import lilliput as lp
from lilliput.config import Config
from lilliput.distill import Hinton
from lilliput.measure import hardware, versions
from lilliput.measure.accuracy import accuracy
from lilliput.quant import Fold, Freeze, Quantize
from lilliput.recipe import Bench, run

ROOT = Path(__file__).parent.parent
KEPT, RESULT = ROOT / "out/integer_training", ROOT / "bench/results/integer_training.json"
EDGES = ("conv1", "linear")  # the first layer and the last


def learned(bits: int, inputs: int, form: str = "lsq", sums: int = 0) -> Quantize:
    """Weights and inputs of so many bits (32: floats) with learned steps, the first and the last layer in 8."""
    edges = dict.fromkeys(EDGES, 8)
    return Quantize(bits=bits, activations=inputs, learn=form, norms="keep", widths=edges if bits < 32 else {},
                    input_widths=edges if inputs < 32 else {}, sums=sums)  # fmt: skip


def dorefa(weights: int, inputs: int, gradients: int) -> Quantize:
    """A row of the paper's table: what additions read stays in floats, since its clip at 1 belongs to the inputs of layers."""
    return Quantize(bits=weights, activations=inputs, gradients=gradients, learn="dorefa", norms="keep", skip=EDGES,
                    sums=32)  # fmt: skip


ROWS: dict[str, tuple[Quantize, ...]] = {
    "dense": (),
    "W4A4 lsq": (learned(4, 4),),
    "W3A3 lsq": (learned(3, 3),),
    "W2A2 lsq": (learned(2, 2),),
    "W4A4 lsq, sums of 8": (learned(4, 4, sums=8),),
    "W3A3 lsq, sums of 8": (learned(3, 3, sums=8),),
    "W2A2 lsq, sums of 8": (learned(2, 2, sums=8),),
    "W4A4 lsq, inputs first": (learned(32, 4), learned(4, 32)),
    "W3A3 lsq, inputs first": (learned(32, 3), learned(3, 32)),
    "W2A2 lsq, inputs first": (learned(32, 2), learned(2, 32)),
    "W4A4 pact": (learned(4, 4, "pact"),),
    "W2A2 pact": (learned(2, 2, "pact"),),
    "W4A4 syq": (learned(4, 4, "syq"),),
    "W2A2 syq": (learned(2, 2, "syq"),),
    "dorefa 1/2/32": (dorefa(1, 2, 32),),
    "dorefa 1/2/6": (dorefa(1, 2, 6),),
    "dorefa 1/2/4": (dorefa(1, 2, 4),),
    "dorefa 1/4/6": (dorefa(1, 4, 6),),
    "dorefa 4/4/8": (dorefa(4, 4, 8),),
}


def recipe(quantize: tuple[Quantize, ...], args: argparse.Namespace) -> lp.Recipe:
    """Quantize, train, as often as there are parts; learned steps then become an integer network, norms and all."""
    parts = max(1, len(quantize))
    fit = lp.Fit(epochs=args.epochs // parts, lr=args.lr, distill=Hinton(), precision=args.precision)
    steps: list[Config] = [step for part in quantize for step in (part, fit)] or [fit]
    if quantize and quantize[0].learn in ("lsq", "lsq+"):
        steps += [Freeze(), Fold()]
    return lp.Recipe(steps)


def one(name: str, seed: int, on: lp.Task, args: argparse.Namespace) -> dict[str, Any]:
    """Train a row and read it."""
    steps = recipe(ROWS[name], args)
    model = run(trained(), steps, Bench(on, KEPT / "store", seed)).model.eval()
    found = {split: accuracy(model, on.batches(split, 250), on.metric).value for split in ("test", "val")}
    return {"accuracy": found["test"], "val_accuracy": found["val"], "recipe": steps.text()}


def train(args: argparse.Namespace) -> None:
    """What is missing, seed by seed, so that what is there early is comparable."""
    on = task("cifar10", args.images)
    for seed in args.seeds:
        for name in args.only or ROWS:
            key = {"name": name, "seed": seed, "epochs": args.epochs, "images": len(on.train), "lr": args.lr,
                   "precision": args.precision}  # fmt: skip
            once(KEPT / "runs", key, lambda name=name, seed=seed: one(name, seed, on, args))


def table() -> None:
    """Mean and spread over seeds, and points below the float network that was trained as long, or else the longest."""
    groups: dict[tuple[Any, ...], dict[str, list[dict[str, Any]]]] = {}
    for path in sorted((KEPT / "runs").glob("*.json")):
        found = json.loads(path.read_text())
        same = tuple(found[name] for name in ("epochs", "images", "lr", "precision"))
        groups.setdefault(same, {}).setdefault(found["name"], []).append(found)
    rows = []
    for (epochs, images, lr, precision), named in sorted(groups.items()):
        alike = [found.get("dense", []) for same, found in sorted(groups.items()) if same[1:] == (images, lr, precision)]
        dense = {r["seed"]: 100 * r["accuracy"] for found in [*alike, named.get("dense", [])] for r in found}
        for name in (n for n in ROWS if n in named):
            points = {r["seed"]: 100 * r["accuracy"] for r in named[name]}
            behind = [dense[seed] - points[seed] for seed in points if seed in dense]
            rows.append({
                "name": name, "epochs": epochs, "images": images, "lr": lr, "precision": precision, "seeds": sorted(points),
                "accuracy": round(statistics.mean(points.values()), 2),
                "spread": round(statistics.stdev(points.values()), 2) if len(points) > 1 else None,
                "behind": round(statistics.mean(behind), 2) if behind else None, "recipe": named[name][0]["recipe"],
            })  # fmt: skip
    RESULT.write_text(json.dumps({"rows": rows, "hardware": hardware(), "versions": versions()}, indent=2) + "\n")
    for row in rows:
        schedule, points = f"{row['epochs']} epochs of {row['images']}", f"{row['accuracy']:.2f} ± {row['spread'] or 0:.2f}"
        print(f"{schedule}: {row['name']:14} {points}  {row['behind']} behind, {len(row['seeds'])} seeds")
    print(RESULT.relative_to(ROOT))


def main() -> None:
    """Train what is missing, or tabulate what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "table"), nargs="?", default="train")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--images", type=int, default=0, help="a stratified part of the training images; 0: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--precision", default="bf16-mixed", help="of training: bf16-mixed or 32")
    parser.add_argument("--only", nargs="+", default=[], choices=list(ROWS), metavar="NAME")
    args = parser.parse_args()
    table() if args.what == "table" else train(args)


if __name__ == "__main__":
    main()
