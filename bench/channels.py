"""Channel pruning against torch-pruning: the accuracy of ResNet-56 on CIFAR-10 at 2.1x and 2.6x fewer multiply-adds.

    python bench/channels.py run [METHOD...] [--epochs N] [--images N] [--seeds 0 1] [--ratios 2.1]
                                                                        prunes and trains, into out/channels, what is missing
    python bench/channels.py table [--alone]                            writes bench/results/channels.json

`--alone` (on the machine) also times the networks of the last seed that was run in ONNX Runtime, in turns, one thread.

Everything starts from the same weights and trains on the same images for the same epochs; three seeds; the last epoch is
read on test, once. torch-pruning's networks are trained twice, as its users do and with our distillation, so that the table
says which part of the difference is which. The other ways to win back what pruning lost (WAYS) run when they are named, with
`--seeds` and `--ratios` as wanted. Runs where the peers are (`make bench-peers`), and starts itself again there.
Needs $LILLIPUT_WEIGHTS/resnet56-cifar10.safetensors and CIFAR-10 where `lilliput data` finds it.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

import lilliput as lp
from lilliput.clock import Clock
from lilliput.core.method import Look
from lilliput.data import open_task
from lilliput.data.splits import carve
from lilliput.distill import Hinton, Hints, Sum
from lilliput.distill.contract import Distillation
from lilliput.export import export
from lilliput.measure import Ratio, hardware, time_files, versions
from lilliput.measure.accuracy import accuracy
from lilliput.opening import open_model
from lilliput.train import BatchNorm, Fit, fit, reestimate


class Way(NamedTuple):
    """How a thinned network is trained: with which teacher's loss, how many times as long, after how many rounds of pruning."""

    distill: Distillation = Hinton()
    longer: int = 1
    rounds: int = 1


ROOT = Path(__file__).parent.parent
KEPT = ROOT / "out/channels"
RATIOS, SEEDS = (2.1, 2.6), (0, 1, 2)
LR, PRECISION = 0.02, "bf16-mixed"
OURS: dict[str, dict[str, Any]] = {
    "ours": {"criterion": "hessian", "allocate": "global", "per": "macs", "compensate": True},
    "ours, by time": {"criterion": "hessian", "allocate": "latency", "compensate": True},
    "ours, group norm": {"criterion": "group_norm", "allocate": "global"},
    "ours, group norm, compensated": {"criterion": "group_norm", "allocate": "global", "compensate": True},
    "ours, group norm, by time": {"criterion": "group_norm", "allocate": "latency"},
    "ours, not compensated": {"criterion": "hessian", "allocate": "global", "per": "macs"},
    "ours, not compensated, with hints": {"criterion": "hessian", "allocate": "global", "per": "macs"},
}
THEIRS = {"torch-pruning, group norm": (2, True), "torch-pruning, l1": (1, False)}
DISTILLED = {f"{name}, with our distillation": name for name in THEIRS}
STAGES = ("layer1", "layer2", "layer3")
# Other ways for ours: what the teacher shows, how often the epochs, and in how many rounds channels go.
WAYS: dict[str, Way] = {
    "ours, with hints": Way(Sum((Hinton(), Hints(STAGES, adapt=False)), (1.0, 0.01), hard=0.1)),
    "ours, not compensated, with hints": Way(Sum((Hinton(), Hints(STAGES, adapt=False)), (1.0, 0.01), hard=0.1)),
    "ours, in two rounds": Way(rounds=2),
    "ours, three times the epochs": Way(longer=3),
    "dense, three times the epochs": Way(longer=3),
}


def start() -> nn.Module:
    """The network that everything starts from."""
    weights = Path(os.environ.get("LILLIPUT_WEIGHTS", ".")) / "resnet56-cifar10.safetensors"
    return open_model("resnet56", weights=str(weights)).eval()


def task(images: int) -> lp.Task:
    """CIFAR-10, with a stratified part of the training images."""
    whole = open_task("cifar10")
    if not images:
        return whole
    _, part = carve(whole.train.labels, images / len(whole.train), 0)
    return lp.Task(whole.train.subset(part), whole.test, whole.val, name="cifar10, part")


def thinned(method: str, ratio: float, data: lp.Task, seed: int, model: nn.Module) -> nn.Module:
    """The pruned network, before any training."""
    if method.startswith("dense"):
        return model
    if method.startswith("ours"):
        look = Look(data.example(), data.drawn(), data.loss, seed, Clock(data.example()))
        options = OURS.get(method, OURS["ours"])
        return reestimate(lp.prune.Channels(macs=1 / ratio, **options)(model, look), data, BatchNorm())
    return theirs(model, ratio, *THEIRS[DISTILLED.get(method, method)])


def theirs(model: nn.Module, ratio: float, p: int, everywhere: bool) -> nn.Module:
    """torch-pruning in small steps until the ratio is reached."""
    import torch_pruning as tp

    example = torch.randn(1, 3, 32, 32)
    head = [m for m in model.modules() if isinstance(m, nn.Linear)]
    pruner = tp.pruner.MetaPruner(
        model, example, importance=tp.importance.GroupMagnitudeImportance(p=p), global_pruning=everywhere,
        pruning_ratio=0.9, max_pruning_ratio=0.9, iterative_steps=800, ignored_layers=head,
    )  # fmt: skip
    macs = lp.profile(start(), example).macs
    while macs / lp.profile(model, example).macs < ratio:
        pruner.step()
    return model


