"""Latency targets of factorization on large networks: what was asked for, what the layer table foresaw, what is measured.

    python bench/factor_latency.py [--nets resnet18 vgg16] [--targets 0.5 0.7] [--methods svd spatial tucker2]

Random weights and images of 224x224, so nothing is said about accuracy. Writes bench/results/factor_latency.json. Run it alone.
Two parts: networks at given ranks, with the time that the table of layers foresees for them; networks with a latency target.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

import lilliput as lp
from lilliput.clock import Clock
from lilliput.core.edits import Swap
from lilliput.core.perform import perform
from lilliput.factor import Factorize, forms
from lilliput.factor.chain import kernel
from lilliput.factor.ranks import Offer
from lilliput.factor.sites import sites
from lilliput.factor.times import times
from lilliput.measure import Ratio, hardware, versions

ROOT = Path(__file__).parent.parent
GIVEN, WITHIN = 0.25, 0.15  # of the largest rank; of the speed-up that is foreseen


def given(model: nn.Module, method: str, clock: Clock) -> dict[str, Any]:
    """A network at given ranks: foreseen by the table of layers, and measured."""
    look = lp.Look(clock.example)
    plan = Factorize(method=method, rank=GIVEN).plan(model, look)
    swaps = {edit.site: edit for edit in plan if isinstance(edit, Swap)}
    ladders = []
    for site in (site for site in sites(model, clock.example)[0] if site.name in swaps):
        form, rank = forms[swaps[site.name].layer], swaps[site.name].spec["rank"]
        offer = Offer(site, form, dict(form.options), kernel(site.layer).detach())
        ladders.append((site, [offer.priced((rank,) if isinstance(rank, int) else tuple(rank))]))
    saved = sum(own - rungs[0] for own, rungs in times(model, ladders, clock, len(clock.example)))
    now = clock(model)
    found = clock.compare({"whole": model, "small": perform(model, plan)})
    whole, ms = found["whole"].median_ms, found["small"].median_ms
    foreseen = now / (now - saved)
    return {"method": method, "rank": GIVEN, "whole_ms": whole, "ms": ms, "faster": whole / ms, "foreseen_faster": foreseen,
            "off": whole / ms / foreseen - 1, "kept": abs(whole / ms / foreseen - 1) <= WITHIN}  # fmt: skip


def aimed(model: nn.Module, method: tuple[str, ...], target: float, clock: Clock) -> dict[str, Any]:
    """A network with a latency target."""
    small = Factorize(method=method, latency=target, multiple=8)(model, lp.Look(clock.example, clock=clock))
    found = clock.compare({"whole": model, "small": small})
    before, after = lp.profile(model, clock.example), lp.profile(small, clock.example)
    ratio = Ratio.of(found["small"], found["whole"]).median
    return {"method": method, "target": target, "ratio": ratio, "met": ratio <= target,
            "macs": after.macs / before.macs, "factorized": len(lp.edits(small)),
            "whole_ms": found["whole"].to_json(), "ms": found["small"].to_json()}  # fmt: skip


def main() -> None:
    """Both parts for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=["resnet18", "vgg16"])
    parser.add_argument("--targets", type=float, nargs="*", default=[0.5, 0.7])
    parser.add_argument("--methods", nargs="*", default=["svd", "spatial", "tucker2"])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--result", type=Path, default=ROOT / "bench/results/factor_latency.json")
    arguments = parser.parse_args()
    rows: dict[str, Any] = {}
    for net in arguments.nets:
        torch.manual_seed(0)
        model, clock = lp.zoo.create(net).eval(), Clock(torch.zeros(1, 3, arguments.size, arguments.size))
        rows[net] = {"given": [given(model, name, clock) for name in arguments.methods],
                     "aimed": [aimed(model, tuple(arguments.methods), t, clock) for t in arguments.targets]}  # fmt: skip
        for row in rows[net]["given"]:
            foreseen = f"{row['foreseen_faster']:.2f}x foreseen, {row['off']:+.0%}" + ("" if row["kept"] else " MISSED")
            print(f"{net:9} {row['method']:9} at {GIVEN} of the ranks: {row['faster']:.2f}x faster, {foreseen}", flush=True)
        for row in rows[net]["aimed"]:
            met = "met" if row["met"] else "MISSED"
            print(f"{net:9} target {row['target']:.2f}x: {row['ratio']:.3f}x, {met}, {row['macs']:.2f} of the macs", flush=True)
        content = {"nets": rows, "size": arguments.size, "hardware": hardware(), "versions": versions()}
        arguments.result.write_text(json.dumps(content, indent=2) + "\n")
    print(arguments.result)


if __name__ == "__main__":
    main()
