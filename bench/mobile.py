"""The efficient architectures of the zoo trained small: accuracy against cost, and what three of their ideas are worth.

    python bench/mobile.py train [NAME...]   trains what is not trained yet (out/mobile), one network and seed after the other
    python bench/mobile.py table             profiles and times them, alone on the machine; writes bench/results/mobile.json

Every network sees the same images in the same schedule. The pairs differ in one thing: the channel shuffle (Zhang et al.
2017), the linear end of the bottleneck (Sandler et al. 2018), learned instead of fixed shifts (Hacene et al. 2019). Test
accuracy of the last epoch; nothing is chosen on it. Needs CIFAR-10 where `lilliput data` finds it.
"""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import lilliput as lp
from lilliput.data import open_task
from lilliput.data.splits import carve
from lilliput.export import export
from lilliput.measure import hardware, time_files, versions
from lilliput.measure.accuracy import accuracy
from lilliput.train import Fit, fit
from lilliput.zoo.shift import ShiftAttention, freeze

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "out/mobile"
IMAGES, EPOCHS, BATCH = 20_000, 3, 64
HOT, HARD = 50.0, 0.5  # the temperature at which a softmax over nine positions is one-hot, and when training gets there
SCHEDULE = (
    f"Batch {BATCH}, one cycle, learning rate 0.1; 0.02 for SqueezeNet, whose classifier ends in a ReLU; for the pair of "
    "shifts chosen on validation with seed 0 (0.2 for fixed ones, 0.8 for learned ones, whose soft kernels learn more slowly)."
)


@dataclass(frozen=True)
class Row:
    """A network of the table; those with an idea are compared with their partner."""

    label: str
    spec: str
    idea: str = ""
    lr: float = 0.1
    seeds: tuple[int, ...] = (0,)
    epochs: int = EPOCHS


THREE = (0, 1, 2)
SHUFFLE, NONE = "shufflenet_v1_32:width=0.25,groups=8", "shufflenet_v1_32:width=0.25,groups=8,shuffle=false"
NARROW, NARROW_NONE = SHUFFLE.replace("0.25", "0.125"), NONE.replace("0.25", "0.125")
LEARNED, FIXED = "shift_attention_resnet20:width=0.5", "shift_attention_resnet20:width=0.5,frozen=true"
LINEAR, RELU = "mobilenet_v2_32:width=0.25", "mobilenet_v2_32:width=0.25,linear=false"
ROWS = {
    "shuffle": Row("ShuffleNetV1 0.25, 8 groups", SHUFFLE, "shuffle, with", seeds=THREE),
    "no_shuffle": Row("the same without the shuffle", NONE, "shuffle, without", seeds=THREE),
    "longer": Row("ShuffleNetV1 0.25, 8 groups, 10 epochs", SHUFFLE, "shuffle (longer), with", epochs=10),
    "longer_no": Row("the same without the shuffle, 10 epochs", NONE, "shuffle (longer), without", epochs=10),
    "narrow": Row("ShuffleNetV1 0.125, 8 groups", NARROW, "shuffle (narrow), with"),
    "narrow_no": Row("the same without the shuffle", NARROW_NONE, "shuffle (narrow), without"),
    "linear": Row("MobileNetV2 0.25, linear bottleneck", LINEAR, "linear, with", seeds=THREE),
    "relu": Row("the same with ReLU6 in the bottleneck", RELU, "linear, without", seeds=THREE),
    "learned": Row("ResNet-20 (half as wide), learned shifts", LEARNED, "learned, with", 0.8, THREE),
    "fixed": Row("the same with fixed shifts", FIXED, "learned, without", 0.2, THREE),
    "effnet": Row("EffNet", "effnet"),
    "mobilenet_v1": Row("MobileNetV1 0.25", "mobilenet_v1_32:width=0.25"),
    "shufflenet_v2": Row("ShuffleNetV2 0.5", "shufflenet_v2_32:width=0.5"),
    "squeezenet": Row("SqueezeNet 1.1 with batch norm", "squeezenet_32:norm=true", lr=0.02),
    "ghostnet": Row("GhostNet 0.3", "ghostnet_32:width=0.3"),
    "resnet20": Row("ResNet-20, for comparison", "resnet20"),
}


def task() -> lp.Task:
    """A stratified part of CIFAR-10's training images; all test images."""
    whole = open_task("cifar10")
    _, part = carve(whole.train.labels, IMAGES / len(whole.train), 0)
    return lp.Task(whole.train.subset(part), whole.test, whole.val, name="cifar10, part")


def deployed(model: nn.Module) -> nn.Module:
    """What would be shipped: learned shifts become shifts."""
    return freeze(model) if any(isinstance(m, ShiftAttention) for m in model.modules()) else model


