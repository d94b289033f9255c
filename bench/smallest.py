"""The smallest files: trained for it, and beside what single numbers could take at best.

    python bench/smallest.py resnet20 [--epochs N] [--images N] [--rate R]    44 kB within 0.5 points, CIFAR-10
    python bench/smallest.py resnet20 --held [--epochs N] [--images N]        the same, half of its epochs after rounding
    python bench/smallest.py vgg [--epochs N] [--images N] [--rate R] [--params P]  200x within 0.5 points, Fashion-MNIST
    python bench/smallest.py squeezenet     a whole file against order-0 entropies; seconds
    python bench/smallest.py vgg16          138 million 8-bit weights: seconds to pack and to load; 2 GB of memory
    python bench/smallest.py table          writes bench/results/smallest.json; rows of runs that are not in out stay

Every part does what is missing, in out/smallest, and can be stopped at any time. `resnet20` starts from
$LILLIPUT_WEIGHTS/resnet20-cifar10.safetensors, `vgg` trains its own float network first. Both then train once more, with the
float network as teacher, while the share of zeros rises to R and a penalty pulls weights to where they take few bits, and
round without training (`quant.rate`) to the size that is asked for; the validation split decides, and test is read at the end.
With P below 1 channels go before that, until the share P of the parameters is left. With --held the network is trained with the
penalty that searches have, rounded, and trained as it was rounded, for half of the epochs each.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sparse import task, zeros
from stored import once
from torch import nn

import lilliput as lp
from lilliput.core.edits import Map
from lilliput.core.maps import Quantizer
from lilliput.distill import Hinton
from lilliput.errors import BudgetError
from lilliput.measure import hardware, versions
from lilliput.measure.accuracy import accuracy
from lilliput.opening import open_model
from lilliput.prune import Channels, Weights, gradual
from lilliput.quant import Fold
from lilliput.quant.rate_penalty import RatePenalty
from lilliput.recipe import Bench, run
from lilliput.search.candidates import Candidate
from lilliput.search.finish import Finisher
from lilliput.search.rate import pack

ROOT = Path(__file__).parent.parent
KEPT, RESULT = ROOT / "out/smallest", ROOT / "bench/results/smallest.json"
KILOBYTES = 44
TIMES = 200
SETTINGS = {"resnet20": (0.7, 0.05, 1.0), "vgg": (0.75, 0.02, 0.12)}  # zeros, strength of the penalty, parameters that stay


def judged(model: nn.Module, on: lp.Task) -> dict[str, float]:
    """Accuracies in percent."""
    return {split: 100 * accuracy(model.eval(), on.batches(split, 250), on.metric).value for split in ("val", "test")}


def smaller(start: nn.Module, on: lp.Task, size: float, args: argparse.Namespace, lr: float) -> dict[str, Any]:
    """Train a float network for a small file, and write that."""
    fit = lp.Fit(
        epochs=args.epochs, lr=lr, weight_decay=1e-4, distill=Hinton(), precision="bf16-mixed",
        callbacks=(RatePenalty(strength=args.strength),),
    )  # fmt: skip
    every = max(1, args.epochs * len(on.train) // (fit.batch_size * 100))
    fewer = Channels(params=args.params, criterion="group_norm", allocate="global")
    thinned = [fewer, lp.BatchNorm()] if args.params < 1 else []
    recipe = lp.Recipe([*thinned, *gradual(Weights(rate=args.rate, allocate="global"), fit, every=every, until=0.6)])
    trained = run(start, recipe, Bench(on, KEPT / "store", args.seed)).model
    found = {
        "float": judged(start, on), "trained": judged(trained, on), "zeros": zeros(trained), "wanted_bytes": round(size),
        "float_bytes": 4 * sum(p.numel() for p in start.parameters()), "recipe": recipe.text(),
    }  # fmt: skip
    try:
        packed = pack(lp.bake(trained), on, size=size)
    except BudgetError as error:  # a result as well: no training is lost, and what comes after is done
        return found | {"missed": str(error)}
    return found | {"packed": judged(packed.model, on), "bytes": packed.bytes, "packed_zeros": zeros(packed.model)}


def resnet20(args: argparse.Namespace) -> None:
    """ResNet-20 in 44 kB."""
    weights = Path(os.environ.get("LILLIPUT_WEIGHTS", ".")) / "resnet20-cifar10.safetensors"
    on, start = task("cifar10", args.images), open_model("resnet20", weights=str(weights)).eval()
    size = 1000.0 * KILOBYTES
    if args.held:
        named = {"name": "resnet20 held", "epochs": args.epochs, "images": len(on.train), "seed": args.seed}
        once(KEPT / "trained", named, lambda: {"name": "resnet20", **trained_as_rounded(start, on, size, args)})
    else:
        once(KEPT / "trained", key("resnet20", args, on), lambda: smaller(start, on, size, args, lr=0.02))


def trained_as_rounded(start: nn.Module, on: lp.Task, size: float, args: argparse.Namespace) -> dict[str, Any]:
    """As a search trains what it rounds, with one rung."""
    fit = lp.Fit(lr=0.05, distill=Hinton(), precision="bf16-mixed")
    finisher = Finisher(start, Bench(on, KEPT / "store", args.seed), fit, size)
    whole = {"float": judged(start, on), "wanted_bytes": round(size), "held": True}
    try:
        steps = finisher(Candidate("as it is", (), "rate"), [args.epochs], None, only=True)
    except BudgetError as error:
        return whole | {"missed": str(error)}
    made, before = finisher.run(steps), finisher.run(tuple(s for s in steps if not isinstance(s, Fold)))
    return whole | {
        "trained": judged(before, on), "packed": judged(made, on), "recipe": lp.Recipe(steps).text(),
        "float_bytes": 4 * sum(p.numel() for p in start.parameters()),
        "bytes": lp.save(made, KEPT / "held.lil"), "packed_zeros": zeros(made),
    }  # fmt: skip


def vgg(args: argparse.Namespace) -> None:
    """VGG-16 with batch norm, trained here, in a 200th of its bytes."""
    on = task("fashion-mnist", args.images)

    def work() -> dict[str, Any]:
        torch.manual_seed(args.seed)
        net = lp.zoo.create(f"vgg16_bn_32:width={args.width},resolution=32", channels=on.input_shape[0], classes=on.classes)
        plain = lp.Recipe([lp.Fit(epochs=args.float_epochs, lr=0.05, precision="bf16-mixed")])
        start = run(net, plain, Bench(on, KEPT / "store", args.seed)).model.eval()
        size = 4 * sum(p.numel() for p in start.parameters()) / TIMES
        return smaller(start, on, size, args, lr=0.02)

    once(KEPT / "trained", key("vgg", args, on) | {"width": args.width}, work)


def key(name: str, args: argparse.Namespace, on: lp.Task) -> dict[str, Any]:
    """What a result belongs to."""
    named = {"name": name, "epochs": args.epochs, "images": len(on.train), "rate": args.rate}
    return named | {"strength": args.strength, "seed": args.seed} | ({"params": args.params} if args.params < 1 else {})


def squeezenet(args: argparse.Namespace) -> None:
    """SqueezeNet 1.0 with weights as drawn by its initialization, a third of them left, 256 shared values a layer."""
    once(KEPT / "entropy", {"name": "squeezenet1_0", "seed": args.seed}, lambda: shared_values(args.seed))


def shared_values(seed: int) -> dict[str, Any]:
    """A file of everything, and the bound: entropies of masks, of codes where the mask is one, of bytes of what is left."""
    torch.manual_seed(seed)
    net = lp.zoo.create("squeezenet1_0").eval()
    with torch.no_grad():
        for layer in (m for m in net.modules() if isinstance(m, nn.Conv2d)):
            scales = torch.randn(layer.weight.shape[:2]).mul(0.4).exp()  # filters and kernels differ, as trained ones do
            layer.weight.mul_(scales[:, :, None, None])
            layer.bias.normal_(0, 0.1)  # type: ignore[union-attr]
            cut = layer.weight.abs().flatten().kthvalue(2 * layer.weight.numel() // 3).values
            layer.weight.mul_(layer.weight.abs() > cut)
    sites = [name for name, m in net.named_modules() if isinstance(m, nn.Conv2d)]
    shared = lp.perform(net, [Map(site, "weight", "kmeans", {"bits": 8, "zero": True}) for site in sites])
    bound, rest = 0.0, []
    for site in sites:
        layer: Any = shared.get_submodule(site)
        quantizer: Quantizer = layer.weight_maps[0]
        codes = quantizer.encode(layer.weight.detach())
        there = (lp.bake(shared).get_submodule(site).weight != 0).numpy()  # type: ignore[union-attr, operator]
        bound += entropy(there) + entropy(codes.values.numpy()[there])
        rest += [layer.bias.detach().numpy().ravel(), *(each.detach().numpy().ravel() for each in codes.side.values())]
    planes = np.concatenate([each.astype("<f4") for each in rest]).view(np.uint8).reshape(-1, 4)
    floats = sum(entropy(planes[:, place]) for place in range(4))
    with tempfile.TemporaryDirectory() as folder:
        size = lp.save(shared, Path(folder) / "net.lil", architecture="squeezenet1_0")
    weights = sum(shared.get_submodule(site).weight.numel() for site in sites)  # type: ignore[union-attr, operator]
    bound = round(bound + floats)
    return {
        "bytes": size,
        "order0_bytes": bound,
        "of_which_floats": round(floats),
        "weights": weights,
        "below": 1 - size / bound,
    }


def entropy(values: Any) -> float:
    """Bytes of numbers that are coded one by one, each as if its share were known."""
    shares = np.unique(values, return_counts=True)[1] / max(1, values.size)
    return float(-(shares * np.log2(shares)).sum() * values.size / 8)


def vgg16(args: argparse.Namespace) -> None:
    """VGG-16 with a grid of 8 bits a row."""
    once(KEPT / "speed", {"name": "vgg16", "seed": args.seed}, lambda: packed_and_loaded(args.seed))


def packed_and_loaded(seed: int) -> dict[str, Any]:
    """Seconds to write a whole network and to read it."""
    torch.manual_seed(seed)
    net = lp.zoo.create("vgg16").eval()
    sites = [name for name, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    coded = lp.perform(net, [Map(site, "weight", "grid", {}) for site in sites])
    with tempfile.TemporaryDirectory() as folder:
        path, begun = Path(folder) / "net.lil", time.perf_counter()
        size = lp.save(coded, path, architecture="vgg16")
        written = time.perf_counter()
        lp.load(path)
        read = time.perf_counter()
    weights = sum(p.numel() for p in net.parameters())
    return {"bytes": size, "parameters": weights, "pack_seconds": written - begun, "load_seconds": read - written}


def table(args: argparse.Namespace) -> None:
    """Gather what is there, and keep what is not."""
    here: dict[str, Any] = {"hardware": hardware(), "versions": versions()}
    found = json.loads(RESULT.read_text()) if RESULT.exists() else here | {part: [] for part in PARTS}
    for group, what in (("hardware", "cpu"), ("hardware", "cores"), ("versions", "torch")):
        if (then := found[group][what]) != (now := here[group][what]):
            raise SystemExit(
                f"{RESULT.name} has rows of {what} `{then}`, and here it is `{now}`; remove it, and run all parts here"
            )
    for part in PARTS:
        rows = [json.loads(p.read_text()) for p in sorted((KEPT / part).glob("*.json"))]
        found[part] = [row for row in found[part] if all(kept(row) != kept(new) for new in rows)] + rows
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    print(RESULT.relative_to(ROOT))


def kept(row: dict[str, Any]) -> list[Any]:
    """What a row belongs to."""
    return [row.get(part) for part in ("name", "epochs", "images", "rate", "strength", "params", "held", "width", "seed")]


PARTS = ("trained", "entropy", "speed")


def main() -> None:
    """Read the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"resnet20": resnet20, "vgg": vgg, "squeezenet": squeezenet, "vgg16": vgg16, "table": table}
    parser.add_argument("part", choices=parts)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--images", type=int, default=0, help="training images; 0: all")
    parser.add_argument("--rate", type=float, help="the share of zeros")
    parser.add_argument("--strength", type=float, help="of the penalty on bits")
    parser.add_argument("--params", type=float, help="the share of parameters that stays when channels go first")
    parser.add_argument("--float-epochs", type=int, default=2, help="of the VGG before anything is compressed")
    parser.add_argument("--width", type=float, default=0.5, help="of the VGG")
    parser.add_argument("--held", action="store_true", help="train half of the epochs as it was rounded")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for name, usual in zip(("rate", "strength", "params"), SETTINGS.get(args.part, (0.0, 0.0, 1.0)), strict=True):
        if getattr(args, name) is None:
            setattr(args, name, usual)
    torch.set_num_threads(1)
    KEPT.mkdir(parents=True, exist_ok=True)
    parts[args.part](args)


if __name__ == "__main__":
    main()
