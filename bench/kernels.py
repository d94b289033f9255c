"""Native kernels against the float convolutions of ONNX Runtime and PyTorch: one thread, in turns, medians.

    python bench/kernels.py [--rounds N] [--quick]      alone on the machine; writes bench/results/kernels.json

Binary and ternary: packed in and out (threshold and packing included), and float in and out (both packing steps included), for
every kernel that this processor runs. Four bits: bytes in, floats out, weights of the four bits' whole range and ternary ones.
Sparse: 70 to 95 % zeros. `MAC/cycle` counts the multiply-adds of the dense convolution in
cycles of the core as it runs at that moment. Ratios are to the better of ONNX Runtime and PyTorch (NCHW and channels-last).
Then a whole ResNet-18 at 224 in ONNX Runtime.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lilliput as lp
from lilliput import kernels
from lilliput.kernels import int4, sparse
from lilliput.kernels.signs import pack
from lilliput.kernels.window import Window
from lilliput.measure import hardware, versions

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "bench/results/kernels.json"
ZEROS = (0.7, 0.8, 0.9, 0.95)


class Layer(NamedTuple):
    """A convolution with padding that keeps the size."""

    inputs: int
    outputs: int
    size: int
    kernel: int = 3

    @property
    def window(self) -> Window:
        """How it slides."""
        return Window((self.kernel, self.kernel), padding=(self.kernel // 2, self.kernel // 2))

    @property
    def macs(self) -> int:
        """Multiply-adds of the dense convolution."""
        return self.inputs * self.outputs * self.size**2 * self.kernel**2

    def __str__(self) -> str:
        return f"{self.inputs} -> {self.outputs}, {self.size}x{self.size}, {self.kernel}x{self.kernel}"


RESNET18 = [Layer(64, 64, 56), Layer(128, 128, 28), Layer(256, 256, 14), Layer(512, 512, 7)]
RESNET20 = [Layer(16, 16, 32), Layer(32, 32, 16), Layer(64, 64, 8)]
MOBILE = [
    Layer(64, 128, 56, 1),
    Layer(128, 128, 56, 1),
    Layer(256, 256, 28, 1),
    Layer(512, 512, 14, 1),
    Layer(1024, 1024, 7, 1),
]
# The bars of the four large layers: packed to packed, float to float, and MAC/cycle.
BARS = {"bits": [12, 12, 12, 12], "floats": [7, 8, 10, 10], "mac_per_cycle": [170, 170, 170, None]}

Run = Callable[[], object]


def dense(layer: Layer, x: Tensor, weight: Tensor) -> dict[str, Run]:
    """The float convolutions to beat."""
    from onnx import TensorProto, helper, numpy_helper
    from onnxruntime import InferenceSession, SessionOptions

    pad = layer.kernel // 2
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[pad] * 4, kernel_shape=[layer.kernel] * 2)
    value = helper.make_tensor_value_info
    ends = [value("x", TensorProto.FLOAT, list(x.shape))], [value("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph([node], "conv", *ends, [numpy_helper.from_array(weight.numpy(), "w")])
    options = SessionOptions()
    options.intra_op_num_threads = 1
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session = InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    fed, last = {"x": x.numpy()}, (x.to(memory_format=torch.channels_last), weight.to(memory_format=torch.channels_last))
    return {
        "onnxruntime": lambda: session.run(None, fed),
        "torch": lambda: F.conv2d(x, weight, padding=pad),
        "torch, channels last": lambda: F.conv2d(*last, padding=pad),
    }


def same(got: np.ndarray, want: Tensor, what: str) -> None:
    """Stop where a kernel that is about to be timed computes something else."""
    off = float((torch.from_numpy(got) - want).abs().max() / want.abs().max())
    if not off < 1e-4:
        raise SystemExit(f"{what} is off by {off:.3g} of the largest output")


def room(*shape: int, of: torch.dtype = torch.float32) -> Any:
    """An array to write into, aligned as the tensors of both runtimes are."""
    return torch.empty(shape, dtype=of).numpy()


def signed(layer: Layer, x: Tensor, weight: Tensor, family: str, name: str) -> dict[str, Run]:
    """A convolution of signs by one kernel; ternary weights are 0 where they are small."""
    native, numbers = kernels._native, layer.window.numbers(layer.inputs, layer.outputs, (layer.size, layer.size))
    signs, bits = pack(weight >= 0).numpy(), pack(x >= 0).numpy()
    mask = pack(weight.abs() > 0.5).numpy() if family == "ternary" else None
    least, flip = np.zeros(layer.outputs, np.int32), np.zeros(layer.outputs, np.uint8)
    scale, bias = np.ones(layer.outputs, np.float32), np.ones(layer.outputs, np.float32)
    to_bits = native.Binary(numbers, 0, signs, None, None, least, flip, name, mask)
    to_floats = native.Binary(numbers, 0, signs, scale, bias, None, None, name, mask)
    out_bits = room(1, -(-layer.outputs // 8), layer.size, layer.size, of=torch.uint8)
    out_floats = room(1, layer.outputs, layer.size, layer.size)
    fed, between = x.numpy(), np.empty_like(bits)

    def floats() -> None:
        native.binarize(1, layer.inputs, layer.size**2, fed, None, between, name)
        to_floats.floats(1, between, out_floats)

    kind = "" if family == "binary" else f"{family} "
    floats()
    real = weight.sign() if mask is None else weight.sign() * (weight.abs() > 0.5)
    same(out_floats, F.conv2d(x.sign(), real, padding=layer.kernel // 2) + 1, f"{family}, {name}, {layer}")
    return {f"{kind}bits, {name}": lambda: to_bits.bits(1, bits, out_bits), f"{kind}floats, {name}": floats}


def four_bits(layer: Layer, x: Tensor, weight: Tensor, name: str) -> dict[str, Run]:
    """Bytes by weights of four bits, by one kernel."""
    numbers, scale = layer.window.numbers(layer.inputs, layer.outputs, (layer.size, layer.size)), torch.ones(layer.outputs)
    out, fed = room(1, layer.outputs, layer.size, layer.size), (x * 40 + 128).clamp(0, 255).to(torch.uint8).numpy()
    found: dict[str, Run] = {}
    for kind, levels in {"int4": (weight * 2.3).round().clamp(-8, 7), "int4 ternary": weight.round().clamp(-1, 1)}.items():
        made = kernels._native.Int4(numbers, 128, int4.pack(levels).numpy(), scale.numpy(), None, name)
        made.floats(1, fed, out)
        same(out, F.conv2d(torch.from_numpy(fed) - 128.0, levels, padding=layer.kernel // 2), f"{kind}, {name}, {layer}")
        found[f"{kind}, {name}"] = partial(made.floats, 1, fed, out)
    return found


def thinned(layer: Layer, x: Tensor, weight: Tensor, zeros: float, name: str) -> dict[str, Run]:
    """A sparse convolution by one kernel."""
    kept = weight.where(torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) >= zeros, 0)
    numbers = layer.window.numbers(layer.inputs, layer.outputs, (layer.size, layer.size))
    made = kernels._native.Sparse(numbers, *(t.numpy() for t in sparse.compress(kept)), None, name)
    out, fed = room(1, layer.outputs, layer.size, layer.size), x.numpy()
    made.floats(1, fed, out)
    same(out, F.conv2d(x, kept, padding=layer.kernel // 2), f"{zeros:.0%}, {name}, {layer}")
    return {f"{zeros:.0%}, {name}": lambda: made.floats(1, fed, out)}


def in_turns(runs: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every run in every round: each repeated for some milliseconds, one after the other."""
    repeats = {}
    for name, run in runs.items():
        run()
        begun = time.perf_counter()
        run()
        repeats[name] = max(1, int(0.005 / max(time.perf_counter() - begun, 1e-7)))
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            begun = time.perf_counter()
            for _ in range(repeats[name]):
                run()
            found[name].append((time.perf_counter() - begun) / repeats[name] * 1000)
    return found


