"""Writes the measured tables of the pages from bench/results; `--check` only says whether they are as they should be."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tables
from described import benchmarks, recipes
from tables import load, machine

ROOT = Path(__file__).parent.parent


def number(value: float, digits: int = 3) -> str:
    """Thousands separated, short."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.{digits}g}"


def table(result: dict[str, Any]) -> str:
    """Before and after, as Markdown."""
    before, after = result["metrics"]["baseline"], result["metrics"]["compressed"]
    sides = (before, after)
    points = 100 * (after["accuracy"] - before["accuracy"])
    rows = [("test accuracy", *(f"{100 * s['accuracy']:.2f} %" for s in sides), f"{points:+.2f} points")]
    for said, key in (("`model.onnx`, bytes", "onnx_bytes"), ("`model.lil`, bytes", "file_bytes"), ("multiply-adds", "macs")):
        rows.append((said, *(number(s[key]) for s in sides), f"{before[key] / after[key]:.1f}x less"))
    times = [s["latency_ms"] for s in sides]
    rows.append(
        (
            "latency, ms (median)",
            *(f"{t['median']:.3g}" for t in times),
            f"{times[0]['median'] / times[1]['median']:.2f}x faster",
        )
    )
    lines = ["| | before | after | |", "|---|---:|---:|---:|", *(f"| {' | '.join(row)} |" for row in rows)]
    machine, parts, seed = result["hardware"], result["versions"], result["metrics"]["seed"]
    vnni = f" {'with' if 'avx512_vnni' in machine['flags'] else 'without'} AVX-512 VNNI"
    again = ", ".join(f"{r['ratio']['median']:.2f}x" for r in result["fresh"])
    lines += [
        "",
        f"{times[0]['runtime']} {parts['onnxruntime']}, {times[0]['threads']} thread, batch 1, "
        f"{times[0]['runs']} alternating runs; "
        f"{machine['cpu']}{vnni}, {machine['cores']} cores; torch {parts['torch']}; seed {seed}. "
        f"Measured again in {result['repeats']} runs: {again} of the original latency. "
        f"Searching and measuring took {result['seconds'] - fresh_training(result):.0f} s"
        f"{trained(result)}.",
    ]
    return "\n".join(lines)


