"""Whole pruned networks in ONNX Runtime: dense, and with our sparse layers where they pay. One thread, in turns.

    python bench/sparse_latency.py [--quick]      alone on the machine; writes bench/results/sparse_latency.json

ResNet-20 at 32x32 and ResNet-50 at 224, with 80, 90 and 95 % zeros by magnitude in every convolution that is not depthwise and
in the linear layer, without training: only the times are of interest. Which layers are packed is measured as in any export.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import lilliput as lp
from lilliput.measure import Ratio, hardware, time_files, versions

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "bench/results/sparse_latency.json"
NETWORKS = {"resnet20": 32, "resnet50": 224}
ZEROS = (0.8, 0.9, 0.95)
SECONDS = {"resnet20": 4.0, "resnet50": 15.0}


def pruned(name: str, zeros: float) -> nn.Module:
    """A fresh network whose smallest weights are zero, the same share in every layer."""
    torch.manual_seed(0)
    model = lp.zoo.create(name).eval()
    for layer in model.modules():
        depthwise = isinstance(layer, nn.Conv2d) and 1 < layer.groups == layer.in_channels
        if isinstance(layer, nn.Conv2d | nn.Linear) and not depthwise:
            with torch.no_grad():
                bound = layer.weight.abs().flatten().kthvalue(max(1, round(zeros * layer.weight.numel()))).values
                layer.weight[layer.weight.abs() <= bound] = 0
    return model


def row(name: str, zeros: float, x: Tensor, folder: Path, seconds: float) -> dict[str, Any]:
    """One network at one share of zeros."""
    model = pruned(name, zeros)
    dense = lp.export(model, x, folder / "dense.onnx", plain=True)
    packed = lp.export(model, x, folder / "packed.onnx")
    times = time_files({"dense": dense.path, "packed": packed.path}, x, seconds=seconds)
    faster = Ratio.of(times["dense"], times["packed"])
    layers = sum(packed.packed_nodes.values())
    print(f"{name:9} {zeros:4.0%} zeros: {times['dense'].median_ms:8.3f} ms dense, {times['packed'].median_ms:8.3f} ms packed, "
          f"{faster.median:.2f}x; {layers} layers packed, {len(packed.dense_nodes)} stay dense", flush=True)  # fmt: skip
    return {
        "network": name, "zeros": zeros, "ms": {key: each.to_json() for key, each in times.items()},
        "faster": faster.to_json(), "packed_layers": layers, "dense_layers": packed.dense_nodes,
        "bytes": {"dense": dense.bytes, "packed": packed.bytes},
    }  # fmt: skip


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="ResNet-20 at 90 %% alone, nothing written")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    if lp.kernels.backend() != "native":
        raise SystemExit("The native core was not built, so there is nothing to measure.")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, size in list(NETWORKS.items())[: 1 if quick else None]:
            for zeros in ZEROS[1:2] if quick else ZEROS:
                x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
                rows.append(row(name, zeros, x, Path(folder), 1.0 if quick else SECONDS[name]))
    if not quick:
        result = {"rows": rows, "threads": 1, "hardware": hardware(), "versions": versions()}
        RESULT.write_text(json.dumps(result, indent=2) + "\n")
        print(RESULT.relative_to(ROOT))


if __name__ == "__main__":
    main()
