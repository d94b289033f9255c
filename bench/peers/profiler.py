"""The profiler on every network of the zoo: how long it takes, and what fvcore and ptflops count on the same network.

Runs where the peers are (`make bench-peers`), alone on the machine; writes bench/results/profiler.json. A difference is
explained by what the other counts as well: ptflops adds biases, norms, activations and pools, fvcore nothing.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

import lilliput as lp
from lilliput.measure import hardware, versions

sys.modules["torchvision"] = None  # type: ignore[assignment] # ptflops looks for it and does without
from fvcore.nn import FlopCountAnalysis  # noqa: E402
from ptflops import get_model_complexity_info  # noqa: E402

ROOT = Path(__file__).parent.parent.parent
REPEATS = 5
KINDS = ("conv", "linear", "matmul", "bmm", "einsum", "addmm")


def theirs(model: nn.Module, x: torch.Tensor) -> dict[str, Any]:
    """Multiply-adds as the peers count them; a text where a peer fails."""
    found: dict[str, Any] = {}
    try:
        counted = FlopCountAnalysis(model, x).unsupported_ops_warnings(False).uncalled_modules_warnings(False).by_operator()
        found["fvcore"] = int(sum(counted[kind] for kind in KINDS))
    except Exception as error:  # whatever a peer raises belongs into its column
        found["fvcore"] = f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"
    try:
        found["ptflops"] = int(
            get_model_complexity_info(
                model, tuple(x.shape[1:]), as_strings=False, print_per_layer_stat=False, backend="pytorch"
            )[0]
        )
    except Exception as error:
        found["ptflops"] = f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"
    return found


def row(name: str) -> dict[str, Any]:
    """One network."""
    model = lp.zoo.create(name).eval()
    x = torch.zeros(1, *model.input_shape)  # type: ignore[misc]
    seconds = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        found = lp.profile(model, x)
        seconds.append(time.perf_counter() - begun)
    return {"name": name, "params": found.params, "macs": found.macs, "seconds": statistics.median(seconds), **theirs(model, x)}


def compared(rows: list[dict[str, Any]], peer: str) -> dict[str, Any]:
    """On how many networks a peer counts the same, and how far it is off on the others, in percent."""
    off = {r["name"]: 100 * (r[peer] / r["macs"] - 1) for r in rows if isinstance(r[peer], int)}
    different = {name: value for name, value in off.items() if value}
    return {"counts": len(off), "equal": len(off) - len(different), "lowest": min(off.values()), "highest": max(off.values()),
            "different": different}  # fmt: skip


def main() -> None:
    """Everything in one table."""
    warnings.simplefilter("ignore")
    rows = [row(name) for name in lp.zoo.names()]
    peers = {peer: compared(rows, peer) for peer in ("fvcore", "ptflops")}
    slowest = max(rows, key=lambda r: r["seconds"])
    mobile = next(r for r in rows if r["name"] == "mobilenet_v2")
    path = ROOT / "bench/results/profiler.json"
    result = {"rows": rows, "peers": peers, "repeats": REPEATS, "hardware": hardware(), "versions": versions()}
    path.write_text(json.dumps(result, indent=2) + "\n")
    for r in rows:
        counts = f"{r['macs']:>15,}  {r['fvcore']!s:>15} {r['ptflops']!s:>15}"
        print(f"{r['name']:30} {counts} {r['seconds']:6.2f} s")
    for peer, found in peers.items():
        print(f"{peer}: counts {found['counts']} of {len(rows)}, {found['equal']} the same; "
              f"{found['lowest']:+.1f} to {found['highest']:+.1f} %")  # fmt: skip
    print(f"mobilenet_v2 at 224: {mobile['seconds']:.2f} s; slowest: {slowest['name']} {slowest['seconds']:.2f} s")
    print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
