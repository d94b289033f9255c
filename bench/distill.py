"""What a teacher is worth: every loss on one task, soft targets on 3 % of the data, recovery after compression, overhead.

    python bench/distill.py losses [NAME...]   CIFAR-10, ResNet-56 teaches a ResNet-20 that is 4x thinner, from scratch;
                                               --students full: ResNet-20 from its weights, for a third of the epochs
    python bench/distill.py little             Fashion-MNIST, 3 % of the images (Hinton et al. 2015, section 4.1)
    python bench/distill.py after              recovery after pruning at 2.6x, 2 bits and factorization at 2x
    python bench/distill.py overhead           seconds of a Fit with and without a teacher; run it alone on the machine
    python bench/distill.py table              writes bench/results/distill.json from what is there

    --seeds 0,1,2  --epochs 6  --images 20000  --students thin,full  --precision bf16-mixed

Every run is a file in out/distill/<settings>; what is there is not done again, a run that was stopped goes on from its last
epoch, and several processes share the list. Within a part all runs see the same images in the same order for the same epochs,
but for second stages, whose epochs are others; accuracy is that of the last epoch, on the validation and the test split
together, and nothing is chosen on either; on test alone where weights are given, which were trained on the others. One seed of
all losses at a time, so that an early `table` is whole. Papers with two stages have a third of the epochs for the first. What
the teacher says is shared where it is small (KEEPS).
Weights are those of the papers' own comparisons for this pair where there are some. Needs $LILLIPUT_WEIGHTS and the data where
`lilliput data` finds it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from stored import claimed, written
from torch import nn

import lilliput as lp
from lilliput import distill, recipe
from lilliput.core.method import Method
from lilliput.data import open_task
from lilliput.data.splits import carve
from lilliput.errors import TrainError
from lilliput.factor import Factorize
from lilliput.measure import hardware, profile, versions
from lilliput.measure.accuracy import accuracy
from lilliput.opening import open_model
from lilliput.prune import Channels
from lilliput.quant import Quantize
from lilliput.train import BatchNorm, Fit, Fitted, fit

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "out/distill"
WEIGHTS = Path(os.environ.get("LILLIPUT_WEIGHTS", "."))

WARM = ((0.0, 0.0), (0.1, 1.0))
HINTON = distill.Hinton()
STANDARD = distill.Sum((distill.Standardized(distill.Hinton(temperature=2.0, alpha=1.0)),), (9.0,), hard=0.1)
LOSSES: dict[str, distill.Distillation | None] = {
    "none": None,
    "hinton": HINTON,
    "dkd": distill.Scheduled(distill.Dkd(beta=2.0), WARM),
    "dist": distill.Scheduled(distill.Dist(), WARM),
    "standardized": distill.Scheduled(STANDARD, WARM),
    "mutual": distill.Mutual(),
    "fitnets": HINTON,
    "at": distill.Attention(),
    "fsp": None,
    "sp": distill.Similarity(),
    "ft": distill.Factors(),
    "crd": distill.Contrast(),
    "reviewkd": distill.Scheduled(distill.Review(middle=16), WARM),
    "rkd_distance": distill.Distance(),
    "rkd_angle": distill.Angle(),
    "cc": distill.Correlation(),
    "hinton + at": distill.Sum((HINTON, distill.Attention()), hard=0.1),
    "hinton + crd": distill.Sum((HINTON, distill.Contrast()), hard=0.1),
    "hinton + sp": distill.Sum((HINTON, distill.Similarity()), hard=0.1),
}
# What is trained first, without labels, for a third of the epochs, in papers that have two stages.
FIRST = {"fitnets": distill.Hints(weight=10.0, hard=0.0), "fsp": distill.Flow(adapt=True, weight=1.0, hard=0.0)}
# Losses that look at outputs, the embedding or the last stage, so that what the teacher says is kept for the next of them.
KEEPS = {"hinton", "dkd", "dist", "standardized", "sp", "ft", "crd", "rkd_distance", "rkd_angle", "cc", "hinton + crd",
         "hinton + sp"}  # fmt: skip
STUDENTS = {"thin": "resnet20:width=0.25", "full": "resnet20"}

# The weights that come with a network were trained on what is the validation split here.
SEEN_BY_NONE = {"thin": ("val", "test"), "full": ("test",)}
VALUED = "on the validation and the test split together"

LITTLE = 0.03
LITTLE_NET = "resnet8:channels=1"
FULL = Fit(epochs=4, batch_size=128, lr=0.1)
LITTLE_FITS: dict[str, Fit] = {
    "hard labels": Fit(epochs=40, batch_size=64, lr=0.05),
    "soft targets": Fit(epochs=40, batch_size=64, lr=0.05, distill=distill.Hinton(temperature=2.0, alpha=0.9)),
    "soft targets, no labels": Fit(epochs=40, batch_size=64, lr=0.05, distill=distill.Hinton(temperature=2.0, alpha=1.0)),
}

EDGES = {"conv1": 8, "linear": 8}  # bits of the first layer and the last
AFTER: dict[str, tuple[Method, float]] = {
    "pruning, 2.6x fewer multiply-adds": (Channels(keep=0.62, criterion="l2"), 0.02),
    "2-bit weights and inputs": (
        Quantize(bits=2, activations=2, learn="lsq", norms="keep", widths=EDGES, input_widths=EDGES),
        0.02,
    ),
    "factorization, 2x fewer multiply-adds": (Factorize(method="tucker2", macs=0.5), 0.01),
}


def cifar(images: int) -> lp.Task:
    """A stratified part of CIFAR-10's training images; all others."""
    whole = open_task("cifar10")
    if not images or images >= len(whole.train):
        return whole
    _, part = carve(whole.train.labels, images / len(whole.train), 0)
    return lp.Task(whole.train.subset(part), whole.test, whole.val, augment=whole.augment, name="cifar10, part")


