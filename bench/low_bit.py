"""Low-bit networks: every quantizer of the literature on ResNet-20 and CIFAR-10, and Deep Compression stage by stage.

    python bench/low_bit.py weights [--epochs N] [--seeds 0 1 2] [--images N] [--only NAME...]   from $LILLIPUT_WEIGHTS
    python bench/low_bit.py binary  [--float-epochs N] [--epochs N] [--seeds 0 1 2] [--images N] [--only NAME...]
    python bench/low_bit.py stages  [--seeds 0 1 2] [--images N]      recipes/deep_compression.yaml, bytes split by stage
    python bench/low_bit.py table                                      writes bench/results/low_bit.json

`weights` trains everything from the same float weights, for the same epochs, with the same teacher. `binary` first trains the
layouts of Bi-Real and of ReActNet with real weights, then makes them binary in two steps, inputs first; its points count from
these. Every part does what is missing, in out/low_bit, and can be stopped at any time. The last epoch is read on test, once.
The papers train for 200 to 400 epochs; how many these are stands in every row. Needs CIFAR-10 where `lilliput data` finds it
and $LILLIPUT_WEIGHTS/resnet20-cifar10.safetensors.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from sparse import task, trained
from stored import once

import lilliput as lp
from lilliput.config import Config
from lilliput.distill import Hinton
from lilliput.measure import hardware, versions
from lilliput.measure.accuracy import accuracy
from lilliput.measure.precision import input_bits, weight_bits
from lilliput.opening import open_model
from lilliput.quant import Centroids, Clip, ErrorDecay, Incremental, LowBit, two_step
from lilliput.recipe import Bench, run
from lilliput.store import account

ROOT = Path(__file__).parent.parent
KEPT, RESULT = ROOT / "out/low_bit", ROOT / "bench/results/low_bit.json"
STAGES = ROOT / "recipes/deep_compression.yaml"
CODERS = ("plain", "huffman", "context")
GIVEN = "as given"  # the float network that weights are quantized of

WEIGHTS: dict[str, LowBit | None] = {
    "float": None,
    "binaryconnect": LowBit("binaryconnect"),
    "bwn": LowBit("bwn"),
    "irnet W1A32": LowBit("irnet", activations=32),
    "abcnet W1x1": LowBit("abcnet", bits=1, activations=32),
    "abcnet W1x2": LowBit("abcnet", bits=2, activations=32),
    "abcnet W1x3": LowBit("abcnet", bits=3, activations=32),
    "twn": LowBit("twn"),
    "ttq": LowBit("ttq"),
    "ttq, threshold 0.1": LowBit("ttq", options={"threshold": 0.1}),
    "inq 5": LowBit("inq", bits=5),
    "inq 3": LowBit("inq", bits=3),
    "lognet W5A4": LowBit("lognet"),
    "apot W4A4": LowBit("apot"),
    "apot W3A3": LowBit("apot", bits=3, activations=3),
    "apot W2A2": LowBit("apot", bits=2, activations=2),
    "kmeans 4 linear": LowBit("kmeans", bits=4),
    "kmeans 4 four groups": LowBit("kmeans", bits=4, options={"groups": 4}),
    "kmeans 3 linear": LowBit("kmeans", bits=3),
    "kmeans 3 density": LowBit("kmeans", bits=3, options={"start": "density"}),
    "kmeans 3 random": LowBit("kmeans", bits=3, options={"start": "random"}),
    "kmeans 3 four groups": LowBit("kmeans", bits=3, options={"groups": 4}),
    "kmeans 3 all layers": LowBit("kmeans", bits=3, across=True),
    "pq": LowBit("pq", skip=("first",)),
    "cnnpack 5": LowBit("cnnpack", skip=("last",)),
    "cnnpack 3": LowBit("cnnpack", bits=3, skip=("last",)),
}
BINARY: dict[str, tuple[str, LowBit]] = {
    "xnor": ("bireal_resnet20", LowBit("xnor")),
    "horq 2": ("bireal_resnet20", LowBit("horq", activations=2)),
    "abcnet 1/1": ("bireal_resnet20", LowBit("abcnet", bits=1, activations=1)),
    "abcnet 2/2": ("bireal_resnet20", LowBit("abcnet", bits=2, activations=2)),
    "birealnet": ("bireal_resnet20", LowBit("birealnet")),
    "irnet": ("bireal_resnet20", LowBit("irnet")),
    "reactnet": ("react_resnet20", LowBit("reactnet")),
    # Residuals of every sub-tensor take nine times the memory of the input and are slow to train, so a thinner pair.
    "xnor, quarter width": ("bireal_resnet20:width=0.25", LowBit("xnor")),
    "horq 2, quarter width": ("bireal_resnet20:width=0.25", LowBit("horq", activations=2)),
}


def companions(low: LowBit | None) -> tuple[Any, ...]:
    """What each paper does while training."""
    if low is None:
        return ()
    if low.scheme in ("kmeans", "pq"):
        return (Centroids(across=low.across),)
    found = {"inq": Incremental(), "binaryconnect": Clip(), "irnet": ErrorDecay()}
    return (found[low.scheme],) if low.scheme in found else ()


def weights_recipe(low: LowBit | None, args: argparse.Namespace) -> list[Config]:
    """Quantize, estimate norms anew, train."""
    fit = lp.Fit(epochs=args.epochs, lr=0.02, distill=Hinton(), callbacks=companions(low), precision=args.precision)
    return [fit] if low is None else [low, lp.BatchNorm(), fit]


def binary_recipe(low: LowBit, args: argparse.Namespace) -> list[Config]:
    """Inputs first, then weights; the distributional loss alone for ReActNet, as in its paper."""
    loss = Hinton(temperature=1.0, alpha=1.0) if low.scheme == "reactnet" else Hinton()
    shared = {"distill": loss, "callbacks": companions(low), "precision": args.precision}
    fit = lp.Fit(epochs=args.epochs, lr=0.05, weight_decay=0.0, **shared)
    inputs, first, weights, second = two_step(low, fit)
    return [inputs, lp.BatchNorm(), first, weights, lp.BatchNorm(), second]


def judged(model: Any, on: lp.Task) -> dict[str, Any]:
    """Accuracies, the bits of weights and inputs where they are fewest, and the bytes of the file."""
    found = {split: accuracy(model.eval(), on.batches(split, 250), on.metric).value for split in ("test", "val")}
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    widths = [
        min([bits for m in layers if (bits := count(m)) is not None], default=32.0) for count in (weight_bits, input_bits)
    ]
    file = KEPT / "model.lil"
    size = lp.save(model, file)
    codes = sum(row.bytes for row in account(file) if row.kind == "codes")
    return {"accuracy": found["test"], "val_accuracy": found["val"], "weight_bits": round(widths[0], 3),
            "input_bits": widths[1], "bytes": size, "code_bytes": codes}  # fmt: skip


def weights(args: argparse.Namespace) -> None:
    """Quantized weights, and inputs of several bits, from the shared float network."""
    on, start = task("cifar10", args.images), trained()
    given = {"name": GIVEN, "seed": 0, "epochs": 0, "images": len(on.train)}
    once(KEPT / "weights", given, lambda: judged(start, on))
    for seed in args.seeds:
        for name, low in WEIGHTS.items():
            if not args.only or name in args.only:
                recipe = lp.Recipe(weights_recipe(low, args))
                key = {"name": name, "seed": seed, "epochs": args.epochs, "images": len(on.train)}
                once(KEPT / "weights", key, lambda r=recipe, s=seed: whole(start, r, s, on))


def whole(start: Any, recipe: lp.Recipe, seed: int, on: lp.Task) -> dict[str, Any]:
    """A recipe, run and judged."""
    return {**judged(run(start, recipe, Bench(on, KEPT / "store", seed)).model, on), "recipe": recipe.text()}


def floating(name: str, args: argparse.Namespace, seed: int, on: lp.Task) -> Any:
    """A binary layout trained with real weights; a prefix that all its binary forms share."""
    start = open_model(name, seed=seed)
    recipe = lp.Recipe([lp.Fit(epochs=args.float_epochs, lr=0.1, precision=args.precision)])
    model = run(start, recipe, Bench(on, KEPT / "store", seed)).model
    key = {"name": f"{name} float", "seed": seed, "epochs": args.float_epochs, "images": len(on.train)}
    once(KEPT / "binary", key, lambda: {**judged(model, on), "recipe": recipe.text()})
    return model


def binary(args: argparse.Namespace) -> None:
    """Weights and inputs of one bit, or a few."""
    on = task("cifar10", args.images)
    for seed in args.seeds:
        for name, (layout, low) in BINARY.items():
            if not args.only or name in args.only:
                start, recipe = floating(layout, args, seed, on), lp.Recipe(binary_recipe(low, args))
                key = {"name": name, "seed": seed, "epochs": 2 * args.epochs, "images": len(on.train)}
                once(KEPT / "binary", key, lambda r=recipe, n=start, s=seed: whole(n, r, s, on))


def stages(args: argparse.Namespace) -> None:
    """Deep Compression: bytes and accuracy after each stage, as the paper's table has it, and what entropy coding adds."""
    on, start, recipe = task("cifar10", args.images), trained(), lp.Recipe.read(STAGES)
    parts = {"float": 0, "pruned": 2, "pruned and clustered": 4, "centroids trained": len(recipe.steps)}
    for seed in args.seeds:
        for name, count in parts.items():

            def work(count: int = count, seed: int = seed) -> dict[str, Any]:
                model = run(start, lp.Recipe(recipe.steps[:count]), Bench(on, KEPT / "store", seed)).model
                coders = {f"bytes_{name}": lp.save(model, KEPT / "model.lil", coder=name) for name in CODERS}
                return {**judged(model, on), **coders}

            once(KEPT / "stages", {"name": name, "seed": seed, "epochs": 0, "images": len(on.train)}, work)