def training(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The steps that trained."""
    return [s for s in result["steps"] if s["step"].startswith("fit(")]


def fresh_training(result: dict[str, Any]) -> float:
    """Seconds of training inside this run, and not taken from the store."""
    return sum(s["seconds"] for s in training(result) if not s["reused"])


def trained(result: dict[str, Any]) -> str:
    """How long the training took when it was done."""
    seconds = sum(s["seconds"] for s in training(result))
    return f", training {seconds / 60:.0f} minutes" if seconds > 90 else f", training {seconds:.0f} s" if seconds else ""


def section(name: str, said: str) -> str:
    """One command with its table and the recipe that was chosen."""
    path = ROOT / "bench/results" / f"main_job_{name}.json"
    if not path.exists():
        return ""
    result = json.loads(path.read_text())
    recipe = "\n".join(f"    {line}" for line in result["recipe"].strip().splitlines())
    return (
        f"{said}\n\n    {result['command']}\n\n{table(result)}\n\nThe recipe it chose, as `recipe.yaml` has it:\n\n{recipe}\n"
    )


def searched(name: str, said: str) -> str:
    """What a search by hours ended with, and its recipe, where it met its budget."""
    run = load("search")["runs"].get(name)
    if run is None or run["failures"]:
        return ""  # the pages of searches say what was missed
    sides = [100 * run[key] for key in ("accuracy_before", "accuracy")]
    recipe = "\n".join(f"    {line}" for line in run["recipe"].strip().splitlines())
    lines = [
        "| | before | after |", "|---|---:|---:|", f"| test accuracy | {sides[0]:.2f} % | {sides[1]:.2f} % |",
        f"| `model.lil`, bytes (the budget) | {run['bytes_before']:,} | {run['bytes']:,} |",
        f"| `model.onnx`, bytes | {run['onnx_before']:,} | {run['onnx']:,} |", f"| latency | 1.00x | {run['ratio']:.2f}x |",
    ]  # fmt: skip
    took = f"{run['seconds'] / 3600:.1f} hours, on {run['workers']} processes of a core each. {machine(run)}"
    table = "\n".join(lines)
    return f"{said}\n\n    {run['command']}\n\n{table}\n\nIt took {took} The recipe it found:\n\n{recipe}\n"


def text() -> str:
    """Everything between the marks."""
    parts = [
        section("cifar", "A ResNet-56 for CIFAR-10 in half its latency, losing at most one point of accuracy:"),
        section("cifar_small", "With a size budget that int8 alone cannot meet, it rounds the weights for the file as well:"),
        searched("resnet56", "With time to train candidates (`--hours`), by search:"),
        section("digits", "What `make run` prints:"),
    ]
    return "\n".join(part for part in parts if part)


def mobile() -> str:
    """The small networks trained, and what three ideas are worth."""
    result = load("mobile")
    lines = ["| network | parameters | multiply-adds | ms | test accuracy, % | seeds |", "|---|---:|---:|---:|---:|---:|"]
    for r in result["rows"]:
        spread = "" if r["spread"] is None else f" ± {r['spread']:.2f}"
        cells = (r["label"], f"{r['params']:,}", f"{r['macs'] / 1e6:.1f} M", f"{r['latency_ms']['median']:.3f}")
        lines.append(f"| {' | '.join(cells)} | {r['accuracy']:.2f}{spread} | {len(r['seeds'])} |")
    said = {
        "shuffle": "the channel shuffle", "shuffle (longer)": "in 10 epochs", "shuffle (narrow)": "at width 0.125",
        "linear": "a linear bottleneck instead of ReLU6", "learned": "learned instead of fixed shifts",
    }  # fmt: skip
    gains = [f"{said[i['idea']]} {i['mean']:+.2f}" + (f" ± {i['spread']:.2f}" if i["spread"] else "") for i in result["ideas"]]
    return "\n".join([*lines, "", f"Worth in points (mean and deviation of the same seeds): {'; '.join(gains)}.", "",
                      f"{result['data']}. {result['schedule']} {machine(result)}"])  # fmt: skip


def profiler() -> str:
    """How long counting takes, and what two other counters find."""
    result = load("profiler")
    times = {r["name"]: r["seconds"] for r in result["rows"]}
    slow = max(times, key=lambda name: times[name])
    lines = [
        f"MobileNetV2 at 224 is counted in {times['mobilenet_v2']:.2f} s, the slowest of the {len(times)} networks (`{slow}`) "
        f"in {times[slow]:.2f} s (medians of {result['repeats']})."
    ]
    for peer, found in result["peers"].items():
        rest = "" if found["equal"] == found["counts"] else f"; others by {found['lowest']:+.1f} to {found['highest']:+.1f} %"
        lines.append(f"`{peer}` counts {found['counts']} of them, {found['equal']} with the same multiply-adds{rest}.")
    return "\n".join([*lines, "", machine(result)])


def channel_speed() -> str:
    """Fewer multiply-adds against time, ours and another's widths."""
    result = load("channel_speed")
    lines = ["| network | widths | fewer multiply-adds | faster | planned in, s |", "|---|---|---:|---:|---:|"]
    for network in result["networks"]:
        for label, row in network["rows"].items():
            faster = statistics.median(r["median"] for r in row["faster"])
            seconds = f"{row['seconds']:.0f}" if "seconds" in row else ""
            lines.append(f"| `{network['network']}` | {label} | {row['fewer_macs']:.2f}x | {faster:.2f}x | {seconds} |")
    halves = ", ".join(
        f"`{n['network']}` " + " ".join(f"{r['median']:.2f}x" for r in n["rows"]["half the time"]["alone"])
        for n in result["networks"]
    )  # fmt: skip
    said = (
        f"ONNX Runtime, one thread, batch 1, random weights; medians of {result['repeats']} runs in which all networks take "
        "turns. Planning for half the time includes the table of layer times, measured from nothing. The networks asked for "
        f"`latency: {result['latency']}`, measured again in turns with the whole one alone: {halves} of its time. "
    )
    return "\n".join([*lines, "", said + machine(result)])


def channels() -> str:
    """Accuracy at equal multiply-adds, ours and another's, and what the trained networks take in time."""
    result = load("channels")
    titles = (
        "ResNet-56, CIFAR-10",
        "fewer multiply-adds",
        "test accuracy, %",
        "seeds",
        "before training, validation, %",
        "faster",
    )
    lines = [f"| {' | '.join(titles)} |", "|---|---:|---:|---:|---:|---:|"]
    for r in result["rows"]:
        spread = "" if r["spread"] is None else f" ± {r['spread']:.2f}"
        faster = f"{statistics.median(t['median'] for t in r['faster']):.2f}x" if r["faster"] else ""
        before = "" if r["method"].startswith("dense") else f"{100 * r['val_before_training']:.1f}"
        cells = (r["method"], f"{r['ratio']:.1f}x", f"{r['accuracy']:.2f}{spread}", str(len(r["seeds"])), before, faster)
        lines.append(f"| {' | '.join(cells)} |")
    first = next(r for r in result["rows"] if r["method"] == "ours")
    said = (
        f"All from the same weights, {first['images']:,} images, two epochs where nothing else is said (for ours "
        f"`{first['fit']}`), the last epoch, read on test once. {machine(result)}"
    )
    return "\n".join([*lines, "", said])


def coverage() -> str:
    """How many networks lose half of their channels, and compute what they should."""
    result = load("coverage")
    tools, words = list(result["summary"]), ("pruned", "pinned", "wrong", "failed")
    lines = [f"| {len(result['networks'])} networks | {' | '.join(words)} |", "|---|---:|---:|---:|---:|"]
    for tool in tools:
        lines.append(f"| {tool} | {' | '.join(str(result['summary'][tool][word]) for word in words)} |")
    for tool in tools:
        for word in words[1:]:
            found = [name for name, r in result["networks"].items() if r[tool]["status"] == word]
            if found:
                lines += ["", f"{tool}, {word}: {', '.join(f'`{name}`' for name in found)}."]
    return "\n".join([*lines, "", machine(result)])


def sparse() -> str:
    """Accuracy of sparse networks after training, and of halves pruned without any."""
    result = load("sparse")
    lines = [
        "| ResNet-20, CIFAR-10 | zeros | test accuracy, % | points below dense, plain | seeds |",
        "|---|---:|---:|---:|---:|",
    ]
    dense = next(r["accuracy"] for r in result["train"] if r["name"] == "dense, plain")
    for r in result["train"]:
        spread = f" ± {r['stdev']:.2f}" if r["seeds"] > 1 else ""
        lines.append(
            f"| {r['name']} | {r['zeros']:.0%} | {r['accuracy']:.2f}{spread} | {dense - r['accuracy']:.2f} | {r['seeds']} |"
        )
    first = result["train"][0]
    said = f"{first['images']:,} training images, {first['epochs']} epochs, the last one read on test once. {machine(result)}"
    halves = ["| no training, half of the weights | test accuracy, % | seconds |", "|---|---:|---:|"]
    for r in result["oneshot"]:
        halves.append(f"| {r['name']} | {r['accuracy']:.2f} | {r.get('pruning_seconds', '')} |")
    return "\n".join([*lines, "", said, "", *halves])


def planning() -> str:
    """How long planning takes, beside another's."""
    result = load("planning")
    labels = list(result["rows"][0]["seconds"])
    lines = [f"| seconds | {' | '.join(labels)} |", f"|---|{'---:|' * len(labels)}"]
    for row in result["rows"]:
        lines.append(f"| `{row['network']}` | {' | '.join(format(row['seconds'][label], '.2f') for label in labels)} |")
    said = f"Medians of {result['repeats']}, {result['threads']} thread, torch-pruning {result['torch_pruning']}. "
    return "\n".join([*lines, "", said + machine(result)])


def kernels() -> str:
    """Native kernels against float convolutions, layer by layer, and a whole binary network."""
    result = load("kernels")
    best = next(name for name in ("avx512", "avx2", "neon") if f"bits, {name}" in result["layers"][0]["rows"])
    kinds = {"bits": "signs, packed", "floats": "signs, floats", "ternary bits": "ternary, packed", "int4": "4-bit weights",
             "80%": "80 % zeros", "90%": "90 % zeros", "95%": "95 % zeros"}  # fmt: skip
    lines = [f"| layer | float, ms | {' | '.join(kinds.values())} |", f"|---|---:|{'---:|' * len(kinds)}"]
    for layer in result["layers"]:
        rows = layer["rows"]
        float_ms = min(rows[name]["ms"] for name in ("onnxruntime", "torch", "torch, channels last"))
        cells = [f"{rows[f'{kind}, {best}']['faster']:.1f}x" if f"{kind}, {best}" in rows else "" for kind in kinds]
        lines.append(f"| {layer['layer']} | {float_ms:.3f} | {' | '.join(cells)} |")
    whole = result["whole"]
    said = (
        f"How many times as fast as the best of ONNX Runtime, PyTorch and PyTorch with channels last, in floats; `{best}`, one "
        f'thread, in turns, medians of {result["rounds"]} rounds. "Floats" takes and writes floats, packing included. A whole '
        f"binary ResNet-18 at 224 in ONNX Runtime: {whole['ms']['binary']:.1f} against {whole['ms']['float']:.1f} ms, "
        f"{whole['faster']:.1f}x. {machine(result)}"
    )
    return "\n".join([*lines, "", said])


def binary_peers() -> str:
    """Binary convolutions of others."""
    result = load("peers_binary")
    peers = list(result["rows"][0]["times_ours"])
    titles = [f"{peer}, {what}" for peer in peers for what in ("one layer", "inside a network")]
    lines = [f"| 3x3 | ours, ms: one layer, inside | {' | '.join(titles)} |", f"|---|---:|{'---:|' * len(titles)}"]
    for r in result["rows"]:
        cells = [f"{r['times_ours'][peer][what]:.2f}x" for peer in peers for what in ("single", "inner")]
        ours = f"{r['single_ms']['ours']:.3f}, {r['inner_ms']['ours']:.3f}"
        lines.append(f"| {r['channels']} channels, {r['size']}x{r['size']} | {ours} | {' | '.join(cells)} |")
    said = (
        "How many times as long the others take. One layer: floats in and out, by each runtime's own call. Inside a network: "
        f"what one more layer costs, signs in and out. {machine(result)}"
    )
    return "\n".join([*lines, "", said])


def sparse_latency() -> str:
    """Whole networks with zeros."""
    result = load("sparse_latency")
    lines = ["| network | zeros | dense, ms | packed, ms | faster | layers packed |", "|---|---:|---:|---:|---:|---:|"]
    for r in result["rows"]:
        times = [f"{r['ms'][key]['median']:.3g}" for key in ("dense", "packed")]
        cells = (f"`{r['network']}`", f"{r['zeros']:.0%}", *times, f"{r['faster']['median']:.2f}x", str(r["packed_layers"]))
        lines.append(f"| {' | '.join(cells)} |")
    said = "Magnitude pruning with one rate for all layers, no training; ONNX Runtime, one thread, batch 1, in turns. "
    return "\n".join([*lines, "", said + machine(result)])


PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"measured": text},
    "docs/zoo.md": {"mobile": mobile, "profiler": profiler},
    "docs/pruning.md": {"channel_speed": channel_speed, "planning": planning, "channels": channels, "coverage": coverage},
    "docs/sparsity.md": {"sparse": sparse, "lottery": tables.lottery},
    "docs/integer.md": {"integer": tables.integer, "integer_training": tables.integer_training, "phone": tables.phone},
    "docs/low_bit.md": {"low_bit": tables.low_bit},
    "docs/factorization.md": {
        "factor": tables.factor,
        "factor_latency": tables.factor_latency,
        "factor_speed": tables.factor_speed,
    },
    "docs/distillation.md": {"distill": tables.distill},
    "docs/rate.md": {"compact": tables.compact, "smallest": tables.smallest, "codec": tables.codec},
    "docs/benchmarks.md": {"benchmarks": lambda: benchmarks(PAGES)},
    "docs/recipes.md": {"recipes": recipes},
    "docs/index.md": {"newcomer": tables.newcomer},
    "docs/search.md": {"searches": tables.searches, "alone": tables.alone, "kills": tables.kills, "reports": tables.reports},
    "docs/kernels.md": {"kernels": kernels, "binary_peers": binary_peers, "sparse_latency": sparse_latency},
}
"""What is generated: pages, and in each the text between `<!-- NAME:begin -->` and `<!-- NAME:end -->`."""


def page(name: str) -> str:
    """A page as the results say it should be."""
    found = (ROOT / name).read_text()
    for mark, write in PAGES[name].items():
        begin, end = f"<!-- {mark}:begin -->", f"<!-- {mark}:end -->"
        head, rest = found.split(begin)
        found = f"{head}{begin}\n{write()}\n{end}{rest.split(end)[1]}"
    return found


def main() -> None:
    """Write or check."""
    for name in PAGES:
        old, new = (ROOT / name).read_text(), page(name)
        if "--check" not in sys.argv:
            (ROOT / name).write_text(new)
        elif new != old:
            sys.exit(f"{name} is not what bench/results say; run `python bench/readme.py`")


if __name__ == "__main__":
    main()
