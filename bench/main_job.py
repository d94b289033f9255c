"""The claim of the front page: the main job on real images, and how long `make run` takes.

    python bench/main_job.py cifar      needs $LILLIPUT_DATA/cifar10.zip and $LILLIPUT_WEIGHTS/resnet56-cifar10.safetensors
    python bench/main_job.py digits     needs nothing

Runs the command, then times the two files of the run again, alternately, in three further runs. Training that a run has
already done is taken from the store; measurements never are. Writes bench/results/main_job_<name>.json. Run it alone.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from lilliput.measure import Ratio, hardware, time_files, versions

ROOT = Path(__file__).parent.parent
DATA, WEIGHTS = (Path(os.environ.get(name, ".")) for name in ("LILLIPUT_DATA", "LILLIPUT_WEIGHTS"))
CIFAR = "compress resnet56 --weights {weights}/resnet56-cifar10.safetensors --data {data}/cifar10.zip"
COMMANDS = {
    "cifar": (CIFAR + " --latency 0.5x --max-drop 1 --out out/r56", (3, 32, 32)),
    "cifar_small": (CIFAR + " --size 200kB --latency 0.5x --max-drop 1 --out out/r56-small", (3, 32, 32)),
    "digits": ("", (1, 8, 8)),
}
REPEATS = 3


def run(name: str) -> dict[str, Any]:
    """The command's own measurements and three fresh ones."""
    command, shape = COMMANDS[name]
    begun = time.perf_counter()
    if command:
        words = shlex.split(command.format(data=DATA, weights=WEIGHTS))
        out = ROOT / words[-1]
        code = subprocess.run([sys.executable, "-m", "lilliput", *words], cwd=ROOT).returncode
    else:
        out = ROOT / "out/digits"
        code = subprocess.run(["make", "run"], cwd=ROOT).returncode
    seconds = time.perf_counter() - begun
    again = []
    for _ in range(REPEATS):
        times = time_files({"baseline": out / "baseline.onnx", "compressed": out / "model.onnx"}, torch.zeros(1, *shape))
        ratio = Ratio.of(times["compressed"], times["baseline"])
        again.append({"ratio": ratio.to_json(), **{k: v.to_json() for k, v in times.items()}})
    shown = command.format(data="data", weights="weights") if command else ""
    metrics = json.loads((out / "metrics.json").read_text())
    recipe = (out / "recipe.yaml").read_text()
    stages = json.loads((out / "details.json").read_text())["stages"]
    return {
        "command": f"lilliput {shown}" if shown else "make run", "exit_code": code, "seconds": round(seconds, 1),
        "metrics": metrics, "recipe": recipe, "fresh": again, "repeats": REPEATS,
        "steps": [{"step": s["step"], "seconds": s["seconds"], "reused": s["reused"]} for s in stages],
        "hardware": hardware(), "versions": versions(),
    }  # fmt: skip


def main() -> None:
    """Run one of the jobs and store what it gave."""
    name = sys.argv[1] if len(sys.argv) > 1 else "digits"
    found = run(name)
    path = ROOT / "bench/results" / f"main_job_{name}.json"
    path.write_text(json.dumps(found, indent=2) + "\n")
    ratios = ", ".join(f"{r['ratio']['median']:.3f}x" for r in found["fresh"])
    print(
        f"{found['command']}\nexit code {found['exit_code']}, {found['seconds']} s; "
        f"measured again: {ratios} of the original latency"
    )
    print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