def rows(part: str) -> list[dict[str, Any]]:
    """The stored results of a part: mean and spread over seeds, in points."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for path in sorted((KEPT / part).glob("*.json")):
        result = json.loads(path.read_text())
        found.setdefault((result["images"], result["epochs"], result["name"]), []).append(result)
    return [_row(key, results) for key, results in sorted(found.items())]


def _row(key: tuple[Any, ...], results: list[dict[str, Any]]) -> dict[str, Any]:
    points, layout = [100 * r["accuracy"] for r in results], BINARY.get(key[2], (None,))[0]
    sizes = {name: round(statistics.mean(r[name] for r in results)) for name in results[0] if "bytes" in name}
    return {
        **dict(zip(("images", "epochs", "name"), key, strict=True)), "seeds": len(points),
        "from": f"{layout} float" if layout else GIVEN, "accuracy": round(statistics.mean(points), 2),
        "stdev": round(statistics.stdev(points), 2) if len(points) > 1 else None,
        "weight_bits": results[0]["weight_bits"], "input_bits": results[0]["input_bits"], **sizes,
        **{name: results[0][name] for name in ("recipe",) if name in results[0]},
    }  # fmt: skip


def table(args: argparse.Namespace) -> None:
    """Gather what is there."""
    content = {part: rows(part) for part in ("weights", "binary", "stages")}
    RESULT.write_text(json.dumps({**content, "hardware": hardware(), "versions": versions()}, indent=2) + "\n")
    print(RESULT.relative_to(ROOT))
    for row in [row for part in content.values() for row in part]:
        width = f"{row['weight_bits']:g}/{row['input_bits']:g}"
        spread = "" if row["stdev"] is None else f" ± {row['stdev']:.2f}"
        print(f"{row['name']:24} W/A {width:9} {row['accuracy']:6.2f}{spread} {row['bytes']:9,d} B, {row['epochs']} epochs")


def main() -> None:
    """Read the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("weights", "binary", "stages", "table"), nargs="?", default="table")
    parser.add_argument("--epochs", type=int, default=10, help="of each training; binary networks have two")
    parser.add_argument("--float-epochs", type=int, default=30, help="of the layouts of binary networks with real weights")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=0, help="training images; 0: all")
    parser.add_argument("--precision", default="bf16-mixed", help="of training: bf16-mixed or 32")
    parser.add_argument("--only", nargs="+", default=[], help=f"rows of: {'; '.join((*WEIGHTS, *BINARY))}")
    args = parser.parse_args()
    KEPT.mkdir(parents=True, exist_ok=True)
    {"weights": weights, "binary": binary, "stages": stages, "table": table}[args.part](args)


if __name__ == "__main__":
    main()
