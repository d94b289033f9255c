"""Integer networks beside ONNX Runtime's own static quantization: accuracy, bytes, milliseconds, agreement.

    python bench/integer.py train               the MobileNetV2, once, on Fashion-MNIST
    python bench/integer.py [--nets NAME...] [--images 256] [--split val]        writes bench/results/integer.json; run it alone

`resnet20` and `resnet56` are $LILLIPUT_WEIGHTS/NAME-cifar10.safetensors, on CIFAR-10; `mobilenet_v2_32` is the one of `train`;
`mobilenet_v1` and `mobilenet_v2` have random weights and images of 224 pixels: their bytes and milliseconds are measured alone.
Both sides get the same float network and calibration images, and all files are timed in turns in one run, on one thread. Ours:
`quant.Quantize` with its defaults, by each rule for ranges, without data, per tensor after `quant.Equalize`, W4A8 by each
rounding, mixed widths. Theirs: QDQ, uint8 activations and int8 weights, per channel and per tensor, by MinMax, Entropy and
Percentile, with `reduce_range` where this CPU has no VNNI. Accuracies are those of the files.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from sparse import task
from torch import Tensor, nn

import lilliput as lp
from lilliput.core.method import First, Look, Method
from lilliput.data import Task, open_task
from lilliput.export import export
from lilliput.export.onnx import predictor
from lilliput.measure import hardware, time_files, versions
from lilliput.measure.accuracy import accuracy
from lilliput.opening import open_model
from lilliput.quant import Equalize, Mixed, Quantize, integers
from lilliput.recipe import Bench, Recipe, run

ROOT = Path(__file__).parent.parent
KEPT, RESULT = ROOT / "out/integer", ROOT / "bench/results/integer.json"
WEIGHTS = Path(os.environ.get("LILLIPUT_WEIGHTS", "."))
MOBILE = "mobilenet_v2_32:channels=1,width=0.5"
LARGE = ("mobilenet_v1", "mobilenet_v2")
COMPARED = 1000  # images, for PyTorch in integers, which computes in double precision
SEED = 0


def mobile(arguments: argparse.Namespace) -> tuple[nn.Module, Task]:
    """A MobileNetV2 trained on Fashion-MNIST, here."""
    on = task("fashion-mnist", arguments.train_images)
    torch.manual_seed(SEED)
    recipe = Recipe([lp.Fit(epochs=arguments.epochs, lr=0.1, precision="bf16-mixed")])
    return run(open_model(MOBILE, seed=SEED), recipe, Bench(on, KEPT / "store", SEED)).model.eval(), on


def subject(net: str, arguments: argparse.Namespace) -> tuple[nn.Module, Task]:
    """A network and its images."""
    if net == "mobilenet_v2_32":
        return mobile(arguments)
    return open_model(net, weights=str(WEIGHTS / f"{net}-cifar10.safetensors")).eval(), open_task("cifar10", seed=SEED)


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
        for x, _ in First(task.batches(split, 250), COMPARED):
            found = predict(x).argmax(1)
            same += int((model(x).argmax(1) == found).sum())
            equal += int((exact(x).argmax(1) == found).sum())
            count += len(x)
    return {"simulation": same / count, "integers": equal / count}


def measure(net: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """All rows of one network."""
    model, task = subject(net, arguments)
    calibration = task.calibration(max(arguments.images, 1024))
    look = Look(task.example(2), calibration, task.loss, SEED)
    batches = [x for x, _ in task.calibration(arguments.images)]
    with tempfile.TemporaryDirectory() as folder:
        files = {"float": export(model, look.example, Path(folder) / "float.onnx").path}
        rows: dict[str, dict[str, Any]] = {"float": {}}
        asked = {n: m for n, m in ours(arguments.images).items() if not arguments.only or n in arguments.only}
        for number, (name, methods) in enumerate(asked.items()):
            made, begun = model, time.perf_counter()
            for method in methods:
                made = method(made, look)
            seconds = time.perf_counter() - begun
            done = export(made, look.example, Path(folder) / f"ours{number}.onnx")
            files[name] = done.path
            rows[name] = {"seconds": seconds, "integer_nodes": done.integer_nodes, "float_nodes": done.float_nodes}
            if name == "int8":  # computing in integers takes long
                rows[name]["agreement"] = agreement(made, done.path, task, arguments.split)
        for number, (name, options) in enumerate(theirs().items()):
            files[name], begun = Path(folder) / f"theirs{number}.onnx", time.perf_counter()
            quantize_static(files["float"], files[name], batches, options)
            rows[name] = {"seconds": time.perf_counter() - begun}
        times = time_files(files, task.example(), threads=1)
        for name, path in files.items():
            score = accuracy(predictor(path), task.batches(arguments.split, 250), task.metric)
            rows[name] |= {"accuracy": score.value, "bytes": path.stat().st_size, "latency_ms": times[name].to_json()}
    return rows


def large(net: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Bytes and milliseconds at 224 pixels."""
    torch.manual_seed(SEED)
    model = settled(lp.zoo.create(net))
    example, batches = torch.randn(1, 3, 224, 224), [torch.randn(8, 3, 224, 224)]
    look = Look(example, tuple((x, torch.zeros(len(x), dtype=torch.long)) for x in batches), nn.functional.cross_entropy, SEED)
    with tempfile.TemporaryDirectory() as folder:
        files = {"float": export(model, example, Path(folder) / "float.onnx").path}
        done = export(Quantize(images=8)(model, look), example, Path(folder) / "ours.onnx")
        files |= {"int8": done.path, "onnxruntime MinMax channel": Path(folder) / "theirs.onnx"}
        quantize_static(files["float"], files["onnxruntime MinMax channel"], batches, theirs()["onnxruntime MinMax channel"])
        times = time_files(files, example, threads=1)
        rows = {name: {"bytes": path.stat().st_size, "latency_ms": times[name].to_json()} for name, path in files.items()}
    rows["int8"] |= {"integer_nodes": done.integer_nodes, "float_nodes": done.float_nodes}
    return rows


