"""The claim that channels are followed anywhere: half of the channels of every convolutional network, ours and torch-pruning.

    python bench/coverage.py [MODEL ...]     all models; needs .bench-venv (`make bench-peers` sets it up)

Every convolutional network of torchvision's classification models and one of each convolutional family of timm loses half of
its channels (`prune.Channels(keep=0.5)`; torch-pruning's `BasePruner(pruning_ratio=0.5)` by magnitude). Then random subsets of
what can go are removed and compared with the network in which the same channels are silenced (zero where they are made and
zero where they are read), in double precision. Networks of over 100 M parameters are planned and run only.

    pruned    it runs, and removed equals silenced
    pinned    fewer than a tenth of the channels can go; the reason is told
    wrong     it runs and computes something else
    failed    an error

One process a network and tool, with a limit on time and memory. What is done lies in out/coverage and is not done again.
Writes bench/results/coverage.json.
"""

from __future__ import annotations

import copy
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DONE = ROOT / "out/coverage"
PYTHON = ROOT / ".bench-venv/bin/python"
TOOLS = ("lilliput", "torch-pruning")
SECONDS, GIGABYTES = 1200, 16
LARGE = 100_000_000
TOLERANCE = 1e-4
TENTH = 0.1

TORCHVISION = """alexnet convnext_base convnext_large convnext_small convnext_tiny densenet121 densenet161 densenet169
    densenet201 efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_b5 efficientnet_b6
    efficientnet_b7 efficientnet_v2_l efficientnet_v2_m efficientnet_v2_s googlenet inception_v3 mnasnet0_5 mnasnet0_75
    mnasnet1_0 mnasnet1_3 mobilenet_v2 mobilenet_v3_large mobilenet_v3_small regnet_x_16gf regnet_x_1_6gf regnet_x_32gf
    regnet_x_3_2gf regnet_x_400mf regnet_x_800mf regnet_x_8gf regnet_y_128gf regnet_y_16gf regnet_y_1_6gf regnet_y_32gf
    regnet_y_3_2gf regnet_y_400mf regnet_y_800mf regnet_y_8gf resnet101 resnet152 resnet18 resnet34 resnet50
    resnext101_32x8d resnext101_64x4d resnext50_32x4d shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5
    shufflenet_v2_x2_0 squeezenet1_0 squeezenet1_1 vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn
    wide_resnet101_2 wide_resnet50_2""".split()
# timm's own modules of networks without self-attention (and csatv2, which has a little), a small network of each.
TIMM = """repvgg_a0 convmixer_768_32 convnext_atto cs3darknet_s cspnext_tiny csatv2 densenetblur121d dla34 dpn68
    efficientnet_lite0 mixnet_s fasternet_t0 focalnet_tiny_srf ghostnet_050 hardcorenas_a hgnet_tiny hgnetv2_b0 hrnet_w18_small
    inception_next_atto inception_resnet_v2 inception_v3 inception_v4 lcnetv2_small mambaout_femto convformer_s18
    poolformer_s12 mobilenetv3_small_050 nasnetalarge eca_nfnet_l0 pnasnet5large rdnet_tiny regnety_002 repghostnet_050
    repvit_m0_9 res2net50_14w_8s resnest14d resnet10t ecaresnet26t resnetv2_50 resnetv2_50x1_bit rexnet_100 selecsls42b
    legacy_seresnet18 skresnet18 starnet_s050 tresnet_m vgg11_bn ese_vovnet19b_slim xception xception41 fastvit_t8""".split()
SIZES = {"torchvision/inception_v3": 299, "torchvision/googlenet": 96}


def names() -> list[str]:
    """All subjects, as library/model."""
    return [f"torchvision/{n}" for n in TORCHVISION] + [f"timm/{n}" for n in TIMM]


# --- one network, in a process of its own -------------------------------------------------------------------------------


def libraries() -> Any:
    """torchvision and timm beside a PyTorch of another build: operators that their import expects to exist."""
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for op in ("nms", "qnms"):
        library.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import timm
    import torchvision

    return torchvision, timm, library


def build(name: str) -> tuple[Any, Any]:
    """The network with numbers of its own in every norm and scale, and an example as small as it takes."""
    import torch

    torchvision, timm, _ = libraries()
    torch.manual_seed(0)
    library, _, kind = name.partition("/")
    if library == "timm":
        model = timm.create_model(kind)
    else:
        quick = {"init_weights": False} if kind in ("googlenet", "inception_v3") else {}
        model = torchvision.models.get_model(kind, weights=None, **quick)
    lively(model)
    example = smallest(model, [SIZES.get(name, 96), 128, 160, 224, 256, 299, 331, 512])
    return settled(model, example), example