def train(name: str, seed: int, data: lp.Task) -> dict[str, Any]:
    """One network from scratch; the last epoch, on test."""
    row = ROWS[name]
    torch.manual_seed(seed)
    model = lp.zoo.create(row.spec)
    for layer in model.modules():
        if isinstance(layer, ShiftAttention):
            layer.growth = HOT ** (1 / (HARD * row.epochs * (len(data.train) // BATCH)))
    plan = Fit(epochs=row.epochs, batch_size=BATCH, lr=row.lr)
    done = fit(model, data, plan, seed=seed)
    soft = accuracy(done.model, data.batches("test", 500)).value
    hard = accuracy(deployed(done.model), data.batches("test", 500)).value
    return {"name": name, "seed": seed, "accuracy": hard, "before_freezing": soft, "fit": plan.text(),
            "val_accuracy": done.history[-1]["val_accuracy"], "train_loss": done.history[-1]["train_loss"],
            "seconds": round(sum(e["seconds"] for e in done.history), 1)}  # fmt: skip


def train_all(names: list[str]) -> None:
    """Everything that is not there yet."""
    data = task()
    KEPT.mkdir(parents=True, exist_ok=True)
    todo = [(name, seed) for seed in (0, 1, 2) for name in names or ROWS if seed in ROWS[name].seeds]
    for name, seed in todo:
        path = KEPT / f"{name}_{seed}.json"
        if not path.exists():
            path.write_text(json.dumps(train(name, seed, data)) + "\n")
        found = json.loads(path.read_text())
        print(f"{name:14} seed {seed}  {100 * found['accuracy']:.2f} %  {found['seconds']} s", flush=True)


def costs(folder: Path) -> dict[str, dict[str, Any]]:
    """Parameters, multiply-adds and milliseconds of every network, timed against each other in one run."""
    models = {name: deployed(lp.zoo.create(row.spec).eval()) for name, row in ROWS.items()}
    example = torch.zeros(1, 3, 32, 32)
    files = {name: export(model, example, folder / f"{name}.onnx").path for name, model in models.items()}
    times, counted = time_files(files, example), {name: lp.profile(model, example) for name, model in models.items()}
    return {
        name: {"params": counted[name].params, "macs": counted[name].macs, "latency_ms": times[name].to_json()}
        for name in models
    }


def ideas(runs: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Each pair by seed: points of accuracy that the idea is worth."""
    found = []
    for idea in dict.fromkeys(row.idea.split(",")[0] for row in ROWS.values() if row.idea):
        sides = [next(n for n, r in ROWS.items() if r.idea == f"{idea}, {side}") for side in ("with", "without")]
        gains = [100 * (a["accuracy"] - b["accuracy"]) for a, b in zip(*(runs[s] for s in sides), strict=True)]
        found.append({"idea": idea, "points": gains, "mean": statistics.mean(gains),
                      "spread": statistics.stdev(gains) if len(gains) > 1 else None})  # fmt: skip
    return found


def table() -> None:
    """Everything in one table."""
    runs = {name: [json.loads((KEPT / f"{name}_{seed}.json").read_text()) for seed in row.seeds] for name, row in ROWS.items()}
    KEPT.mkdir(parents=True, exist_ok=True)
    cost = costs(KEPT)
    rows = []
    for name, row in ROWS.items():
        right = [100 * r["accuracy"] for r in runs[name]]
        spread = statistics.stdev(right) if len(right) > 1 else None
        rows.append({"name": name, "label": row.label, "spec": row.spec, "accuracy": statistics.mean(right),
                     "spread": spread, "seeds": list(row.seeds), "fit": runs[name][0]["fit"], **cost[name]})  # fmt: skip
    rows.sort(key=lambda r: r["macs"])
    result = {"data": f"CIFAR-10, {IMAGES:,} training images, {EPOCHS} epochs unless said, the last one on test",
              "schedule": SCHEDULE,
              "rows": rows, "ideas": ideas(runs), "hardware": hardware(), "versions": versions()}  # fmt: skip
    path = ROOT / "bench/results/mobile.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    for r in rows:
        spread = "" if r["spread"] is None else f" ± {r['spread']:.2f}"
        cost = f"{r['params']:>9,} {r['macs'] / 1e6:6.1f} M {r['latency_ms']['median']:6.3f} ms"
        print(f"{r['label']:42} {cost}  {r['accuracy']:.2f}{spread}")
    for i in result["ideas"]:
        print(f"{i['idea']:18} {i['mean']:+.2f} points, by seed {[round(p, 2) for p in i['points']]}")
    print(path.relative_to(ROOT))


def main() -> None:
    """Train or tabulate."""
    match sys.argv[1:]:
        case ["train", *names]:
            train_all(names)
        case ["table"]:
            table()
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
