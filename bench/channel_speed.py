"""Fewer multiply-adds against time: what channel pruning is worth in ONNX Runtime, one thread, at 2.1x fewer multiply-adds.

    python bench/channel_speed.py [NETWORK...]      alone on the machine; writes bench/results/channel_speed.json

The same networks three times: widths spread evenly, widths chosen by time, and torch-pruning's (`make bench-peers`), all
exported the same way and timed against the dense network in the same runs. Then `latency=0.5`, planned with a table of
layer times built from nothing, and measured anew. Times do not depend on what is trained, so the weights are random.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

import lilliput as lp
from lilliput.clock import Clock
from lilliput.core.method import Look
from lilliput.export import export
from lilliput.measure import Ratio, hardware, time_files, versions

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "out/channel_speed"
PEERS = ROOT / ".bench-venv/bin/python"
FEWER, LATENCY, REPEATS = 2.1, 0.5, 3
BARS = {"resnet56": 1.6, "resnet18": 1.7, "mobilenet_v2": 1.7}
OURS = {
    "even widths": lp.prune.Channels(macs=1 / FEWER),
    "widths by time": lp.prune.Channels(macs=1 / FEWER, allocate="latency"),
    "half the time": lp.prune.Channels(latency=LATENCY, allocate="latency"),
}
THEIRS = {"torch-pruning, group norm": (2, True), "torch-pruning, l1": (1, False)}


def dense(name: str) -> nn.Module:
    """The network everything starts from."""
    torch.manual_seed(0)
    return lp.zoo.create(name).eval()


def example(model: nn.Module) -> torch.Tensor:
    """One image of noise."""
    return torch.randn(1, *model.input_shape, generator=torch.Generator().manual_seed(0))  # type: ignore[misc]


def costs(model: nn.Module) -> dict[str, Any]:
    """What is counted of a network."""
    found = lp.profile(model, example(model))
    return {"macs": found.macs, "params": found.params,
            "widths": [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]}  # fmt: skip


def ours(name: str, clock: Clock) -> dict[str, dict[str, Any]]:
    """Our networks, exported."""
    model, found = dense(name), {}
    look = Look(example(model), clock=clock)
    for label, method in OURS.items():
        begun = time.perf_counter()
        small = method(model, look)
        seconds = time.perf_counter() - begun
        path = KEPT / f"{name}_{label.replace(' ', '_')}.onnx"
        export(small, example(model), path)
        found[label] = {"method": method.text(), "seconds": round(seconds, 1), "file": path} | costs(small)
        print(f"{name:14} {label:28} planned in {seconds:5.1f} s", flush=True)
    return found


def theirs(name: str) -> dict[str, dict[str, Any]]:
    """torch-pruning's networks, made and exported where torch-pruning is."""
    found = {}
    for label in THEIRS if PEERS.exists() else ():
        path = KEPT / f"{name}_{label.replace(', ', '_').replace(' ', '-')}.onnx"
        command = [str(PEERS), __file__, "--theirs", name, label, str(path)]
        there = os.environ | {"PYTHONPATH": str(ROOT / "src")}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=there)
        found[label] = json.loads(done.stdout.splitlines()[-1]) | {"file": path}
        print(f"{name:14} {label:28} made", flush=True)
    return found


def their_network(name: str, label: str, path: str) -> None:
    """One network by torch-pruning in small steps until the ratio is reached; runs in `.bench-venv`."""
    import torch_pruning as tp

    p, everywhere = THEIRS[label]
    model = dense(name)
    head = [m for m in model.modules() if isinstance(m, nn.Linear)]
    pruner = tp.pruner.MetaPruner(
        model, example(model), importance=tp.importance.GroupMagnitudeImportance(p=p), global_pruning=everywhere,
        pruning_ratio=0.9, max_pruning_ratio=0.9, iterative_steps=400, ignored_layers=head,
    )  # fmt: skip
    whole = costs(model)["macs"]
    while whole / costs(model)["macs"] < FEWER:
        pruner.step()
    export(model, example(model), path)
    print(json.dumps({"method": f"torch-pruning {version('torch-pruning')}", **costs(model)}))


def measure(name: str) -> dict[str, Any]:
    """One network in all its forms."""
    model = dense(name)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["LILLIPUT_CACHE"] = cache  # so that the table is built here, and its time with it
        rows = ours(name, Clock(example(model)))
        table = next(Path(cache).glob("layer_times/*.json"))
        shapes = len(json.loads(table.read_text())["times"])
    rows |= theirs(name)
    path = KEPT / f"{name}.onnx"
    export(model, example(model), path)
    files = {"dense": path} | {label: row.pop("file") for label, row in rows.items()}
    runs = [time_files(files, example(model)) for _ in range(REPEATS)]
    half = {"dense": path, "it": files["half the time"]}
    alone = [time_files(half, example(model)) for _ in range(REPEATS)]  # others in between leave cold caches behind
    rows["half the time"]["alone"] = [Ratio.of(run["it"], run["dense"]).to_json() for run in alone]
    before = costs(model)
    for label, row in rows.items():
        row |= {"fewer_macs": before["macs"] / row["macs"], "fewer_params": before["params"] / row["params"]}
        row["faster"] = [Ratio.of(run["dense"], run[label]).to_json() for run in runs]
        row["latency_ms"] = [run[label].to_json() for run in runs]
    return {"network": name, "dense": {**before, "latency_ms": [run["dense"].to_json() for run in runs]}, "rows": rows,
            "layer_shapes_measured": shapes, "bar": BARS[name]}  # fmt: skip


def show(found: dict[str, Any]) -> None:
    """The table of one network."""
    for label, row in found["rows"].items():
        faster = ", ".join(f"{r['median']:.2f}x" for r in row["faster"])
        print(f"{found['network']:14} {label:28} {row['fewer_macs']:.2f}x fewer multiply-adds, {faster} faster")
    alone = ", ".join(f"{r['median']:.3f}x" for r in found["rows"]["half the time"]["alone"])
    print(f"{found['network']:14} asked for {LATENCY}x of the time, in turns with the dense network alone: {alone}")


def main() -> None:
    """Measure all networks, or those named; what was measured of the others before stays."""
    if sys.argv[1:2] == ["--theirs"]:
        their_network(*sys.argv[2:5])
        return
    KEPT.mkdir(parents=True, exist_ok=True)
    path = ROOT / "bench/results/channel_speed.json"
    known = {n["network"]: n for n in json.loads(path.read_text())["networks"]} if path.exists() else {}
    for name in sys.argv[1:] or list(BARS):
        known[name] = measure(name)
        show(known[name])
    result = {"fewer_macs": FEWER, "latency": LATENCY, "repeats": REPEATS, "networks": [known[n] for n in BARS if n in known],
              "hardware": hardware(), "versions": versions()}  # fmt: skip
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
