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
from lilliput.factor import Factorize, forms
from lilliput.factor.chain import kernel
from lilliput.factor.ranks import Offer
from lilliput.factor.sites import sites
from lilliput.factor.times import Layered, times
from lilliput.measure import hardware, versions

ROOT = Path(__file__).parent.parent
EXAMPLE = torch.zeros(1, 3, 224, 224)
GIVEN = 0.25  # of the largest rank


def given(model: nn.Module, method: str, clock: Clock) -> dict[str, Any]:
    """A network at given ranks: foreseen and measured."""
    plan = {e.site: e.spec for e in Factorize(method=method, rank=GIVEN).plan(model, lp.Look(EXAMPLE)) if isinstance(e, Swap)}
    small = Factorize(method=method, rank=GIVEN)(model, lp.Look(EXAMPLE))
    foreseen = None
    if isinstance(clock, Layered):
        ladders = []
        for site in sites(model, EXAMPLE)[0]:
            if site.name in plan:
                form = forms[method] if forms[method].refuses(site.seen, **forms[method].options) is None else forms["svd"]
                offer = Offer(site, form, dict(form.options), kernel(site.layer).detach())
                rank = plan[site.name]["rank"]
                ladders.append((site, [offer.rung((rank,) if isinstance(rank, int) else tuple(rank))]))
        saved = sum(own - rungs[0] for own, rungs in times(model, ladders, clock, 1))
        foreseen = clock(model) - saved
    found = clock.compare({"whole": model, "small": small})
    whole, ms = found["whole"].median_ms, found["small"].median_ms
    return {"method": method, "rank": GIVEN, "whole_ms": whole, "foreseen_ms": foreseen, "ms": ms, "faster": whole / ms,
            "foreseen_faster": None if foreseen is None else whole / foreseen}  # fmt: skip


def aimed(model: nn.Module, method: tuple[str, ...], target: float, clock: Clock) -> dict[str, Any]:
    """A network with a latency target."""
    small = Factorize(method=method, latency=target, multiple=8)(model, lp.Look(EXAMPLE, clock=clock))
    found = clock.compare({"whole": model, "small": small})
    before, after = lp.profile(model, EXAMPLE), lp.profile(small, EXAMPLE)
    ratio = found["small"].median_ms / found["whole"].median_ms
    return {"method": method, "target": target, "ratio": ratio, "met": ratio <= target,
            "macs": after.macs / before.macs, "factorized": len(lp.edits(small)),
            "whole_ms": found["whole"].to_json(), "ms": found["small"].to_json()}  # fmt: skip


def main() -> None:
    """Both parts for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=["resnet18", "vgg16"])
    parser.add_argument("--targets", type=float, nargs="+", default=[0.5, 0.7])
    parser.add_argument("--methods", nargs="+", default=["svd", "spatial", "tucker2"])
    arguments = parser.parse_args()
    rows: dict[str, Any] = {}
    for net in arguments.nets:
        torch.manual_seed(0)
        model, clock = lp.zoo.create(net).eval(), Clock(EXAMPLE)
        rows[net] = {"given": [given(model, name, clock) for name in arguments.methods],
                     "aimed": [aimed(model, tuple(arguments.methods), t, clock) for t in arguments.targets]}  # fmt: skip
        for row in rows[net]["given"]:
            foreseen = "no table" if row["foreseen_faster"] is None else f"{row['foreseen_faster']:.2f}x foreseen"
            print(f"{net:9} {row['method']:9} at {GIVEN} of the ranks: {row['faster']:.2f}x faster, {foreseen}", flush=True)
        for row in rows[net]["aimed"]:
            met = "met" if row["met"] else "MISSED"
            print(f"{net:9} target {row['target']:.2f}x: {row['ratio']:.3f}x, {met}, {row['macs']:.2f} of the macs", flush=True)
    path = ROOT / "bench/results/factor_latency.json"
    path.write_text(json.dumps({"nets": rows, "hardware": hardware(), "versions": versions()}, indent=2) + "\n")
    print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