def train(method: str, ratio: float, seed: int, data: lp.Task, epochs: int, path: Path) -> dict[str, Any]:
    """One network from pruning to test; `path` takes its ONNX file."""
    way, model = WAYS.get(method, Way()), start()
    distilled = method.startswith("ours") or method in DISTILLED
    plan = Fit(epochs=way.longer * epochs // way.rounds, lr=LR, precision=PRECISION, distill=way.distill if distilled else None)
    for _ in range(way.rounds):
        thin = thinned(method, ratio ** (1 / way.rounds), data, seed, model)
        before = accuracy(thin, data.batches("val", 500)).value
        done = fit(copy.deepcopy(thin), data, plan, teacher=start() if distilled else None, seed=seed)
        model = done.model
    found = lp.profile(done.model, data.example())
    export(done.model, data.example(), path)
    return {
        "method": method, "ratio": ratio, "seed": seed, "fit": plan.text(), "rounds": way.rounds, "images": len(data.train),
        "macs": found.macs, "params": found.params, "val_before_training": before,
        "val_accuracy": done.history[-1]["val_accuracy"],
        "accuracy": accuracy(done.model, data.batches("test", 500)).value,
        "widths": [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)],
        "seconds": round(sum(e["seconds"] for e in done.history), 1),
    }  # fmt: skip


def kept(method: str, ratio: float, seed: int) -> Path:
    """Where one result lies."""
    return KEPT / f"{method.replace(', ', '_').replace(' ', '-')}_{ratio}_{seed}.json"


def run(options: argparse.Namespace) -> None:
    """Everything that is not there yet, seed by seed."""
    data, epochs = task(options.images), options.epochs
    KEPT.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        for method in options.methods or ["dense", *OURS, *THEIRS, *DISTILLED]:
            for ratio in options.ratios if not method.startswith("dense") else (1.0,):
                path = kept(method, ratio, seed)
                if not path.exists():
                    path.write_text(json.dumps(train(method, ratio, seed, data, epochs, path.with_suffix(".onnx"))) + "\n")
                found = json.loads(path.read_text())
                print(f"{method:45} {ratio} seed {seed}  {100 * found['accuracy']:.2f} %  {found['seconds']} s", flush=True)


def faster() -> dict[str, Any]:
    """How many times as fast as the dense network those of the last seed run are, from three runs of all of them in turns."""
    files: dict[tuple[str, float], Path] = {}
    for path in sorted(KEPT.glob("*.onnx"), key=lambda p: int(p.stem.rpartition("_")[2])):
        if (beside := path.with_suffix(".json")).exists():
            run = json.loads(beside.read_text())
            files[run["method"], run["ratio"]] = path
    dense = "dense", 1.0
    found: dict[str, Any] = {}
    for key, path in files.items():
        pairs = [time_files({"dense": files[dense], "it": path}, torch.randn(1, 3, 32, 32)) for _ in range(3)]
        found[f"{key[0]} {key[1]}"] = [Ratio.of(pair["dense"], pair["it"]).to_json() for pair in pairs]
    return found


def table(alone: bool) -> None:
    """Mean and spread of every method and ratio over the seeds that were run."""
    times = faster() if alone else {}
    runs: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for path in sorted(KEPT.glob("*.json")):
        found = json.loads(path.read_text())
        runs.setdefault((found["method"], found["ratio"]), []).append(found)
    rows = []
    for (method, ratio), found in sorted(runs.items(), key=lambda item: (item[0][1], item[0][0])):
        right = [100 * r["accuracy"] for r in found]
        rows.append({"method": method, "ratio": ratio, "accuracy": statistics.mean(right), "seeds": [r["seed"] for r in found],
                     "spread": statistics.stdev(right) if len(right) > 1 else None, "macs": found[0]["macs"],
                     "params": found[0]["params"], "fit": found[0]["fit"], "images": found[0]["images"],
                     "faster": times.get(f"{method} {ratio}"),
                     "val_before_training": statistics.mean(r["val_before_training"] for r in found)})  # fmt: skip
        speed = ", ".join(f"{r['median']:.2f}x" for r in rows[-1]["faster"] or ())
        print(
            f"{method:45} {ratio}x  {rows[-1]['accuracy']:.2f} ± {rows[-1]['spread'] or 0:.2f}  {rows[-1]['macs']:,}  {speed}"
        )
    result = {"rows": rows, "hardware": hardware(), "versions": versions()}
    path = ROOT / "bench/results/channels.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(path.relative_to(ROOT))


def main() -> None:
    """Run or tabulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("methods", nargs="*")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--images", type=int, default=0, help="training images; 0 takes all")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--ratios", nargs="+", type=float, default=RATIOS)
    parser.add_argument("--alone", action="store_true")
    options = parser.parse_args()
    if options.what == "table":
        table(options.alone)
        return
    if importlib.util.find_spec("torch_pruning") is None:
        there = ROOT / ".bench-venv/bin/python"
        if not there.exists() or sys.prefix == str(ROOT / ".bench-venv"):
            sys.exit("torch-pruning is not installed; run `make bench-peers`")
        os.execv(there, [str(there), *sys.argv])
    run(options)


if __name__ == "__main__":
    main()
