"""How long it takes to plan the pruning of ResNet-50 at half its channels: ours and torch-pruning's, in turns, one thread.

Planning is which channels belong together, what each is worth (group norm of the weights, on both sides), and which go. Ours
then tries the plan: the network without these channels must compute what it computes with them silenced. "To the network" adds
the cutting. Runs where the peers are (`make bench-peers`), alone on the machine; writes bench/results/planning.json.
"""

from __future__ import annotations

import copy
import json
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch_pruning as tp
from torch import nn

import lilliput as lp
from lilliput.core.channels import channels
from lilliput.core.method import Look
from lilliput.measure import hardware, versions

ROOT = Path(__file__).parent.parent.parent
REPEATS = 7
HALF = lp.prune.Channels(keep=0.5, criterion="group_norm")
NETWORKS = ("resnet50", "mobilenet_v2", "densenet121")


def ours_chosen(model: nn.Module, x: torch.Tensor) -> None:
    """Names, worth and choice."""
    found = channels(model, x, verify=False)
    HALF.choose(model, Look(x), found)


def ours_planned(model: nn.Module, x: torch.Tensor) -> None:
    """The edits, tried out."""
    HALF.plan(model, Look(x))


def ours(model: nn.Module, x: torch.Tensor) -> None:
    """The network."""
    HALF(model, Look(x))


def pruner(model: nn.Module, x: torch.Tensor) -> tp.pruner.MetaPruner:
    """torch-pruning's, with its graph built."""
    return tp.pruner.MetaPruner(
        model, x, importance=tp.importance.GroupMagnitudeImportance(p=2), pruning_ratio=0.5,
        ignored_layers=[m for m in model.modules() if isinstance(m, nn.Linear)],
    )  # fmt: skip


def theirs_planned(model: nn.Module, x: torch.Tensor) -> None:
    """The groups to cut, not yet cut; what they are is known only after those before them, so none is applied."""
    for _ in pruner(model, x).step(interactive=True):
        pass


def theirs(model: nn.Module, x: torch.Tensor) -> None:
    """The network."""
    pruner(model, x).step()


CONTESTANTS: dict[str, Callable[[nn.Module, torch.Tensor], None]] = {
    "ours, names and worth": ours_chosen,
    "ours, tried out": ours_planned,
    "torch-pruning, planned": theirs_planned,
    "ours, to the network": ours,
    "torch-pruning, to the network": theirs,
}


def row(name: str) -> dict[str, Any]:
    """The medians of one network, in seconds."""
    torch.manual_seed(0)
    model, x = lp.zoo.create(name).eval(), torch.randn(1, 3, 224, 224)
    taken: dict[str, list[float]] = {label: [] for label in CONTESTANTS}
    for turn in range(REPEATS + 1):
        for label, contestant in CONTESTANTS.items():
            mine = copy.deepcopy(model)  # theirs cut what they are given
            begun = time.perf_counter()
            contestant(mine, x)
            if turn:  # the first is for warming up
                taken[label].append(time.perf_counter() - begun)
    return {"network": name, "seconds": {label: round(statistics.median(times), 4) for label, times in taken.items()}}


def main() -> None:
    """Measure, print and write."""
    torch.set_num_threads(1)
    rows = [row(name) for name in NETWORKS]
    for each in rows:
        print(f"{each['network']:14}", ", ".join(f"{label} {s:.2f} s" for label, s in each["seconds"].items()))
    result = {"rows": rows, "repeats": REPEATS, "threads": 1, "torch_pruning": version("torch-pruning"),
              "hardware": hardware(), "versions": versions()}  # fmt: skip
    path = ROOT / "bench/results/planning.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