def smallest(model: Any, sizes: list[int]) -> Any:
    """The first example that the network takes, (2, 3, size, size)."""
    import torch

    for size in sizes:
        x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
        try:
            with torch.no_grad():
                model.eval()(x)
            return x
        except (RuntimeError, AssertionError, ValueError):
            continue
    raise RuntimeError("the network takes images of no size that was tried")


def lively(model: Any) -> None:
    """Constant parameters (scales, gates, zeroed norms) become numbers that differ from channel to channel."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
                low = 0.5 if float(parameter.flatten()[0]) != 0 else -0.5
                parameter.uniform_(low, 1.5 if low > 0 else 0.5)


def settled(model: Any, example: Any) -> Any:
    """Batch norms take the statistics of noise, so that no signal dies or explodes on its way; then eval mode."""
    import torch

    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    if sum(p.numel() for p in model.parameters()) <= LARGE:
        momenta = [m.momentum for m in norms]
        for m in norms:
            m.momentum = 1.0
        with torch.no_grad():
            model.train()(example)
        for m, momentum in zip(norms, momenta, strict=True):
            m.momentum = momentum
    return model.eval()


def first(output: Any) -> Any:
    """The logits among what a network returns."""
    return output[0] if isinstance(output, tuple | list) else output


def run_lilliput(name: str) -> dict[str, Any]:
    """Plan, prune, run; then random subsets against silence."""
    import torch

    from lilliput import prune
    from lilliput.core.channels import channels
    from lilliput.core.method import Look
    from lilliput.core.perform import perform
    from lilliput.errors import ModelError

    model, example = build(name)
    begun = time.process_time()
    try:
        plan = prune.Channels(keep=0.5).plan(model, Look(example))
    except ModelError as error:  # the network is refused, and the reason told
        return {"params": sum(p.numel() for p in model.parameters()), "status": "pinned", "why": str(error)[:300]}
    planned = time.process_time() - begun
    found = channels(model, example)
    small = perform(model, plan)
    with torch.no_grad():
        first(small(example))
    result = sizes(model, small) | {
        "plan_seconds": round(planned, 2), "size": example.shape[-1], "atoms": len(found.atoms), "groups": len(found.groups),
        "removable": removable(found), "reasons": {r: len(s) for r, s in found.reasons().items()},
    }  # fmt: skip
    if result["params"] <= LARGE:
        draw = random.Random(0)
        model, x = model.double(), example.double()
        for share in (0.5, None):
            atoms = [
                a
                for g in found.groups
                for a in draw.sample(g.atoms, int((share or draw.random()) * len(g.atoms)))
            ]  # fmt: skip
            edits = found.remove(atoms)
            gone = [(e.site, e.axis, e.keep) for e in edits]
            compare(result, model, perform(model, edits), silence(model, gone), x)
    pinned = result["removable"] < TENTH
    why = max(result["reasons"], key=lambda r: result["reasons"][r], default="") if pinned else ""
    return result | {"status": status(result, pinned), "why": why}


def status(result: dict[str, Any], pinned: bool) -> str:
    """The word for the table."""
    if result.get("difference", 0.0) > TOLERANCE:
        return "wrong"
    return "pinned" if pinned else "pruned"


def compare(result: dict[str, Any], model: Any, small: Any, quiet: Any, x: Any) -> None:
    """The largest difference between removed and silenced, beside what silencing changes at all."""
    import torch

    with torch.no_grad():
        was, expected, got = first(model(x)), first(quiet(x)), first(small(x))
    for key, value in (("difference", (expected - got).abs().max()), ("effect", (expected - was).abs().max())):
        result[key] = max(result.get(key, 0.0), float(torch.nan_to_num(value, nan=float("inf"))))


def removable(found: Any) -> float:
    """Share of the channels that layers make (with a weight) that can go."""
    import torch

    some = torch.tensor(sorted(found.atoms), dtype=torch.long)
    made = [torch.isin(s.atoms, some).float() for s in found.slots if s.axis == "out"]
    return round(float(torch.cat(made).mean()), 3) if made else 0.0


def sizes(model: Any, small: Any) -> dict[str, Any]:
    """Parameters before and after."""
    return {"params": sum(p.numel() for p in model.parameters()), "params_left": sum(p.numel() for p in small.parameters())}


def silence(model: Any, gone: list[tuple[str, str, tuple[int, ...]]]) -> Any:
    """A copy in which channels outside `keep` are zero where layers make them and where layers read them."""
    import torch

    quiet = copy.deepcopy(model)
    with torch.no_grad():
        for site, axis, keep in gone:
            if axis.isdigit():
                tensor = quiet.get_parameter(site) if site in dict(quiet.named_parameters()) else quiet.get_buffer(site)
                zero(tensor, int(axis), keep)
            else:
                hush(quiet.get_submodule(site), axis, keep)
    return quiet


def zero(tensor: Any, dim: int, keep: tuple[int, ...]) -> None:
    """Zeros outside `keep`."""
    lost = sorted(set(range(tensor.shape[dim])) - set(keep))
    tensor[(slice(None),) * dim + (lost,)] = 0


def hush(layer: Any, axis: str, keep: tuple[int, ...]) -> None:
    """Zero one axis of a layer."""
    from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

    transposed, groups = isinstance(layer, _ConvTransposeNd), getattr(layer, "groups", 1)
    if axis == "out":
        if transposed:
            block = layer.weight.view(groups, -1, *layer.weight.shape[1:]).transpose(1, 2)  # (g, out/g, in/g, ...)
            zero(block.flatten(0, 1) if groups == 1 else block[0], 0, keep) if groups == 1 else None
        elif layer.weight is not None:
            zero(layer.weight.data, 0, keep)
        if getattr(layer, "bias", None) is not None:
            zero(layer.bias.data, 0, keep)
    elif transposed:
        zero(layer.weight.data, 0, keep)
    elif isinstance(layer, _ConvNd) and groups > 1:
        each, rows = layer.in_channels // groups, layer.out_channels // groups
        for g in range(groups):
            zero(layer.weight.data[g * rows : (g + 1) * rows], 1, tuple(k - g * each for k in keep if k // each == g))
    else:
        zero(layer.weight.data, 1, keep)


def run_torch_pruning(name: str) -> dict[str, Any]:
    """The same with torch-pruning: classifiers kept out, as its own examples do; then its groups against silence."""
    import torch
    import torch_pruning as tp

    model, example = build(name)
    model = model.double() if sum(p.numel() for p in model.parameters()) <= LARGE else model
    x = example.to(next(model.parameters()).dtype)
    whole, paths = copy.deepcopy(model), {m: p for p, m in model.named_modules()}
    last = [m for m in model.modules() if 1000 in (getattr(m, "out_features", 0), getattr(m, "out_channels", 0))]
    begun = time.process_time()
    pruner = tp.pruner.BasePruner(
        model, x, importance=tp.importance.MagnitudeImportance(p=1), pruning_ratio=0.5, ignored_layers=last
    )
    # Each group is worked out on the network as the ones before left it, so places are counted in what is left then.
    left: dict[tuple[str, str], list[int]] = {}
    planned, groups = 0.0, 0
    for group in pruner.step(interactive=True):
        planned, groups = planned + time.process_time() - begun, groups + 1
        gone: dict[tuple[str, str], set[int]] = {}
        for dependency, indices in group:
            module = dependency.target.module
            if module in paths and list(module.parameters(recurse=False)):
                axis = "in" if dependency.handler.__name__ == "prune_in_channels" else "out"
                gone.setdefault((paths[module], axis), set()).update(indices)
        for (site, axis), lost in gone.items():
            there = left.setdefault((site, axis), list(range(channels_of(whole, site, axis))))
            left[site, axis] = [c for i, c in enumerate(there) if i not in lost]
        group.prune()
        begun = time.process_time()
    with torch.no_grad():
        first(model(x))
    result = sizes(whole, model) | {"plan_seconds": round(planned, 2), "size": example.shape[-1], "groups": groups}
    if result["params"] <= LARGE:
        compare(result, whole, model, silence(whole, [(*key, tuple(keep)) for key, keep in left.items()]), x)
    pinned = result["params_left"] > (1 - TENTH / 2) * result["params"]
    return result | {"status": status(result, pinned), "why": ""}


def channels_of(model: Any, site: str, axis: str) -> int:
    """How many channels a layer makes, or reads."""
    layer = model.get_submodule(site)
    kinds = ("out_channels", "out_features", "num_features") if axis == "out" else ("in_channels", "in_features")
    found = next((getattr(layer, k) for k in kinds if k in vars(layer)), None)
    return int(layer.weight.shape[-1] if found is None else found)


def work(tool: str, name: str) -> None:
    """One network, one tool; the result on the last line."""
    import resource

    import torch

    resource.setrlimit(resource.RLIMIT_AS, (GIGABYTES << 30, GIGABYTES << 30))
    torch.set_num_threads(1)
    begun = time.process_time()
    try:
        found = run_lilliput(name) if tool == "lilliput" else run_torch_pruning(name)
    except Exception as error:
        found = {"status": "failed", "why": f"{type(error).__name__}: {str(error).strip().splitlines()[0:1]}"[:200]}
        if os.environ.get("COVERAGE_TRACEBACK"):
            raise
    print(json.dumps(found | {"seconds": round(time.process_time() - begun, 1)}))


# --- all of them --------------------------------------------------------------------------------------------------------


def one(tool: str, name: str) -> dict[str, Any]:
    """The stored result, or that of a process of its own."""
    path = DONE / tool / f"{name.replace('/', '.')}.json"
    if path.exists():
        return dict(json.loads(path.read_text()))
    command = [str(PYTHON), str(Path(__file__).resolve()), "--worker", tool, name]
    source = os.environ.get("PYTHONPATH", str(ROOT / "src"))
    environment = os.environ | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=environment)
        lines = done.stdout.strip().splitlines()
        found = json.loads(lines[-1]) if lines and done.returncode == 0 else None
        found = found or {"status": "failed", "why": f"exit code {done.returncode}: {done.stderr[-200:]}"}
    except subprocess.TimeoutExpired:
        found = {"status": "failed", "why": f"not done after {SECONDS} s"}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    return found


def line(tool: str, name: str, found: dict[str, Any]) -> str:
    """One row of the table."""
    share = f"{found['removable']:.0%}" if "removable" in found else ""
    left = f"{found['params_left'] / found['params']:.2f}" if "params_left" in found else ""
    off = f"{found['difference']:.0e}" if "difference" in found else ""
    return f"{name:36} {tool:14} {found['status']:7} {share:>5} {left:>5} {off:>6} {found['seconds'] if 'seconds' in found else '':>6} {found['why'][:90]}"  # noqa: E501


def summary(results: dict[str, dict[str, dict[str, Any]]]) -> dict[str, dict[str, int]]:
    """How many networks ended in each status, for each tool."""
    words = ("pruned", "pinned", "wrong", "failed")
    return {t: {w: sum(r[t]["status"] == w for r in results.values() if t in r) for w in words} for t in TOOLS}


def main() -> None:
    """Run what is left and print the table."""
    if sys.argv[1:2] == ["--worker"]:
        work(*sys.argv[2:4])
        return
    if not PYTHON.exists():
        sys.exit("coverage: timm, torchvision and torch-pruning are in .bench-venv; `make bench-peers` sets it up")
    tools = [t for t in TOOLS if f"--only={t}" in sys.argv] or list(TOOLS)
    wanted = [a for a in sys.argv[1:] if not a.startswith("--")]
    print(f"{'network':36} {'tool':14} {'status':7} {'can go':>5} {'left':>5} {'differ':>6} {'s':>6} why")
    results: dict[str, dict[str, dict[str, Any]]] = {}
    for name in names():
        if wanted and not any(w in name for w in wanted):
            continue
        for tool in tools:
            results.setdefault(name, {})[tool] = found = one(tool, name)
            print(line(tool, name, found), flush=True)
    counts = summary(results)
    for tool in tools:
        print(f"{tool}: " + ", ".join(f"{n} {w}" for w, n in counts[tool].items()))
    if not wanted and tools == list(TOOLS):
        from importlib.metadata import version

        sys.path.insert(0, str(ROOT / "src"))
        from lilliput.measure import hardware, versions

        peers = dict(line.split("==") for line in (ROOT / "bench/peers.txt").read_text().splitlines() if "==" in line)
        text = {"command": "python bench/coverage.py", "summary": counts, "networks": results, "hardware": hardware(),
                "versions": versions() | peers | {"torch": version("torch")}}  # fmt: skip
        path = ROOT / "bench/results/coverage.json"
        path.write_text(json.dumps(text, indent=1) + "\n")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
