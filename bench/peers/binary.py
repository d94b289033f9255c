"""Binary 3x3 convolutions: ours in ONNX Runtime, larq-compute-engine's, and OpenVINO's BinaryConvolution, in turns, one thread.

    make bench-peers, or .bench-venv/bin/python bench/peers/binary.py [--rounds N] [--quick]     alone on the machine

Batch 1. `single` is a network of one layer, floats in and floats out, by each runtime's own call, so that packing,
conversions of layout and the call itself count. `inner` is what one more layer costs inside a network, signs in and signs
out: the difference of networks of nine and of one layers, by eight. Every network is checked against sums of products in
PyTorch first. Outside the image stands 0, and for larq +1, its faster choice. Writes bench/results/peers_binary.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino as ov
import openvino.opset1 as ops
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper

from lilliput import kernels
from lilliput.kernels.signs import pack
from lilliput.measure import hardware, versions

ROOT = Path(__file__).parent.parent.parent
LARQ = ROOT / ".bench-venv-tf/bin/python"
SHAPES = ((64, 56), (128, 28), (256, 14), (512, 7))  # channels, height and width
DEPTHS = (1, 9)
BARS = {"larq": 25, "openvino": 1.5}

Run = Callable[[int], float]  # how many times, to the milliseconds of one


def summed(x: torch.Tensor, weight: torch.Tensor, layers: int, pad: int) -> torch.Tensor:
    """What layers of signs in a row compute: the sums of the last."""
    for _ in range(layers):
        x = F.conv2d(F.pad(torch.where(x >= 0, 1.0, -1.0), (1, 1, 1, 1), value=float(pad)), weight)
    return x


def timed(call: Callable[[], object]) -> Run:
    """Milliseconds of a call, the mean of some."""

    def run(times: int) -> float:
        begun = time.perf_counter()
        for _ in range(times):
            call()
        return (time.perf_counter() - begun) / times * 1000

    return run


def check(name: str, found: Any, wanted: torch.Tensor) -> None:
    """Whether a network computes what it should."""
    if not np.array_equal(np.asarray(found), wanted.numpy()):
        raise SystemExit(f"{name} computes something else: {np.abs(np.asarray(found) - wanted.numpy()).max():g} off")


def ours(x: torch.Tensor, weight: torch.Tensor, layers: int) -> Run:
    """Binarize, convolutions of bits, and at last one of floats, in ONNX Runtime."""
    channels = weight.shape[0]
    told = {"channels": channels, "group": 1, "strides": [1, 1], "pads": [1, 1], "dilations": [1, 1], "pad": 0}
    nodes = [helper.make_node("Binarize", ["x"], ["x0"], domain="lilliput")]
    for i in range(layers - 1):
        nodes.append(
            helper.make_node("BinaryConvBits", [f"x{i}", "w", "least", "flip"], [f"x{i + 1}"], domain="lilliput", **told)
        )
    nodes.append(helper.make_node("BinaryConv", [f"x{layers - 1}", "w", "scale"], ["y"], domain="lilliput", **told))
    arrays = {"w": pack(weight >= 0).numpy(), "scale": np.ones(channels, np.float32)}
    if layers > 1:
        arrays |= {"least": np.zeros(channels, np.int32), "flip": np.zeros(channels, np.uint8)}
    value = helper.make_tensor_value_info
    ends = [value("x", TensorProto.FLOAT, list(x.shape))], [value("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "ours", *ends, [numpy_helper.from_array(a, n) for n, a in arrays.items()])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("lilliput", 1)]
    options = kernels.register(onnxruntime.SessionOptions())
    options.intra_op_num_threads = 1
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    fed = {"x": x.numpy()}
    check("ours", session.run(None, fed)[0], summed(x, weight, layers, 0))
    return timed(lambda: session.run(None, fed))


def openvinos(x: torch.Tensor, weight: torch.Tensor, layers: int) -> tuple[Run, str]:
    """FakeQuantize of two levels, which its CPU plugin turns into bits, and BinaryConvolution; and which kernel ran."""
    entry = ops.parameter(list(x.shape), np.float32)
    bits = (weight >= 0).to(torch.uint8).view(-1, 8).flip(1)  # its kernel reads a byte from the other end than it is written
    kept = ov.op.Constant(ov.Type.u1, ov.Shape(list(weight.shape)), bits.flatten().tolist())
    low, high = np.array(0, np.float32), np.array(1, np.float32)
    made = entry
    for i in range(layers):
        threshold = np.array(-1 if i else 0, np.float32)  # 0 itself counts as negative there; sums are even
        made = ops.fake_quantize(made, threshold, threshold, low, high, 2)
        made = ops.binary_convolution(made, kept, [1, 1], [1, 1], [1, 1], [1, 1], "xnor-popcount", 0.0)
    told = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    compiled = ov.Core().compile_model(ov.Model([made], [entry], "theirs"), "CPU", told)
    request, fed = compiled.create_infer_request(), x.numpy()
    check("OpenVINO", request.infer([fed])[0], summed(x, weight, layers, 0))
    names = {op.get_rt_info()["primitiveType"].astype(str) for op in compiled.get_runtime_model().get_ordered_ops()
             if op.get_rt_info()["layerType"].astype(str) == "BinaryConvolution"}  # fmt: skip
    return timed(lambda: request.infer([fed])), ", ".join(sorted(names))


class Larq:
    """larq-compute-engine, in its own environment and process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        command = [str(LARQ), str(ROOT / "bench/peers/larq/worker.py")]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True)  # fmt: skip
        self.version = ""

    def ask(self, **told: Any) -> Any:
        """One line there and one back."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(told) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("larq's process ended; run bench/peers/larq/worker.py by hand to see why")
        return json.loads(line)

    def network(self, x: torch.Tensor, weight: torch.Tensor, layers: int) -> Run:
        """The same layers there."""
        channels, size = x.shape[1:3]
        name = f"{channels} {layers}"
        files = {key: str(self.folder / f"{key}.npy") for key in ("x", "weights", "out")}
        np.save(files["x"], x.numpy())
        np.save(files["weights"], weight.numpy())
        self.version = self.ask(name=name, channels=channels, size=size, layers=layers, **files)
        check("larq", np.load(files["out"]), summed(x, weight, layers, 1))
        return lambda times: float(self.ask(run=name, times=times))


def in_turns(runs: dict[str, Run], rounds: int) -> dict[str, float]:
    """The median milliseconds of each, all of them once a round."""
    repeats = {name: max(1, int(4 / max(run(1), run(1), 1e-3))) for name, run in runs.items()}
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            found[name].append(run(repeats[name]))
    return {name: statistics.median(ms) for name, ms in found.items()}


def row(channels: int, size: int, larq: Larq | None, rounds: int) -> dict[str, Any]:
    """One shape by everybody."""
    torch.manual_seed(0)
    x = torch.randn(1, channels, size, size)
    weight = torch.where(torch.randn(channels, channels, 3, 3) >= 0, 1.0, -1.0)
    runs: dict[str, Run] = {}
    kernel = ""
    for layers in DEPTHS:
        runs[f"ours {layers}"] = ours(x, weight, layers)
        runs[f"openvino {layers}"], kernel = openvinos(x, weight, layers)
        if larq is not None:
            runs[f"larq {layers}"] = larq.network(x, weight, layers)
    ms = in_turns(runs, rounds)
    who = ["ours", "openvino", *(["larq"] if larq is not None else [])]
    single = {name: ms[f"{name} {DEPTHS[0]}"] for name in who}
    inner = {name: (ms[f"{name} {DEPTHS[1]}"] - single[name]) / (DEPTHS[1] - DEPTHS[0]) for name in who}
    faster = {name: {"single": single[name] / single["ours"], "inner": inner[name] / inner["ours"]} for name in who[1:]}
    print(f"{channels} channels, {size}x{size} (OpenVINO: {kernel})")
    for name in who:
        print(f"    {name:9} single {single[name]:8.4f} ms, inner {inner[name]:8.4f} ms", flush=True)
    return {"channels": channels, "size": size, "single_ms": single, "inner_ms": inner, "times_ours": faster,
            "openvino_kernel": kernel}  # fmt: skip


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="one shape, three rounds, nothing written")
    told = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        larq = Larq(Path(folder)) if LARQ.exists() else None
        if larq is None:
            print("larq-compute-engine is not here (`make bench-peers` installs it), and left out")
        shapes = SHAPES[2:3] if told.quick else SHAPES
        rows = [row(channels, size, larq, 3 if told.quick else told.rounds) for channels, size in shapes]
        if larq is not None:
            larq.process.stdin.close()  # type: ignore[union-attr]
    if told.quick:
        return
    result = {"rows": rows, "bars": BARS, "rounds": told.rounds, "threads": 1, "openvino": version("openvino"),
              "larq_compute_engine": larq.version if larq is not None else None, "hardware": hardware(),
              "versions": versions()}  # fmt: skip
    path = ROOT / "bench/results/peers_binary.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