def measure(layer: Layer, families: tuple[str, ...], rounds: int) -> dict[str, Any]:
    """One layer by everything that computes it."""
    torch.manual_seed(0)
    x, weight = (
        torch.randn(1, layer.inputs, layer.size, layer.size),
        torch.randn(layer.outputs, layer.inputs, *[layer.kernel] * 2),
    )
    rivals = dense(layer, x, weight)
    runs = dict(rivals)
    for family, name, here in kernels.rows():
        if not here or name == "portable" or family not in families:
            continue
        if family in ("binary", "ternary"):
            runs |= signed(layer, x, weight, family, name)
        if family == "int4":
            runs |= four_bits(layer, x, weight, name)
        for zeros in ZEROS if family == "sparse" else ():
            runs |= thinned(layer, x, weight, zeros, name)
    hertz = kernels._native.cycles_per_second(20)
    times = {name: statistics.median(ms) for name, ms in in_turns(runs, rounds).items()}
    best = min(times[name] for name in rivals)
    rows = {name: {"ms": ms, "mac_per_cycle": layer.macs / (ms / 1000 * hertz) if hertz else None, "faster": best / ms}
            for name, ms in times.items()}  # fmt: skip
    return {"layer": str(layer), "macs": layer.macs, "gigahertz": hertz / 1e9, "rows": rows}