def trained(name: str, seed: int = 0) -> nn.Module:
    """A network with the weights it comes with."""
    return open_model(name, weights=WEIGHTS / f"{name}-cifar10.safetensors", seed=seed)


def score(model: nn.Module, data: lp.Task, splits: tuple[str, ...] = ("val", "test")) -> float:
    """Accuracy in percent on all images that no training sees: nothing is chosen on the validation split either."""
    right, images = 0.0, 0
    for split in splits:
        found = accuracy(model, data.batches(split, 500))
        right, images = right + found.value * len(data.split(split)), images + len(data.split(split))
    return 100 * right / images


def once(path: Path, make: Callable[[Path], dict[str, Any]]) -> None:
    """Run what is not in its file yet and not another process's; `make` gets a folder to keep unfinished work in."""
    if path.exists():
        return
    with claimed(path.with_suffix(".claim")) as mine:
        if not mine or path.exists():
            return
        begun = path.with_suffix(".begun")
        found = make(begun)
        written(path, json.dumps(found) + "\n")
        shutil.rmtree(begun, ignore_errors=True)
    print(f"{found['name']:40} seed {found['seed']}  {found['accuracy']:.2f} %  {found.get('seconds', 0):.0f} s", flush=True)


def row(
    name: str, seed: int, done: Any, data: lp.Task, splits: tuple[str, ...] = ("val", "test"), **more: Any
) -> dict[str, Any]:
    """What a run is worth."""
    return {"name": name, "seed": seed, "accuracy": score(done.model, data, splits), "history": done.history,
            "seconds": round(sum(e["seconds"] for e in done.history), 1), **more}  # fmt: skip


