"""Rounding with the rate in mind against nncodec, the standard's own coder: accuracy against bytes, no training on either side.

    python bench/compact.py [resnet20] [resnet56] [--images N] [--side SIDE] [--steps S ...] [--qps Q ...]
    writes bench/results/compact.json

Both start from the same float weights. nncodec: dependent quantization and parameter optimization on, over its main step
(qp), with its rule for steps of single layers (opt_qp) off and on, on the network as it is and with its batch norms folded by
us; its bitstream alone is counted. Ours: the whole `.lil` file of `quant.rate`, which sees 512 training images. Accuracy is
that on the validation split (or its first N images); the test split is not read. For every point of nncodec's front that loses
at most one point, the smallest of our files that is at most 0.05 points less accurate, and how many fewer bytes it has; and,
because accuracy on some thousand images is noisy, the same for the divergence of the answers from those of the float network,
read off the line between our points. `--side`, `--starts`, `--steps` and `--qps` measure some rows anew, and keep the others.

Runs where the peers are (`make bench-peers`), and starts itself again there. Needs
$LILLIPUT_WEIGHTS/resnet20-cifar10.safetensors, resnet56-cifar10.safetensors, and CIFAR-10 where `lilliput data` finds it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import lilliput as lp
from lilliput.core.fold import fold
from lilliput.core.method import First, Look
from lilliput.data import open_task
from lilliput.measure import hardware, versions
from lilliput.opening import open_model
from lilliput.quant.rate import RateQuantize
from lilliput.store import load, save

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "bench/results/compact.json"
QPS = (-14, -16, -18, -20, -22, -24, -26, -28, -30, -32)
STEPS = (
    0.0007,
    0.0008,
    0.0009,
    0.001,
    0.0011,
    0.0012,
    0.0013,
    0.0014,
    0.0016,
    0.0018,
    0.002,
    0.0023,
    0.0027,
    0.0033,
    0.004,
    0.005,
)
SIDES = ("lilliput", "nncodec")
SAME = 0.05  # points of accuracy that count as equal
WORST = 1.0  # points of accuracy that a file may lose to be compared at all


class Judge:
    """Accuracy on validation images, and how far the answers are from those of the float network."""

    def __init__(self, model: nn.Module, batches: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.batches = batches
        self.truth = self._answers(model)

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Accuracy in percent, and the mean divergence in nats."""
        found = self._answers(model)
        labels = torch.cat([y for _, y in self.batches])
        right = (found.argmax(1) == labels).double().mean()
        divergence = (self.truth.exp() * (self.truth - found)).sum(1).double().mean()
        return {"accuracy": 100 * float(right), "divergence": float(divergence)}

    def _answers(self, model: nn.Module) -> Tensor:
        model = model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.no_grad():
            return torch.cat([model(x.contiguous(memory_format=torch.channels_last)) for x, _ in self.batches]).log_softmax(1)


def theirs(starts: dict[str, nn.Module], judge: Judge, qps: Sequence[int]) -> Iterator[dict[str, Any]]:
    """nncodec over its main step."""
    operators = torch.library.Library("torchvision", "DEF")  # without which torchvision, which it imports, does not load here
    for name in ("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
                 "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"):  # fmt: skip
        with contextlib.suppress(RuntimeError):
            operators.define(name)
    from nncodec.nn import decode, encode

    for which, start in starts.items():
        state = {k: v.numpy() for k, v in start.state_dict().items() if v.is_floating_point()}
        for opt_qp in (False, True):
            for qp in qps:
                args = {"qp": qp, "use_dq": True, "param_opt": True, "opt_qp": opt_qp, "verbose": False,
                        "results": tempfile.gettempdir()}  # fmt: skip
                with contextlib.redirect_stdout(io.StringIO()):
                    stream = encode(dict(state), args)
                    back = decode(stream)
                again = lp.perform(start, [])
                again.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in back.items()}, strict=False)
                yield {"who": "nncodec", "network": which, "qp": qp, "opt_qp": opt_qp, "bytes": len(stream)} | judge(again)


def ours(model: nn.Module, look: Look, judge: Judge, steps: Sequence[float]) -> Iterator[dict[str, Any]]:
    """Whole files over the step; the curvature is seen once."""
    method = RateQuantize()
    plan = lp.perform(model, method.plan(model, look))
    seen = method.seen(plan, method.sites(lp.perform(model, fold(model, look.example))), look)
    with tempfile.TemporaryDirectory() as folder:
        for step in steps:
            after = lp.perform(plan, [])
            method.round(after, seen, step)
            size = save(after, Path(folder) / "net.lil")
            yield {"who": "lilliput", "step": step, "bytes": size} | judge(load(Path(folder) / "net.lil"))


def named(row: dict[str, Any]) -> tuple[Any, ...]:
    """What a row is a measurement of."""
    return tuple(row.get(key) for key in ("who", "network", "qp", "opt_qp", "step"))


