"""What can be seen of a candidate before it is trained, and how well that foretells what it is worth afterwards.

    python bench/proxies.py plan          the candidates of every budget; alone on the machine, since it measures milliseconds
    python bench/proxies.py train         one fit each; several processes share the list
    python bench/proxies.py table         writes bench/results/proxies.json

    --images 7000 --epochs 1 --network resnet20

ResNet-20 on CIFAR-10. For every latency in `LATENCIES` each family of the search gives the amount that just meets it, in floats
and in integers, as `lilliput compress --hours` plans them. Each learns from the whole network as in the first rung of a search,
and is read on test. Kendall's tau-b compares the order of a proxy with the order of these accuracies, within one budget.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from distill import cifar, trained
from scipy.stats import kendalltau
from stored import once
from torch import nn

from lilliput.clock import Clock
from lilliput.measure import hardware, profile, versions
from lilliput.measure.accuracy import accuracy
from lilliput.recipe import Bench, Recipe, look, run
from lilliput.search.budget import Budget
from lilliput.search.candidates import Candidate
from lilliput.search.planning import Planner
from lilliput.search.remembered import Remembered
from lilliput.train import Fit

ROOT = Path(__file__).parent.parent
LATENCIES = ("0.8x", "0.6x", "0.4x")
SEEN = 1000  # training images that the proxies look at


def kept(args: argparse.Namespace) -> Path:
    """Where the parts lie."""
    return ROOT / "out/proxies" / f"{args.network}_{args.images}_{args.epochs}"


def bench_of(args: argparse.Namespace) -> Bench:
    """Data and store."""
    return Bench(cifar(args.images), kept(args) / "store")


def plan(args: argparse.Namespace) -> None:
    """What every budget's families come to, and what is seen of each before any training."""
    model, bench = trained(args.network), bench_of(args)
    looked = look(bench)
    clock = Remembered(Clock(looked.example, threads=1), kept(args) / "times.json")
    found = []
    for latency in LATENCIES:
        planner = Planner(model, bench, Budget.read(latency=latency), clock, print)
        for candidate in planner.plan().candidates:
            small = run(model, Recipe(candidate.shape), bench).model
            found.append({"latency": latency, "candidate": candidate.to_json(), "seen": seen(model, small, candidate, bench)})
    (kept(args) / "plan.json").write_text(json.dumps(found, indent=2) + "\n")


@torch.no_grad()
def seen(model: nn.Module, small: nn.Module, candidate: Candidate, bench: Bench) -> dict[str, float]:
    """The proxies; more is better in all of them."""
    task = bench.task
    x = torch.cat([x for x, _ in task.batches("train", SEEN)][:1])
    said, wanted = small.eval()(x), model.eval()(x)
    counted, whole = profile(small, task.example()), profile(model, task.example())
    share = torch.nn.functional.kl_div(said.log_softmax(1), wanted.log_softmax(1), log_target=True, reduction="batchmean")
    return {
        "multiply-adds kept": counted.macs / whole.macs, "parameters kept": counted.params / whole.params,
        "accuracy before training": candidate.accuracy or 0.0, "divergence of the answers": -float(share),
        "error of the logits": -float((said - wanted).square().sum() / wanted.square().sum()),
    }  # fmt: skip


def train(args: argparse.Namespace) -> None:
    """Each candidate once."""
    model, bench = trained(args.network), bench_of(args)
    fit = Fit(precision="bf16-mixed", batch_size=128, cache_teacher=True)
    for number, each in enumerate(json.loads((kept(args) / "plan.json").read_text())):
        candidate = Candidate.from_json(each["candidate"])
        batches = len(bench.task.train) // fit.batch_size

        def work(candidate: Candidate = candidate, batches: int = batches) -> dict[str, Any]:
            small = run(model, Recipe(candidate.steps([args.epochs], fit, batches)), bench).model
            for method in candidate.end.then:
                small = method(small, look(bench))
            return {"accuracy": 100 * accuracy(small, bench.task.batches("test", 250)).value}

        once(kept(args) / "trained", {"number": number}, work)


def table(args: argparse.Namespace) -> None:
    """Taus, by proxy: one a budget and their mean."""
    planned = json.loads((kept(args) / "plan.json").read_text())
    rows = [
        {"latency": each["latency"], "name": Candidate.from_json(each["candidate"]).title, "ratio": each["candidate"]["ratio"],
         **each["seen"], **json.loads((kept(args) / f"trained/{number}.json").read_text())}
        for number, each in enumerate(planned) if (kept(args) / f"trained/{number}.json").exists()
    ]  # fmt: skip
    for row in rows:
        print(f"{row['latency']}  {row['name']:32} {row['ratio']:.2f}x  {row['accuracy']:.2f} %")
    ranks = []
    for name in planned[0]["seen"]:
        taus = {latency: tau([r for r in rows if r["latency"] == latency], name) for latency in LATENCIES}
        ranks.append({"proxy": name, "taus": taus, "mean": statistics.mean(taus.values())})
        print(f"{name:28} {ranks[-1]['mean']:+.2f}  ({', '.join(f'{t:+.2f}' for t in taus.values())})")
    result = {"network": args.network, "images": args.images, "epochs": args.epochs, "seed": 0, "proxies": ranks, "rows": rows,
              "hardware": hardware(), "versions": versions()}  # fmt: skip
    (ROOT / "bench/results/proxies.json").write_text(json.dumps(result, indent=2) + "\n")


def tau(rows: list[dict[str, Any]], name: str) -> float:
    """Kendall's tau-b between a proxy and the accuracy after training."""
    return float(kendalltau([r[name] for r in rows], [r["accuracy"] for r in rows]).statistic)


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {"plan": plan, "train": train, "table": table}


def main() -> None:
    """One part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--images", type=int, default=7000)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--network", default="resnet20")
    args = parser.parse_args()
    PARTS[args.part](args)


if __name__ == "__main__":
    main()