def trainings(name: str, student: str, asked: argparse.Namespace) -> list[Fit]:
    """The trainings of a loss, one behind the other: as many epochs in all for every one."""
    epochs, lr = (asked.epochs, 0.1) if student == "thin" else (max(2, asked.epochs // 3), 0.005)
    first = max(1, epochs // 3) if name in FIRST else 0
    plan = Fit(
        epochs=epochs - first, batch_size=128, lr=lr, distill=LOSSES[name], precision=asked.precision,
        cache_teacher=name in KEEPS,
    )  # fmt: skip
    return [*([replace(plan, epochs=first, distill=FIRST[name])] if first else []), plan]


def learned(model: nn.Module, data: lp.Task, plans: list[Fit], teacher: nn.Module, seed: int, folder: Path) -> Any:
    """A student after all of its trainings."""
    history: list[Any] = []
    for number, plan in enumerate(plans):
        drawn = seed + 1000 * number  # what a second stage sees is not what the first one saw
        done = fit(model, data, plan, teacher=teacher, seed=drawn, folder=folder / f"{number}", answers=KEPT / "answers")
        model, history = done.model, [*history, *done.history]
    return Fitted(model, history)


def losses(asked: argparse.Namespace) -> None:
    """Every loss on every student."""
    data, teacher = cifar(asked.images), trained("resnet56")
    for seed in asked.seeds:
        for student in asked.students:
            for name in asked.names or LOSSES:
                plans = trainings(name, student, asked)
                told = "; ".join(plan.text() for plan in plans)

                def make(
                    folder: Path, name: str = name, seed: int = seed, student: str = student, plans: list[Fit] = plans,
                    told: str = told,
                ) -> Any:  # fmt: skip
                    model = trained("resnet20") if student == "full" else open_model(STUDENTS[student], seed=seed)
                    peer = open_model(STUDENTS[student], seed=seed + 1000)  # a second student, as in the paper
                    one = peer if name == "mutual" and student == "thin" else teacher
                    told_of: dict[str, Any] = {"name": f"{student}, {name}", "seed": seed, "fit": told}
                    try:
                        done = learned(model, data, plans, one, seed, folder)
                    except TrainError as error:  # a result as well: what is left guesses
                        return {**told_of, "accuracy": 100 / data.classes, "diverged": str(error)}
                    return row(**told_of, done=done, data=data, splits=SEEN_BY_NONE[student])

                once(losses_at(asked) / student / f"{name.replace(' + ', '_')}_{digest(told)}_{seed}.json", make)


def digest(told: str) -> str:
    """A few letters for a training, so that a run of other options is another run."""
    return sha256(told.encode()).hexdigest()[:6]


def losses_at(asked: argparse.Namespace) -> Path:
    """Where the runs of these settings lie."""
    return KEPT / f"losses_{asked.images}_{asked.epochs}_{asked.precision}"


def little(asked: argparse.Namespace) -> None:
    """A teacher of all images, and three ways to learn from 3 % of them. All see what the teacher's normalisation gives."""
    whole, folder = open_task("fashion-mnist"), KEPT / "little"
    for seed in asked.seeds:
        weights = folder / f"teacher_{seed}.lil"

        def teach(begun: Path, seed: int = seed, weights: Path = weights) -> dict[str, Any]:
            done = fit(open_model(LITTLE_NET, seed=seed), whole, FULL, seed=seed, folder=begun)
            weights.parent.mkdir(parents=True, exist_ok=True)
            lp.save(done.model, weights)
            return row("all images, hard labels", seed, done, whole, fit=FULL.text(), images=len(whole.train))

        once(folder / f"teacher_{seed}.json", teach)
        if not weights.exists():  # another process is at it
            continue
        _, part = carve(whole.train.labels, LITTLE, seed)
        images = whole.train.subset(part)
        data = lp.Task(
            images, whole.test, whole.val, normalize=(whole.mean, whole.std), augment=whole.augment, name="fashion-mnist, 3 %"
        )
        for name, plan in LITTLE_FITS.items():

            def learn(begun: Path, name: str = name, plan: Fit = plan, seed: int = seed, data: lp.Task = data) -> Any:
                model, teacher = open_model(LITTLE_NET, seed=seed + 1000), lp.load(folder / f"teacher_{seed}.lil")
                done = fit(model, data, plan, teacher=teacher, seed=seed, folder=begun)
                return row(name, seed, done, data, fit=plan.text(), images=len(data.train))

            once(folder / f"{name.replace(' ', '_').replace(',', '')}_{digest(plan.text())}_{seed}.json", learn)


def after(asked: argparse.Namespace) -> None:
    """Each compression, then plain fine-tuning or learning from the network as it was."""
    data, start = cifar(asked.images), trained("resnet20")
    epochs = max(1, asked.epochs // 2)
    for seed in asked.seeds:
        for name, (method, lr) in AFTER.items():
            for how, loss in (("plain", None), ("distilled", HINTON)):
                plan = Fit(epochs=epochs, batch_size=128, lr=lr, distill=loss, precision=asked.precision)
                settle = () if isinstance(method, Quantize) else (BatchNorm(),)  # steps are learned from where they are
                steps = (method, *settle, plan)

                def make(begun: Path, name: str = name, how: str = how, seed: int = seed, steps: Any = steps) -> Any:
                    place = recipe.Bench(data, after_at(asked) / "store", seed)
                    made = recipe.run(start, recipe.Recipe(steps), place)
                    counted = profile(made.model, data.example())
                    return {"name": f"{name}, {how}", "compression": name, "how": how, "seed": seed,
                            "accuracy": score(made.model, data, ("test",)), "macs": counted.macs, "bytes": counted.bytes,
                            "steps": [s.text() for s in steps], "seconds": made.stages[-1].seconds}  # fmt: skip

                once(after_at(asked) / f"{name.split(',')[0].replace(' ', '_')}_{how}_{seed}.json", make)


def after_at(asked: argparse.Namespace) -> Path:
    """Where the runs of these settings lie."""
    return KEPT / f"after_{asked.images}_{max(1, asked.epochs // 2)}_{asked.precision}"


def overhead(asked: argparse.Namespace) -> None:
    """Fits of a few batches, interleaved: a ResNet-20 alone, with a ResNet-20 as teacher, with one that is remembered."""
    data, repeats = cifar(2560), 5
    student, teacher = (open_model("resnet20", seed=s) for s in (0, 1))
    plain, fixed = Fit(epochs=2, batch_size=128), Fit(epochs=2, batch_size=128, augment=False)
    ways = {"alone": plain, "alone, not augmented": fixed}
    for name in asked.names or LOSSES:
        if (loss := FIRST.get(name, LOSSES[name])) is not None:
            ways[name] = Fit(epochs=2, batch_size=128, distill=loss)
    ways["hinton, remembered"] = Fit(epochs=2, batch_size=128, augment=False, distill=HINTON, cache_teacher=True)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, plan in ways.items():
            seconds[name].append(fit(student, data, plan, teacher=teacher).history[-1]["seconds"])
    found = {}
    for name, times in seconds.items():
        beside = seconds["alone, not augmented" if name == "hinton, remembered" else "alone"]
        found[name] = {"seconds": times, "ratio": statistics.median(a / b for a, b in zip(times, beside, strict=True))}
        print(f"{name:24} {statistics.median(times):6.2f} s  {found[name]['ratio']:.2f}x")
    KEPT.mkdir(parents=True, exist_ok=True)
    what = "the second epoch of 20 batches of 128, ResNet-20 taught by ResNet-20; medians of the ratios of interleaved runs"
    result = {"what": what, "repeats": repeats, "ways": found, "hardware": hardware(), "versions": versions()}
    (KEPT / "overhead.json").write_text(json.dumps(result) + "\n")


def gathered(folder: Path, plans: set[str] | None = None) -> dict[str, dict[int, dict[str, Any]]]:
    """Every run below a folder, by name and seed; with `plans` only those that were trained so."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for path in sorted(folder.rglob("*.json")) if folder.exists() else ():
        if "store" not in path.parts and not path.parent.name.endswith(".begun"):
            one = json.loads(path.read_text())
            if plans is None or one["fit"] in plans:
                found.setdefault(one["name"], {})[one["seed"]] = one
    return found


def summary(runs: dict[str, dict[int, dict[str, Any]]], baseline: str | None = None) -> list[dict[str, Any]]:
    """One row a name: accuracies by seed, their mean and deviation, and points above a baseline of the same seeds."""
    rows = []
    for name, by_seed in runs.items():
        right = [by_seed[s]["accuracy"] for s in sorted(by_seed)]
        one: dict[str, Any] = {"name": name, "accuracy": statistics.mean(right), "by_seed": right, "seeds": sorted(by_seed),
                               "spread": statistics.stdev(right) if len(right) > 1 else None}  # fmt: skip
        one |= {k: v for k, v in by_seed[min(by_seed)].items() if k in ("fit", "macs", "bytes", "steps", "images")}
        one["diverged"] = sum("diverged" in run for run in by_seed.values())
        if baseline in runs:
            gains = [by_seed[s]["accuracy"] - runs[baseline][s]["accuracy"] for s in by_seed if s in runs[baseline]]
            one["points"] = statistics.mean(gains) if gains else None
        rows.append(one)
    return sorted(rows, key=lambda r: -r["accuracy"])


def table(asked: argparse.Namespace) -> None:
    """Everything that is there, in one file and on the screen."""
    data = (f"CIFAR-10, {asked.images:,} training images, batch 128, the last epoch. The thin student: {asked.epochs} epochs "
            f"from scratch, {VALUED}; the full one: {max(2, asked.epochs // 3)} epochs from its weights, on test")  # fmt: skip
    result: dict[str, Any] = {"losses": {"data": data, "students": {}}}
    for student in STUDENTS:
        plans = {"; ".join(plan.text() for plan in trainings(name, student, asked)) for name in LOSSES}
        runs = gathered(losses_at(asked) / student, plans)
        result["losses"]["students"][student] = summary(runs, f"{student}, none")
    runs = gathered(KEPT / "little", {plan.text() for plan in (FULL, *LITTLE_FITS.values())})
    few = f"Fashion-MNIST, {LITTLE:.0%} of the training images; {VALUED}"
    result["little"] = {"data": few, "rows": summary(runs, "hard labels"), "recovered": recovered(runs)}
    runs = gathered(after_at(asked))
    shorter = f"CIFAR-10, {asked.images:,} training images, {max(1, asked.epochs // 2)} epochs, ResNet-20; on test"
    result["after"] = {"data": shorter, "rows": [pair for name in AFTER for pair in compared(runs, name)]}  # fmt: skip
    if (KEPT / "overhead.json").exists():
        result["overhead"] = json.loads((KEPT / "overhead.json").read_text())
    result |= {"hardware": hardware(), "versions": versions()}
    path = ROOT / "bench/results/distill.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    rows = [*result["losses"]["students"]["thin"], *result["losses"]["students"]["full"], *result["little"]["rows"]]
    for r in rows:
        spread = "" if r["spread"] is None else f" ± {r['spread']:.2f}"
        points = "" if r.get("points") is None else f"  {r['points']:+.2f} points"
        print(f"{r['name']:40} {r['accuracy']:.2f}{spread}{points}  ({len(r['seeds'])} seeds)")
    for r in result["after"]["rows"]:
        print(f"{r['name']:40} plain {r['plain']:.2f}, distilled {r['distilled']:.2f}: {r['points']:+.2f} points")
    print(path.relative_to(ROOT))


def recovered(runs: dict[str, dict[int, dict[str, Any]]]) -> list[float]:
    """By seed, the share of what 3 % of the images lose with hard labels that soft targets win back."""
    names = ("all images, hard labels", "hard labels", "soft targets")
    seeds = sorted(set.intersection(*(set(runs.get(name, {})) for name in names)))
    right = [[runs[name][seed]["accuracy"] for name in names] for seed in seeds]
    return [(soft - hard) / (full - hard) for full, hard, soft in right]


def compared(runs: dict[str, dict[int, dict[str, Any]]], name: str) -> list[dict[str, Any]]:
    """The row of one compression, over the seeds that have both."""
    sides = [runs.get(f"{name}, {how}", {}) for how in ("plain", "distilled")]
    seeds = sorted(set(sides[0]) & set(sides[1]))
    if not seeds:
        return []
    plain, taught = ([side[s]["accuracy"] for s in seeds] for side in sides)
    one = sides[0][seeds[0]]
    return [{"name": name, "seeds": seeds, "plain": statistics.mean(plain), "distilled": statistics.mean(taught),
             "points": statistics.mean(taught) - statistics.mean(plain), "by_seed": {"plain": plain, "distilled": taught},
             "macs": one["macs"], "bytes": one["bytes"], "steps": sides[1][seeds[0]]["steps"]}]  # fmt: skip


PARTS = {"losses": losses, "little": little, "after": after, "overhead": overhead, "table": table}


def main() -> None:
    """One part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("names", nargs="*", help="losses to run; all by default")
    parser.add_argument("--seeds", type=lambda text: [int(s) for s in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--students", type=lambda text: text.split(","), default=["thin"])
    parser.add_argument("--precision", default="bf16-mixed", help="of training: bf16-mixed or 32")
    asked = parser.parse_args()
    for name in (n for n in asked.names if n not in LOSSES):
        parser.error(f"no loss is called `{name}`; there are {', '.join(LOSSES)}")
    for student in (s for s in asked.students if s not in STUDENTS):
        parser.error(f"no student is called `{student}`; there are {', '.join(STUDENTS)}")
    torch.manual_seed(0)
    PARTS[asked.part](asked)


if __name__ == "__main__":
    main()