def network(rounds: int) -> dict[str, Any]:
    """ResNet-18 at 224 in ONNX Runtime: floats, and with its inner 3x3 convolutions packed as signs."""
    import onnxruntime

    torch.manual_seed(0)
    dense = lp.zoo.create("resnet18").eval()
    signed = copy.deepcopy(dense)
    for name, conv in dense.named_modules():
        if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3):
            made = copy.deepcopy(conv)
            made.weight.copy_(torch.where(conv.weight >= 0, 0.01, -0.01))
            parent, _, child = name.rpartition(".")
            setattr(signed.get_submodule(parent), child, kernels.BinaryConv2d.of(made))
    x, runs, sizes = torch.randn(1, 3, 224, 224), {}, {}
    for name, model in {"float": dense, "binary": signed}.items():
        file = torch.onnx.export(model, (x,), dynamo=True, verbose=False, custom_translation_table=kernels.translations())
        data = file.model_proto.SerializeToString()
        options = kernels.register(onnxruntime.SessionOptions())
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        fed = {session.get_inputs()[0].name: x.numpy()}
        runs[name], sizes[name] = partial(session.run, None, fed), len(data)
    ms = {name: statistics.median(each) for name, each in in_turns(runs, rounds).items()}
    found = {"network": "resnet18", "ms": ms, "bytes": sizes, "faster": ms["float"] / ms["binary"], "bar": 4}
    print(f"resnet18 in ONNX Runtime: {ms['float']:.2f} ms in floats, {ms['binary']:.2f} ms binary, {found['faster']:.2f}x")
    return found


def show(found: dict[str, Any]) -> None:
    """The table of one layer."""
    print(f"{found['layer']}   {found['macs'] / 1e6:.1f} M multiply-adds, {found['gigahertz']:.2f} GHz")
    for name, row in found["rows"].items():
        print(f"    {name:24} {row['ms']:8.3f} ms {row['mac_per_cycle'] or 0:7.1f} MAC/cycle {row['faster']:6.2f}x", flush=True)


def main() -> None:
    """Measure every layer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="two layers, three rounds, nothing written")
    told = parser.parse_args()
    torch.set_num_threads(1)
    if not kernels.rows():
        raise SystemExit("The native core was not built, so there is nothing to measure.")
    jobs = [(layer, ("binary", "ternary", "int4", "sparse")) for layer in RESNET18 + RESNET20] + [
        (layer, ("sparse",)) for layer in MOBILE
    ]
    with torch.no_grad():
        results = []
        for layer, families in jobs[:5:4] if told.quick else jobs:
            results.append(measure(layer, families, 3 if told.quick else told.rounds))
            show(results[-1])
        whole = None if told.quick else network(told.rounds)
    if not told.quick:
        kept = {
            "layers": results,
            "bars": BARS,
            "whole": whole,
            "rounds": told.rounds,
            "hardware": hardware(),
            "versions": versions(),
        }
        RESULT.write_text(json.dumps(kept, indent=2) + "\n")
        print(RESULT.relative_to(ROOT))


if __name__ == "__main__":
    main()