def front(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that no smaller row is as accurate as."""
    best, kept = -1.0, []
    for row in sorted(rows, key=lambda r: (r["bytes"], -r["accuracy"])):
        if row["accuracy"] > best:
            best = row["accuracy"]
            kept.append(row)
    return kept


def compared(rows: Sequence[dict[str, Any]], float_accuracy: float) -> list[dict[str, Any]]:
    """For every point of nncodec's front that is close to the float network, the smallest of our files that equals it."""
    found = []
    for row in front([r for r in rows if r["who"] == "nncodec"]):
        if row["accuracy"] < float_accuracy - WORST:
            continue
        equal = [r for r in rows if r["who"] == "lilliput" and r["accuracy"] >= row["accuracy"] - SAME]
        best = min(equal, key=lambda r: r["bytes"], default=None)
        found.append({"nncodec": row, "lilliput": best, "fewer": 1 - best["bytes"] / row["bytes"] if best else None})
    return found


def at_divergence(rows: Sequence[dict[str, Any]], pairs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For the same points of nncodec, our bytes at the same divergence, on the line between two points (in logarithms)."""
    mine = sorted((math.log(r["divergence"]), math.log(r["bytes"])) for r in rows if r["who"] == "lilliput")
    found = []
    for row in (pair["nncodec"] for pair in pairs):
        x = math.log(row["divergence"])
        for (x0, y0), (x1, y1) in pairwise(mine):
            if x0 <= x <= x1:
                size = math.exp(y0 + (y1 - y0) * (x - x0) / max(1e-9, x1 - x0))
                found.append({"nncodec": row, "bytes": round(size), "fewer": 1 - size / row["bytes"]})
    return found


def measured(name: str, task: lp.Task, options: argparse.Namespace, kept: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The result for one network, again after every row."""
    weights = Path(os.environ.get("LILLIPUT_WEIGHTS", ".")) / f"{name}-cifar10.safetensors"
    model = open_model(name, weights=str(weights)).eval()
    judge = Judge(model, list(First(task.batches("val", 250), options.images)))
    look = Look(task.example(), task.drawn(), task.loss)
    truth = judge(model)["accuracy"]
    print(f"{name}: {sum(p.numel() for p in model.parameters()):,} parameters, {truth:.2f} % in floats", flush=True)
    rows = list(kept)
    starts = {"as it is": model, "folded": lp.perform(model, fold(model, look.example))}
    sides = {
        "lilliput": lambda: ours(model, look, judge, options.steps),
        "nncodec": lambda: theirs({name: starts[name] for name in options.starts}, judge, options.qps),
    }
    for side in options.side:
        for row in sides[side]():
            rows = [*(old for old in rows if named(old) != named(row)), row]
            said = ", ".join(f"{k} {v}" for k, v in row.items() if k in ("network", "qp", "opt_qp", "step"))
            numbers = f"{row['bytes']:9,} bytes  {row['accuracy']:.2f} %  {row['divergence']:.5f}"
            print(f"  {row['who']:9} {said:36} {numbers}", flush=True)
            pairs = compared(rows, truth)
            yield {
                "images": options.images, "float_accuracy": truth, "rows": rows, "compared": pairs,
                "at_equal_divergence": at_divergence(rows, pairs),
            }  # fmt: skip


def tell(result: dict[str, Any]) -> None:
    """The comparisons, a line each."""
    for pair in result["compared"]:
        mine, fewer = pair["lilliput"], pair["fewer"]
        text = (
            f"{mine['bytes']:,} bytes at {mine['accuracy']:.2f} %: {fewer:.0%} fewer" if mine else "no file of ours as accurate"
        )
        print(f"  nncodec {pair['nncodec']['bytes']:,} bytes at {pair['nncodec']['accuracy']:.2f} %; {text}", flush=True)
    for pair in result["at_equal_divergence"]:
        row = pair["nncodec"]
        print(
            f"  nncodec {row['bytes']:,} bytes, {row['divergence']:.5f} off; {pair['bytes']:,} bytes: {pair['fewer']:.0%} fewer"
        )


def options_of(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """What to measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=["resnet20", "resnet56"])
    parser.add_argument("--images", type=int, default=5000, help="validation images")
    parser.add_argument("--side", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--starts", nargs="+", choices=("as it is", "folded"), default=("as it is", "folded"))
    parser.add_argument("--steps", nargs="+", type=float, default=STEPS)
    parser.add_argument("--qps", nargs="+", type=int, default=QPS)
    return parser.parse_args(argv)


def main() -> None:
    """Every network, written after every row."""
    options = options_of()
    if importlib.util.find_spec("nncodec") is None:
        there = ROOT / ".bench-venv/bin/python"
        if not there.exists() or sys.prefix == str(ROOT / ".bench-venv"):
            sys.exit("nncodec is not installed; run `make bench-peers`")
        os.execv(there, [str(there), *sys.argv])
    torch.set_num_threads(1)
    task = open_task("cifar10")
    for name in options.networks:
        before = stored().get(name, {})
        kept = before.get("rows", []) if before.get("images") == options.images else []
        result: dict[str, Any] = {}
        for result in measured(name, task, options, kept):
            store(name, result)
        tell(result)
    print(RESULT.relative_to(ROOT))


def stored() -> dict[str, Any]:
    """What was measured before, by network."""
    return json.loads(RESULT.read_text())["networks"] if RESULT.exists() else {}


def store(name: str, result: dict[str, Any]) -> None:
    """Beside the other networks' results."""
    known = {"hardware": hardware(), "versions": versions() | {"nncodec": version("nncodec")}}
    RESULT.write_text(json.dumps({"networks": stored() | {name: result}} | known, indent=1) + "\n")


if __name__ == "__main__":
    main()
