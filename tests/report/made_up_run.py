"""A run that never was: the folder of a compressed ResNet-56 with made-up numbers, in the shape real ones have."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
WIDTHS = {"baseline": (16, 32, 64), "compressed": (8, 16, 40)}
RECIPE = """\
- prune.channels:
    criterion: l1
    keep: 0.5
    multiple: 8
    scope: all
- batchnorm: {}
- fit:
    distill:
      distill.hinton:
        temperature: 4
    epochs: 8
- quant.int8: {}
"""


def layers(side: str) -> list[dict[str, Any]]:
    """The layers of a ResNet-56 of the widths of one side."""
    bits = 32.0 if side == "baseline" else 8.0
    stem, *_ = widths = WIDTHS[side]
    found = [conv("conv1", 3, stem, 32, bits)]
    before = stem
    for stage, (width, pixels) in enumerate(zip(widths, (32, 16, 8), strict=True), start=1):
        for block in range(9):
            inner = width if side == "baseline" else max(8, width - 8 * (block % 2))
            found.append(conv(f"layer{stage}.{block}.conv1", before, inner, pixels, bits))
            found.append(conv(f"layer{stage}.{block}.conv2", inner, width, pixels, bits))
            found.append(layer("BatchNorm2d", f"layer{stage}.{block}.bn2", 2 * width, 0, None, [1, width, pixels, pixels]))
            before = width
    return [*found, layer("Linear", "linear", before * 10 + 10, before * 10, bits, [1, 10])]


def conv(name: str, inputs: int, outputs: int, pixels: int, bits: float) -> dict[str, Any]:
    """A 3x3 convolution as a profile lists it."""
    weights = 9 * inputs * outputs
    return layer("Conv2d", name, weights, weights * pixels**2, bits, [1, outputs, pixels, pixels])


def layer(kind: str, name: str, params: int, macs: int, bits: float | None, output: list[int]) -> dict[str, Any]:
    """A row of a profile."""
    return {
        "name": name, "kind": kind, "input_shape": None, "output_shape": output, "params": params, "macs": macs,
        "effective_macs": macs, "bytes": round(params * (bits or 32.0) / 8), "peak_activation_bytes": 131_072,
        "bits": bits, "input_bits": None, "calls": 1, "density": 1.0,
    }  # fmt: skip


def metrics() -> dict[str, Any]:
    """A `metrics.json` of a run that met its budgets."""
    how = {"runs": 200, "runtime": "onnxruntime", "threads": 1}
    return {
        "baseline": {
            "accuracy": 0.9437, "accuracy_interval": [0.939, 0.948], "val_accuracy": 0.945, "params": 855_770,
            "macs": 125_485_706, "file_bytes": 3_442_118, "onnx_bytes": 3_461_004, "peak_activation_bytes": 196_608,
            "latency_ms": {"median": 3.312, "p10": 3.28, "p90": 3.402, **how},
        },
        "compressed": {
            "accuracy": 0.9395, "accuracy_interval": [0.9347, 0.944], "val_accuracy": 0.9402, "params": 241_330,
            "macs": 38_104_320, "file_bytes": 249_400, "onnx_bytes": 241_910, "peak_activation_bytes": 65_536,
            "latency_ms": {"median": 1.571, "p10": 1.55, "p90": 1.66, **how},
            "answers": {"total": 10_000, "lost": 203, "gained": 161},
        },
        "device": {
            "cpu": "A Made-Up Processor 9000", "architecture": "x86_64", "cores": 2, "memory_bytes": 8_200_000_000,
            "flags": ["avx", "avx2", "fma"], "system": "Linux 6.1",
        },
        "versions": {"python": "3.11.9", "lilliput": "0.1.0", "torch": "2.13.0", "onnxruntime": "1.31.1"},
        "seed": 0, "seconds": 1834.2, "failures": [], "front": front(), "sensitivity": sensitivity(),
        "budget": {"size": {"value": 250_000, "ratio": False}, "latency": {"value": 0.5, "ratio": True}, "max_drop": 1},
    }  # fmt: skip


def history(epochs: int, start: float) -> list[dict[str, Any]]:
    """Rows of epochs that learn."""
    chance = random.Random(epochs)
    rows = []
    for epoch in range(1, epochs + 1):
        gone = 1 - 0.72**epoch
        reached = start + (0.944 - start) * gone
        rows.append({
            "epoch": epoch, "train_loss": 1.1 - 0.8 * gone, "train_accuracy": reached - 0.02 + 0.004 * chance.random(),
            "val_accuracy": reached - 0.012 * chance.random(), "seconds": 61.0, "images_s": 740.0,
        })  # fmt: skip
    return rows


def tried() -> list[dict[str, Any]]:
    """Candidates of a search, the last but one chosen."""
    rows: list[dict[str, Any]] = []
    for i, keep in enumerate((None, 0.875, 0.75, 0.625, 0.5, 0.375)):
        for int8 in (False, True):
            methods = [] if keep is None else [f"prune.channels(keep={keep}, multiple=8, scope=all)"]
            ratio = (1 - 0.13 * i) * (0.66 if int8 else 1.0)
            size = round(3_420_000 * (1 - 0.155 * i) * (0.19 if int8 else 1.0))
            meets = ratio < 0.475 and size < 250_000
            rows.append({
                "methods": methods + (["quant.int8()"] if int8 else []), "ms": 3.3 * ratio, "ratio": ratio,
                "meets": meets, "bytes": size,
                "proxy_accuracy": 0.71 - 0.1 * i if meets else None, "chosen": (keep, int8) == (0.5, True),
            })  # fmt: skip
    return rows


def front() -> list[dict[str, Any]]:
    """Candidates that were trained, the third chosen; the last two are beaten."""
    rows = [
        ("int8", 733_000, 0.44, 0.9444), ("inner channels 0.75, int8", 330_000, 0.43, 0.9431),
        ("channels 0.5, int8", 249_400, 0.4743, 0.9402), ("channels 0.25, int8", 121_000, 0.29, 0.9218),
        ("factors 0.4, int8", 390_000, 0.81, 0.9371), ("blocks 0.6, int8", 402_000, 0.52, 0.9012),
    ]  # fmt: skip
    return [
        {
            "name": name, "bytes": size, "ms": 3.312 * ratio, "ratio": ratio, "accuracy": accuracy,
            "meets": size <= 250_000 and ratio <= 0.5 and accuracy >= 0.935, "chosen": i == 2, "dominated": i > 3,
        }
        for i, (name, size, ratio, accuracy) in enumerate(rows)
    ]  # fmt: skip


def sensitivity() -> list[dict[str, Any]]:
    """Accuracy of every third layer under two methods: early layers mind channels, late ones hardly anything."""
    names = [row["name"] for row in layers("baseline") if row["macs"]][::3]
    return [
        {"layer": name, "method": method, "amount": amount, "accuracy": 0.945 - hurt * amount**2 / (1 + i)}
        for i, name in enumerate(names)
        for method, hurt in (("prune.channels", 0.7), ("factor.factorize", 0.25))
        for amount in (0.25, 0.5, 0.75)
    ]


def histograms(side: str) -> dict[str, dict[str, Any]]:
    """Bell curves of every second layer; after compression three of ten weights are zero and there is a gap around it."""
    pruned = side == "compressed"
    found = {}
    for row in [row for row in layers(side) if row["macs"]][::2]:
        counts = [round(row["macs"] ** 0.5 * math.exp(-((i - 31.5) ** 2) / 180)) for i in range(64)]
        counts = [0 if pruned and abs(i - 31.5) < 4 else n for i, n in enumerate(counts)]
        zeros = sum(counts) * 3 // 7 if pruned else 0
        found[row["name"]] = {"elements": sum(counts) + zeros, "zeros": zeros, "edge": 0.42, "counts": counts}
    return found


def times(side: str) -> dict[str, Any]:
    """Milliseconds that go with the multiply-adds."""
    speed, kernel = (4e7, "float, blocked (onnxruntime)") if side == "baseline" else (3e7, "int8 (onnxruntime)")
    rows = {r["name"]: {"ms": round(r["macs"] / speed, 6), "kernel": kernel} for r in layers(side) if r["macs"]}
    return {"layers": rows, "other": 0.31 if side == "baseline" else 0.24}


CONTENTS = {
    "baseline": {"values": 3_441_100, "header": 1_018, "padding": 0},
    "compressed": {"codes": 221_900, "side": 11_800, "values": 9_650, "header": 6_050, "flags": 0, "padding": 0},
}


def details() -> dict[str, Any]:
    """A `details.json` that goes with `metrics`."""
    was = [0.957, 0.974, 0.922, 0.871, 0.951, 0.903, 0.968, 0.961, 0.969, 0.961]
    now = [0.951, 0.975, 0.913, 0.842, 0.949, 0.905, 0.961, 0.958, 0.969, 0.972]
    fit = {
        "step": "fit(distill=distill.hinton(temperature=4), epochs=8)",
        "seconds": 488.1,
        "reused": False,
        "edits": 0,
    }
    small = {"step": "fit(epochs=4, lr=0.01)", "seconds": 233.0, "reused": False, "edits": 0}
    return {
        "command": "lilliput compress resnet56 --data cifar10 --size 250kB --latency 0.5x --max-drop 1 --out out/made-up",
        "images": {"train": 45_000, "val": 5_000, "test": 10_000}, "start": "0123456789ab",
        "model": "resnet56", "data": "cifar10", "classes": CLASSES, "per_class": {"baseline": was, "compressed": now},
        "layers": {side: layers(side) for side in WIDTHS}, "tried": tried(),
        "weights": {side: histograms(side) for side in WIDTHS}, "times": {side: times(side) for side in WIDTHS},
        "ranks": {"baseline": {}, "compressed": {}}, "contents": CONTENTS,
        "digest": "0123456789ab",
        "stages": [
            {"step": "prune.channels(keep=0.5)", "seconds": 0.42, "reused": True, "edits": 167, "history": []},
            {"step": "batchnorm()", "seconds": 3.1, "reused": True, "edits": 0, "history": []},
            {**fit, "history": history(8, 0.4)}, {**small, "history": history(4, 0.9)},
            {"step": "quant.int8()", "seconds": 2.2, "reused": False, "edits": 114, "history": []},
        ],
        "edits": [f"resize layer1.{i}.conv1 out to 8: 0-3,7-10" for i in range(9)]
        + [f"map layer1.{i}.conv1 weight through quant.int8(bits=8)" for i in range(9)],
        "warnings": ["Channels of `layer2.0.shortcut` are pinned: no rule for aten::made_up.", "Skipped 2 images."],
        "integer_nodes": 57, "float_nodes": ["/Reshape", "/ReduceMean"],
    }  # fmt: skip


def write(folder: Path) -> Path:
    """The folder of the made-up run, without its report."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(metrics()))
    (folder / "details.json").write_text(json.dumps(details()))
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder
