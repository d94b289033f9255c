"""Integer networks on ExecuTorch with XNNPACK: whether four programs agree, accuracies, bytes, which operators are integers.

    python bench/phone.py [--data cifar10] [--nets resnet20] [--split test] [--seconds 20]

Needs ExecuTorch, which `make test-phone` puts into .phone-venv, and $LILLIPUT_WEIGHTS/NAME-cifar10.safetensors. The network
after `quant.Quantize` with its defaults, on the same images, through PyTorch's simulation, PyTorch in integers
(`quant.integers`), ONNX Runtime and ExecuTorch, which takes one image at a time. Agreement is the share of images that two
programs give the same class, "equal" the share of outputs that are the same within 1e-5 of the largest, which is less than a
level. Float and integer files are timed in turns, on one thread. MobileNetV2 is exported with random weights, to see which
operators become integers. Writes bench/results/phone.json. Run it alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import lilliput as lp
from lilliput.core.method import Look
from lilliput.data import Task, open_task
from lilliput.export import export, onnx, pte
from lilliput.measure import hardware, time_exports, versions
from lilliput.quant import Quantize, integers

ROOT = Path(__file__).parent.parent
WEIGHTS = Path(os.environ.get("LILLIPUT_WEIGHTS", "."))
SEED = 0
Predict = Callable[[Tensor], Tensor]


def outputs(predict: Predict, task: Task, split: str) -> Tensor:
    """What one program says to every image, (images, classes)."""
    with torch.no_grad():
        return torch.cat([predict(x) for x, _ in task.batches(split, 250)])


def agreement(found: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """For every two programs: the share of images with the same class, of equal outputs, and the largest difference."""
    table = {}
    for one, other in combinations(found, 2):
        largest = float(found[one].abs().max())
        error = (found[one] - found[other]).abs() / largest
        same = (found[one].argmax(1) == found[other].argmax(1)).double().mean()
        equal = (error <= 1e-5).double().mean()
        table[f"{one}, {other}"] = {"top1": float(same), "equal": float(equal), "largest": float(error.max())}
    return table


def operators(done: Any) -> dict[str, Any]:
    """What an export says of itself."""
    return {"bytes": done.bytes, "max_error": done.max_error, "integer": done.integer_nodes, "floats": done.float_nodes}


def measure(net: str, task: Task, arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything of one trained network."""
    model = lp.zoo.create(net)
    model.load_state_dict(load_file(WEIGHTS / f"{net}-cifar10.safetensors"))
    model.eval()
    one = task.example()
    quantized = Quantize()(model, Look(one, task.calibration(256), task.loss, SEED)).eval()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        exports = {f"{kind} {suffix}": export(each, one, folder / f"{kind}.{suffix}")
                   for suffix in ("pte", "onnx") for kind, each in (("float", model), ("int8", quantized))}  # fmt: skip
        files = {kind: done.path for kind, done in exports.items()}
        programs: dict[str, Predict] = {
            "simulation": quantized, "integers": integers(quantized, one), "onnxruntime": onnx.predictor(files["int8 onnx"]),
            "executorch": pte.predictor(files["int8 pte"]),
        }  # fmt: skip
        found = {name: outputs(predict, task, arguments.split) for name, predict in programs.items()}
        floats = {"float": outputs(model, task, arguments.split),
                  "executorch float": outputs(pte.predictor(files["float pte"]), task, arguments.split)}  # fmt: skip
        times = time_exports(files, one, seconds=arguments.seconds)
    labels = torch.cat([y for _, y in task.batches(arguments.split, 250)])
    scores = {name: float((said.argmax(1) == labels).double().mean()) for name, said in {**floats, **found}.items()}
    return {"images": len(labels), "accuracy": scores, "agreement": agreement(found),
            "files": {kind: operators(done) for kind, done in exports.items()},
            "latency_ms": {kind: time.to_json() for kind, time in times.items()}}  # fmt: skip


def untrained(net: str) -> dict[str, Any]:
    """Which operators of a network with random weights become integers."""
    torch.manual_seed(SEED)
    model: nn.Module = lp.zoo.create(net).eval()
    x = torch.randn(16, *model.input_shape)  # type: ignore[arg-type]
    quantized = Quantize()(model, Look(x[:1], [(x, torch.zeros(16, dtype=torch.long))], None, SEED))
    with tempfile.TemporaryDirectory() as folder:
        return operators(export(quantized, x[:1], Path(folder) / "net.pte"))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--nets", nargs="+", default=["resnet20"])
    parser.add_argument("--split", default="test", choices=["val", "test"])
    parser.add_argument("--seconds", type=float, default=20.0)
    arguments = parser.parse_args()
    if find_spec("executorch") is None:
        there = ROOT / ".phone-venv/bin/python"
        if not there.exists() or sys.prefix == str(ROOT / ".phone-venv"):
            sys.exit("executorch is not installed; run `make test-phone`")
        os.execv(there, [str(there), *sys.argv])
    task = open_task(arguments.data, seed=SEED)
    nets = {net: measure(net, task, arguments) for net in arguments.nets}
    islands = {net: untrained(net) for net in ("mobilenet_v2_32",)}
    for net, row in nets.items():
        print(net, {k: round(100 * v, 2) for k, v in row["accuracy"].items()})
        for pair, each in row["agreement"].items():
            print(f"  {pair:28} same class {each['top1']:.4%}, equal {each['equal']:.4%}, at most {each['largest']:.2g} apart")
        for kind, done in row["files"].items():
            print(f"  {kind}: {done['bytes']:,} bytes, integer {done['integer']}, floats {done['floats']}")
        for kind, time in row["latency_ms"].items():
            print(f"  {kind}: {time['median']:.3f} ms ({time['p10']:.3f} to {time['p90']:.3f})")
    for net, done in islands.items():
        print(f"{net}, random weights: integer {done['integer']}, floats {done['floats']}")
    installed = versions() | {"executorch": version("executorch")}
    facts = {"hardware": hardware(), "versions": installed, "split": arguments.split, "seed": SEED}
    out = ROOT / "bench" / "results" / "phone.json"
    out.write_text(json.dumps({**facts, "nets": nets, "untrained": islands}, indent=1) + "\n")


if __name__ == "__main__":
    main()
