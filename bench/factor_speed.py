"""How long it takes to factorize ResNet-18 and how much memory, and the same decompositions by tensorly at equal error.

    python bench/factor_speed.py [--net resnet18] [--rank 0.25] [--threads 2] [--result FILE]

Each form runs in a process of its own. Memory is what is there at the peak beyond the network that goes in and the one that
comes out, in times the largest weight, and is given twice: as PyTorch's allocator counts it (tensors and the workspaces of
its decompositions), and as the system sees it (resident pages, which also holds what libraries and the allocator of C keep
back for the next time). Time and both kinds of memory come from three runs, since counting costs time.
The largest layer is then decomposed by both. Writes bench/results/factor_speed.json. Run it alone.
tensorly: `pip install -e .[dev]`.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

import lilliput as lp
from lilliput.core.perform import perform
from lilliput.factor import Factorize, forms
from lilliput.factor.als import fit
from lilliput.factor.shape import shape
from lilliput.factor.tucker import bases
from lilliput.measure import hardware, versions

ROOT = Path(__file__).parent.parent
CP_RANK = 64


def one(net: str, form: str, rank: float) -> dict[str, Any]:
    """Seconds to plan and perform, and memory at the peak of both together."""
    torch.manual_seed(0)
    model, look = lp.zoo.create(net).eval(), lp.Look(torch.zeros(1, 3, 64, 64))
    warm(form, rank)

    def work() -> tuple[torch.nn.Module, int, float, float]:
        begun = time.perf_counter()
        edits = Factorize(method=form, rank=rank).plan(model, look)
        planned = time.perf_counter()
        made = perform(model, edits)
        return made, len(edits), planned - begun, time.perf_counter() - planned

    made, layers, planned, performed = work()
    kept, largest = held(made), max(4 * p.numel() for p in model.parameters())
    del made
    counted, seen = allocated(work) - kept, resident(work) - kept
    return {"form": form, "rank": rank, "plan_s": planned, "perform_s": performed, "layers": layers,
            "largest_weight_bytes": largest, "made_bytes": kept, "extra_bytes": counted, "resident_extra_bytes": seen,
            "times_largest": counted / largest, "resident_times_largest": seen / largest}  # fmt: skip


def warm(form: str, share: float) -> None:
    """Decompose a small layer, so that libraries are loaded and have taken what they hold for good."""
    cls, layer = forms[form], torch.nn.Conv2d(64, 64, 3, padding=1, bias=False)
    ranks = [max(1, round(share * most)) for most in cls.largest(shape(layer), **cls.options)]
    cls.like(layer, rank=ranks[0] if len(ranks) == 1 else ranks).absorb(layer)


def held(model: torch.nn.Module) -> int:
    """Bytes of a network's tensors."""
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))


def allocated(work: Callable[[], Any]) -> int:
    """Bytes that PyTorch has allocated at the peak of a work, what it returns included."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(accumulate(sizes))


def resident(work: Callable[[], Any]) -> int:
    """Bytes of the pages that come to be resident at the peak of a work: Linux keeps the highest number, once it is reset."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what earlier work left behind would be used again, and not be seen
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    work()
    return status("VmHWM") - before


def status(name: str) -> int:
    """A number of bytes from this process's status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


def rival() -> list[dict[str, Any]]:
    """The largest kernel of ResNet-18 in CP and Tucker, by us and by tensorly, with both errors."""
    import tensorly
    from tensorly.decomposition import parafac, partial_tucker

    tensorly.set_backend("pytorch")
    torch.manual_seed(0)
    weight = lp.zoo.create("resnet18").get_submodule("layer4.1.conv2").weight.detach()
    rows = []

    def timed(name: str, make: Any) -> None:
        begun = time.perf_counter()
        error = float((make() - weight).norm() / weight.norm())
        rows.append({"what": name, "seconds": time.perf_counter() - begun, "error": error})

    def ours_tucker() -> torch.Tensor:
        u, v = (b.float() for b in bases(weight, 128, 128))
        return torch.einsum("ncyx,na,cb,ma,db->mdyx", weight, u, v, u, v)

    def theirs_tucker() -> torch.Tensor:
        (core, factors), _ = partial_tucker(weight, rank=[128, 128], modes=[0, 1], n_iter_max=10)
        return tensorly.tenalg.multi_mode_dot(core, factors, modes=[0, 1])

    timed("tucker2 128, 128: lilliput", ours_tucker)
    timed("tucker2 128, 128: tensorly", theirs_tucker)
    timed(f"cp {CP_RANK}: lilliput", lambda: torch.einsum("nr,cr,yr,xr->ncyx", *fit(weight, CP_RANK)))
    timed(f"cp {CP_RANK}: tensorly", lambda: tensorly.cp_to_tensor(
        parafac(weight, CP_RANK, n_iter_max=40, init="random", random_state=0, tol=1e-4)))  # fmt: skip
    return rows


def main() -> None:
    """Every form, then the rival."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="resnet18")
    parser.add_argument("--rank", type=float, default=0.25)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--result", type=Path, default=ROOT / "bench/results/factor_speed.json")
    parser.add_argument("--forms", nargs="+", default=sorted(forms), choices=sorted(forms))
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.only:
        print(json.dumps(one(arguments.net, arguments.only, arguments.rank)))
        return
    rows = []
    for form in arguments.forms:
        rank = arguments.rank / 9 if form == "cp" else arguments.rank  # its largest rank has a factor k·k more
        command = [sys.executable, __file__, "--net", arguments.net, "--rank", str(rank), "--only", form,
                   "--threads", str(arguments.threads)]  # fmt: skip
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        row = rows[-1]
        print(
            f"{form:16} plan {row['plan_s']:6.2f} s  perform {row['perform_s']:6.2f} s  {row['layers']:3} edits  "
            f"{row['times_largest']:.1f}x the largest weight, {row['resident_times_largest']:.1f}x resident",
            flush=True,
        )
    against = rival()
    for row in against:
        print(f"{row['what']:28} {row['seconds']:6.2f} s  error {row['error']:.4f}")
    result = {"net": arguments.net, "threads": arguments.threads, "rows": rows, "against": against,
              "hardware": hardware(), "versions": versions()}  # fmt: skip
    arguments.result.write_text(json.dumps(result, indent=2) + "\n")
    print(arguments.result)


if __name__ == "__main__":
    main()
