"""Writes the measured tables of README.md from bench/results; `--check` only says whether they are as they should be."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def number(value: float, digits: int = 3) -> str:
    """Thousands separated, short."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.{digits}g}"


def table(result: dict[str, Any]) -> str:
    """Before and after, as Markdown."""
    before, after = result["metrics"]["baseline"], result["metrics"]["compressed"]
    rows = [
        ("test accuracy", *(f"{100 * s['accuracy']:.2f} %" for s in (before, after)), f"{100 * (after['accuracy'] - before['accuracy']):+.2f} points"),
        ("`model.onnx`, bytes", *(number(s["onnx_bytes"]) for s in (before, after)), f"{before['onnx_bytes'] / after['onnx_bytes']:.1f}x smaller"),
        ("`model.lil`, bytes", *(number(s["file_bytes"]) for s in (before, after)), f"{before['file_bytes'] / after['file_bytes']:.1f}x smaller"),
        ("multiply-adds", *(number(s["macs"]) for s in (before, after)), f"{before['macs'] / after['macs']:.2f}x fewer"),
    ]
    times = [s["latency_ms"] for s in (before, after)]
    rows.append(("latency, ms (median)", *(f"{t['median']:.3g}" for t in times), f"{times[0]['median'] / times[1]['median']:.2f}x faster"))
    lines = ["| | before | after | |", "|---|---:|---:|---:|", *(f"| {' | '.join(row)} |" for row in rows)]
    machine, parts = result["hardware"], result["versions"]
    again = ", ".join(f"{r['ratio']['median']:.2f}x" for r in result["fresh"])
    lines += [
        "",
        f"{times[0]['runtime']} {parts['onnxruntime']}, {times[0]['threads']} thread, batch 1, {times[0]['runs']} alternating runs; "
        f"{machine['cpu']}, {machine['cores']} cores; torch {parts['torch']}; seed {result['metrics']['seed']}. "
        f"Measured again in {result['repeats']} runs: {again} of the original latency. The whole command took {result['seconds']:.0f} s.",
    ]
    return "\n".join(lines)


def section(name: str, said: str) -> str:
    """One command with its table and the recipe that was chosen."""
    path = ROOT / "bench/results" / f"main_job_{name}.json"
    if not path.exists():
        return ""
    result = json.loads(path.read_text())
    recipe = "\n".join(f"    {line}" for line in result["recipe"].strip().splitlines())
    return f"{said}\n\n    {result['command']}\n\n{table(result)}\n\nThe recipe it chose, as `recipe.yaml` has it:\n\n{recipe}\n"


def text() -> str:
    """Everything between the marks."""
    parts = [
        section("cifar", "A ResNet-56 for CIFAR-10 in half its latency, losing at most one point of accuracy:"),
        section("cifar_035", "The same in about a third, which takes pruning and eight epochs of distillation as well:"),
        section("digits", "What `make run` prints:"),
    ]
    return "\n".join(part for part in parts if part)


def main() -> None:
    """Write or check."""
    path = ROOT / "README.md"
    old = path.read_text()
    begin, end = "<!-- measured:begin -->", "<!-- measured:end -->"
    head, rest = old.split(begin)
    new = f"{head}{begin}\n{text()}\n{end}{rest.split(end)[1]}"
    if "--check" in sys.argv:
        sys.exit(0 if new == old else "README.md is not what bench/results say; run `python bench/readme.py`")
    path.write_text(new)


if __name__ == "__main__":
    main()
