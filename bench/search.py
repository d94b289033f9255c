"""Budget in, network out: the search by hours.

    python bench/search.py resnet56 [--hours 1.5] [--workers 2]       100 kB, half the time, half a point; CIFAR-10
    python bench/search.py mobilenet [--hours 1] [--epochs 10]        250 kB, 0.6 of the time, one point; Fashion-MNIST
    python bench/search.py table                                      writes bench/results/search.json

Every part can be stopped and goes on where it was; runs lie in out/search. `resnet56` needs
$LILLIPUT_WEIGHTS/resnet56-cifar10.safetensors and CIFAR-10 where `lilliput data` finds it; bench/alone.py sets families alone
beside it. `mobilenet` trains its own first. Latencies are those of the run itself, measured in turns with the uncompressed
network: let nothing else run while it plans.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
MAIN = "resnet56"
POLL = 20.0  # seconds
KEPT, RESULT = ROOT / "out/search", ROOT / "bench/results/search.json"


def weights() -> list[str]:
    """Where the trained ResNet-56 is."""
    return ["--weights", str(Path(os.environ.get("LILLIPUT_WEIGHTS", ".")) / "resnet56-cifar10.safetensors")]


def resnet56(args: argparse.Namespace) -> list[str]:
    """The first bar."""
    budget = ["--size", "100kB", "--latency", "0.5x", "--max-drop", "0.5"]
    return ["resnet56", *weights(), "--data", "cifar10", *budget, "--hours", str(args.hours)]


def mobilenet(args: argparse.Namespace) -> list[str]:
    """The second bar, on a network trained here."""
    budget = ["--size", "250kB", "--latency", "0.6x", "--max-drop", "1", "--pretrain", str(args.epochs)]
    return ["mobilenet_v2_32:channels=1,width=0.5", "--data", "fashion-mnist", *budget, "--hours", str(args.hours)]


def search(name: str, command: list[str], args: argparse.Namespace) -> None:
    """One call of the command line in a process of its own, as users make it."""
    out = KEPT / name
    extra = ["--precision", "bf16-mixed", "--workers", str(args.workers), "--out", str(out)]
    code = [sys.executable, "-m", "lilliput", "compress", *command, *extra]
    out.mkdir(parents=True, exist_ok=True)
    kept = out / "asked.json"
    before = json.loads(kept.read_text())["seconds"] if kept.exists() else 0.0
    shown = [f"weights/{Path(word).name}" if word.startswith("/") else word for word in [*command, *extra[:-2]]]
    asked = {"command": f"lilliput compress {shlex.join(shown)} --out out/{name}", "hours": args.hours, "workers": args.workers}
    begun, done = time.perf_counter(), subprocess.Popen(code)
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            done.wait(POLL)
        seconds = round(before + time.perf_counter() - begun, 1)
        kept.write_text(json.dumps({**asked, "seconds": seconds}) + "\n")  # however it is stopped, its time counts
        if done.returncode is not None:
            break
    print(f"{name}: exit {done.returncode}, {out / 'report.html'}")


def table() -> None:
    """The verdict of every run that is there, and its front, beside those of runs whose folders are gone."""
    rows: dict[str, Any] = json.loads(RESULT.read_text())["runs"] if RESULT.exists() else {}
    for path in sorted(KEPT.glob("*/metrics.json")):
        metrics = json.loads(path.read_text())
        before, after = metrics["baseline"], metrics["compressed"]
        rows[path.parent.name] = {
            "bytes_before": before["file_bytes"], "bytes": after["file_bytes"],
            "onnx_before": before["onnx_bytes"], "onnx": after["onnx_bytes"],
            "ratio": after["latency_ms"]["median"] / before["latency_ms"]["median"],
            "accuracy": after["accuracy"], "accuracy_before": before["accuracy"], "failures": metrics["failures"],
            "budget": metrics["budget"], "front": metrics.get("front"), **json.loads((path.parent / "asked.json").read_text()),
            "recipe": (path.parent / "recipe.yaml").read_text(),
            "hardware": metrics["device"], "versions": metrics["versions"],
        }  # fmt: skip
        row = rows[path.parent.name]
        print(f"{path.parent.name:28} {row['bytes']:9,} bytes  {row['ratio']:.2f}x  {100 * row['accuracy']:.2f} % "
              f"(before {100 * row['accuracy_before']:.2f} %)  {'; '.join(row['failures']) or 'met'}")  # fmt: skip
    RESULT.write_text(json.dumps({"runs": rows}, indent=2) + "\n")
    print(RESULT.relative_to(ROOT))


def main() -> None:
    """One part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("resnet56", "mobilenet", "table"), nargs="?", default="table")
    parser.add_argument("--hours", type=float)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    args.hours = args.hours or {"mobilenet": 1.0}.get(args.part, 1.5)
    if args.part == "table":
        table()
    else:
        search(args.part, {"resnet56": resnet56, "mobilenet": mobilenet}[args.part](args), args)


if __name__ == "__main__":
    main()
