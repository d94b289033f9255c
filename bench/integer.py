"""Integer networks beside ONNX Runtime's own static quantization: accuracy, bytes, milliseconds, agreement.

    python bench/integer.py --data CIFAR10 --weights FOLDER [--nets resnet20 resnet56] [--images 256] [--split val]

`--weights` holds `NAME-cifar10.safetensors`. Both sides get the same float network and calibration images, and all files
are timed in turns in one run, on one thread. Ours: `quant.Quantize` with its defaults, by each rule for ranges, without data,
per tensor after `quant.Equalize`, W4A8 by each rounding, mixed widths. Theirs: QDQ, uint8 activations and int8 weights,
per channel and per tensor, by MinMax, Entropy and Percentile, with `reduce_range` where this CPU has no VNNI. Accuracies are
those of the files. Writes bench/results/integer.json. Run it alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import lilliput as lp
from lilliput.core.method import Look, Method
from lilliput.data import Task, open_task
from lilliput.export import export
from lilliput.export.onnx import predictor
from lilliput.measure import hardware, time_files, versions
from lilliput.measure.accuracy import accuracy
from lilliput.quant import Equalize, Mixed, Quantize, integers

ROOT = Path(__file__).parent.parent
SEED = 0


def ours(images: int) -> dict[str, tuple[Method, ...]]:
    """Everything that needs no training, by name."""
    w4 = {f"w4a8 {r}": (Quantize(bits=4, round=r, images=1024),) for r in ("nearest", "descent", "adaround", "block")}
    ranges = {f"int8 {rule}": (Quantize(range=rule, images=images),) for rule in lp.quant.ranges}
    return {
        "int8": (Quantize(images=images),),
        "int8 corrected": (Quantize(images=images, correct=True),),
        "int8 without data": (Quantize(source="norms", images=128, correct=True),),
        "int8 per tensor, equalized": (Equalize(relu6="open"), Quantize(scales="tensor", images=images, correct=True)),
        **ranges, **w4, "mixed 0.15": (Mixed(size=0.15, method=Quantize(round="descent", images=1024)),),
    }  # fmt: skip


def theirs() -> dict[str, dict[str, Any]]:
    """Arguments of `quantize_static`, by name."""
    from onnxruntime.quantization import CalibrationMethod

    reduce = "vnni" not in Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else True
    return {
        f"onnxruntime {rule} {'channel' if per_channel else 'tensor'}": {
            "calibrate_method": getattr(CalibrationMethod, rule), "per_channel": per_channel, "reduce_range": reduce,
        }
        for rule in ("MinMax", "Entropy", "Percentile")
        for per_channel in (True, False)
    }  # fmt: skip


def quantize_static(source: Path, target: Path, batches: list[Tensor], options: dict[str, Any]) -> None:
    """ONNX Runtime's static quantization, prepared as its documentation asks."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as run
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """The batches, one after the other."""

        def __init__(self) -> None:
            self.left: Iterator[Tensor] = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            """The next batch."""
            found = next(self.left, None)
            return None if found is None else {"input": found.numpy()}

    prepared = target.with_suffix(".prepared.onnx")
    quant_pre_process(str(source), str(prepared))
    run(str(prepared), str(target), Reader(), quant_format=QuantFormat.QDQ, activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8, **options)  # fmt: skip


def agreement(model: nn.Module, path: Path, task: Task, split: str) -> dict[str, float]:
    """The share of images to which file and PyTorch give the same class: PyTorch in floats, and in integers."""
    predict, exact = predictor(path), integers(model, task.example(2))
    same, equal, count = 0, 0, 0
    with torch.no_grad():
        for x, _ in task.batches(split, 250):
            found = predict(x).argmax(1)
            same += int((model(x).argmax(1) == found).sum())
            equal += int((exact(x).argmax(1) == found).sum())
            count += len(x)
    return {"simulation": same / count, "integers": equal / count}


def measure(net: str, weights: Path, task: Task, arguments: argparse.Namespace) -> dict[str, Any]:
    """All rows of one network."""
    model = lp.zoo.create(net)
    model.load_state_dict(load_file(weights / f"{net}-cifar10.safetensors"))
    model.eval()
    calibration = task.calibration(max(arguments.images, 1024))
    look = Look(task.example(2), calibration, task.loss, SEED)
    batches = [x for x, _ in task.calibration(arguments.images)]
    with tempfile.TemporaryDirectory() as folder:
        files = {"float": export(model, look.example, Path(folder) / "float.onnx").path}
        rows: dict[str, dict[str, Any]] = {"float": {}}
        for number, (name, methods) in enumerate(ours(arguments.images).items()):
            made, begun = model, time.perf_counter()
            for method in methods:
                made = method(made, look)
            seconds = time.perf_counter() - begun
            done = export(made, look.example, Path(folder) / f"ours{number}.onnx")
            files[name] = done.path
            rows[name] = {"seconds": seconds, "integer_nodes": done.integer_nodes, "float_nodes": done.float_nodes,
                          "agreement": agreement(made, done.path, task, arguments.split)}  # fmt: skip
        for number, (name, options) in enumerate(theirs().items()):
            files[name], begun = Path(folder) / f"theirs{number}.onnx", time.perf_counter()
            quantize_static(files["float"], files[name], batches, options)
            rows[name] = {"seconds": time.perf_counter() - begun}
        times = time_files(files, task.example(), threads=1)
        for name, path in files.items():
            score = accuracy(predictor(path), task.batches(arguments.split, 250), task.metric)
            rows[name] |= {"accuracy": score.value, "bytes": path.stat().st_size, "latency_ms": times[name].to_json()}
    return rows


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--nets", nargs="+", default=["resnet20", "resnet56"])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--split", default="test", choices=["val", "test"])
    arguments = parser.parse_args()
    task = open_task(arguments.data, seed=SEED)
    found = {net: measure(net, arguments.weights, task, arguments) for net in arguments.nets}
    for net, rows in found.items():
        whole = rows["float"]
        print(f"{net}: {100 * whole['accuracy']:.2f} %, {whole['latency_ms']['median']:.3f} ms, {whole['bytes']:,} bytes")
        for name, row in rows.items():
            ratio, share = row["latency_ms"]["median"] / whole["latency_ms"]["median"], row["bytes"] / whole["bytes"]
            drop = 100 * (whole["accuracy"] - row["accuracy"])
            print(f"  {name:32} {drop:6.2f} points  {ratio:5.2f}x time  {share:5.2f}x bytes  {row.get('seconds', 0):6.1f} s")
    out = ROOT / "bench" / "results" / "integer.json"
    facts = {"hardware": hardware(), "versions": versions(), "split": arguments.split, "images": arguments.images, "seed": SEED}
    out.write_text(json.dumps({**facts, "nets": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