def settled(model: nn.Module) -> nn.Module:
    """With statistics of norms as training leaves them, so that ranges are those of a network that works."""
    model.train()
    with torch.no_grad():
        for _ in range(5):
            model(torch.randn(8, 3, 224, 224))
    return model.eval()


def said(net: str, rows: dict[str, Any]) -> None:
    """A network's rows on the screen."""
    whole = rows["float"]
    print(f"{net}: {whole['latency_ms']['median']:.3f} ms, {whole['bytes']:,} bytes", end="", flush=True)
    print(f", {100 * whole['accuracy']:.2f} %" if "accuracy" in whole else "")
    for name, row in rows.items():
        ratio, share = whole["latency_ms"]["median"] / row["latency_ms"]["median"], row["bytes"] / whole["bytes"]
        drop = f"{100 * (whole['accuracy'] - row['accuracy']):6.2f} points lost" if "accuracy" in row else ""
        print(
            f"  {name:32} {drop}  {ratio:5.2f}x as fast  {share:6.1%} of the bytes  {row.get('seconds', 0):6.1f} s", flush=True
        )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("train", "measure"), nargs="?", default="measure")
    parser.add_argument("--nets", nargs="+", default=["resnet20", "resnet56", "mobilenet_v2_32", *LARGE])
    parser.add_argument(
        "--only", nargs="+", default=[], help="rows of ours; all by default", choices=list(ours(1)), metavar="ROW"
    )
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--split", default="test", choices=["val", "test"])
    parser.add_argument("--epochs", type=int, default=4, help="of the MobileNetV2's training")
    parser.add_argument("--train-images", type=int, default=30_000, help="of the MobileNetV2's training")
    arguments = parser.parse_args()
    if arguments.what == "train":
        mobile(arguments)
        return
    found = json.loads(RESULT.read_text())["nets"] if RESULT.exists() else {}
    for net in arguments.nets:
        found[net] = (large if net in LARGE else measure)(net, arguments)
        said(net, found[net])
        facts = {
            "hardware": hardware(),
            "versions": versions(),
            "split": arguments.split,
            "images": arguments.images,
            "seed": SEED,
        }
        facts["mobilenet_v2_32"] = f"{MOBILE}, {arguments.epochs} epochs of {arguments.train_images} images of Fashion-MNIST"
        RESULT.write_text(json.dumps({**facts, "nets": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
