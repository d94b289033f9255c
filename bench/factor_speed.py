"""How long it takes to factorize ResNet-18 and how much memory, and the same decompositions by tensorly at equal error.

    python bench/factor_speed.py [--net resnet18] [--rank 0.25] [--threads 2]

Each form runs in a process of its own, so that its peak memory is its own; the largest layer is then decomposed by both.
Writes bench/results/factor_speed.json. Run it alone. tensorly: `pip install -e .[dev]`.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

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
    """Seconds to plan and perform, and peak memory."""
    extra, largest = memory(form, rank)
    torch.manual_seed(0)
    model = lp.zoo.create(net).eval()
    begun = time.perf_counter()
    edits = Factorize(method=form, rank=rank).plan(model, lp.Look(torch.zeros(1, 3, 64, 64)))
    planned = time.perf_counter()
    perform(model, edits)
    done = time.perf_counter()
    return {"form": form, "rank": rank, "plan_s": planned - begun, "perform_s": done - planned, "layers": len(edits),
            "extra_bytes": extra, "largest_weight_bytes": largest, "times_largest": extra / largest}  # fmt: skip


def memory(form: str, share: float) -> tuple[int, int]:
    """Bytes that decomposing ResNet-18's largest layer takes at its peak beyond layer and chain, and bytes of its weight."""
    cls = forms[form]
    for size in (32, 512):  # a small one first, so that libraries are loaded
        layer = torch.nn.Conv2d(size, size, 3, padding=1, bias=False)
        ranks = [max(1, round(share * most)) for most in cls.largest(shape(layer), **cls.options)]
        chain = cls.like(layer, rank=ranks[0] if len(ranks) == 1 else ranks)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        chain.absorb(layer)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 1024 * (after - before), 4 * layer.weight.numel()


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
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.only:
        print(json.dumps(one(arguments.net, arguments.only, arguments.rank)))
        return
    rows = []
    for form in sorted(forms):
        rank = arguments.rank / 9 if form == "cp" else arguments.rank  # its largest rank has a factor k·k more
        command = [sys.executable, __file__, "--net", arguments.net, "--rank", str(rank), "--only", form,
                   "--threads", str(arguments.threads)]  # fmt: skip
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        row = rows[-1]
        print(
            f"{form:16} plan {row['plan_s']:6.2f} s  perform {row['perform_s']:6.2f} s  {row['layers']:3} edits  "
            f"{row['times_largest']:.1f}x the largest weight",
            flush=True,
        )
    against = rival()
    for row in against:
        print(f"{row['what']:28} {row['seconds']:6.2f} s  error {row['error']:.4f}")
    result = {"net": arguments.net, "threads": arguments.threads, "rows": rows, "against": against,
              "hardware": hardware(), "versions": versions()}  # fmt: skip
    path = ROOT / "bench/results/factor_speed.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
