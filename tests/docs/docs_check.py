"""`make docs-check`: everything that README and the pages show is run, in a folder of its own, on data made up for it.

    python tests/docs/docs_check.py [PAGE...]       all pages, or those named: `docs/rate.md`

The commands of a page run one after another in one folder, in which lie stand-ins for what a reader has: photographs, CIFAR-10,
Fashion-MNIST, a network of their own, weights. They are small and random, so a budget that is missed is no failure; an error
is. What is not run is listed with its reason. Exit code 1 where anything failed.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from doc_pages import PAGES, ROOT, Example, examples
from PIL import Image

ELSEWHERE = {
    "make test": "the tests run by themselves",
    "make bench": "benchmarks run alone on a machine",
    "python bench/": "benchmarks run alone on a machine",
    "compress ...": "the same search on other machines; tests/search runs it on two processes",
    "--recipe recipes/": "tests/docs/test_recipes_run.py runs every recipe, with less data and fewer epochs",
}
"""Commands that are not run, by what they have in them."""

MYNET = """
import lilliput as lp


def build():
    return lp.zoo.create("resnet8:classes=3,width=0.5")
"""
TRAINED = {
    "resnet20": "resnet20",
    "resnet56": "resnet56",
    "weights/resnet56-cifar10": "resnet56",
    "mynet": "resnet8:classes=3,width=0.5",
}
"""Files of weights that nobody has trained, and their networks."""

SECONDS = "0.004"  # of an hour

MISSED = "What was reached is in"  # how a budget that is not met ends


def main(pages: list[Path]) -> None:
    """Every page in its folder; what failed stands at the end."""
    failed: list[str] = []
    for page in pages:
        with tempfile.TemporaryDirectory() as folder, inside(Path(folder)):
            print(page.relative_to(ROOT).as_posix(), flush=True)
            failed += check(page)
    print("\n".join(["", *failed, f"{len(failed)} failed" if failed else "everything runs"]))
    sys.exit(bool(failed))


def check(page: Path, command: Callable[[str], str] | None = None) -> list[str]:
    """Run a page in the current folder, with a line for each thing that it shows; `command` runs a command."""
    names: dict[str, Any] = {"__name__": "__main__"}
    failed = []
    for example in examples(page):
        words = example.text if example.kind == "command" else ""
        why = example.skip or next((why for part, why in ELSEWHERE.items() if part in words), "")
        begun = time.perf_counter()
        said = "" if why else run(example, names, command or run_command)
        what = example.title or example.text.strip().split("\n")[0]
        outcome = f"not run: {why}" if why else "FAILED" if said else f"{time.perf_counter() - begun:.0f} s"
        print(f"  {example.line:4} {what[:100]}  [{outcome}]", flush=True)
        failed += [f"{example.place}: {what}\n{said}"] if said else []
    if ">>> " in page.read_text():
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        wrong = doctest.testfile(str(page), module_relative=False, optionflags=flags).failed
        failed += [f"{page.name}: {wrong} of its examples"] if wrong else []
    return failed


def run(example: Example, names: dict[str, Any], command: Callable[[str], str]) -> str:
    """Run one thing; what it says if it fails."""
    if example.kind == "file":
        Path(example.title).write_text(example.text)
        return ""
    if example.kind == "command":
        return command(example.text)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            exec(compile("\n" * (example.line - 1) + example.text, example.page, "exec"), names)
    except Exception:  # whatever a page raises is reported with its line
        return traceback.format_exc(limit=-2)
    return ""


def run_command(text: str) -> str:
    """Run a command of a page with this Python's programs; what it says if it fails."""
    words = shortened(shlex.split(text, comments=True))
    programs = {"make": ["make", "-o", ".venv/installed"], "python": [sys.executable]}  # nothing is to be installed from here
    words[:1] = programs.get(words[0], [str(Path(sys.executable).parent / "lilliput")])
    done = subprocess.run(words, capture_output=True, text=True)
    good = done.returncode == 0 or (done.returncode == 1 and MISSED in done.stderr)
    return "" if good else f"exit code {done.returncode}\n{done.stdout[-500:]}{done.stderr[-1500:]}"


def shortened(words: list[str]) -> list[str]:
    """A search of seconds in place of hours, with one family of candidates beside the students that are named."""
    if "--hours" not in words:
        return words
    short = [SECONDS if before == "--hours" else word for before, word in zip(["", *words], words, strict=False)]
    return short if "--family" in words else [*short, "--family", "inner channels"]


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """In a folder that looks like the repository to a command, with the stand-ins, and with a cache of its own."""
    for name in ("Makefile", ".venv", "recipes", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    before, was = Path.cwd(), dict(os.environ)
    os.chdir(folder)
    os.environ.update(LILLIPUT_DATA=str(folder / "data"), LILLIPUT_CACHE=str(folder / "cache"), PYTHONPATH=path_here())
    try:
        stand_ins(folder)
        yield
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(was)


def path_here() -> str:
    """Where Python finds modules: the reader's folder too, as for their scripts."""
    return os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))


def stand_ins(folder: Path) -> None:
    """What a reader of the pages has beside this package."""
    photographs(folder / "photos", ("cat", "dog", "fox"), train=60, test=8, size=48)
    with zipfile.ZipFile(made(folder / "data") / "cifar10.zip", "w") as archive:
        whole = photographs(folder / "cifar10", [str(c) for c in range(10)], train=16, test=4, size=32)
        for file in sorted(whole.rglob("*.png")):
            archive.write(file, file.relative_to(whole))
    photographs(folder / "data/fashion-mnist", [str(c) for c in range(10)], train=12, test=4, size=28, mode="L")
    (folder / "mynet.py").write_text(MYNET)
    weights(folder)
    for name, run in (("r56", "cifar"), ("other", "digits")):
        found = json.loads((ROOT / f"bench/results/main_job_{run}.json").read_text())
        (made(folder / "out" / name) / "metrics.json").write_text(json.dumps(found["metrics"]))


def made(folder: Path) -> Path:
    """A folder, made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def photographs(root: Path, classes: Any, *, train: int, test: int, size: int, mode: str = "RGB") -> Path:
    """Images of noise, in every class around a brightness of its own: SPLIT/CLASS/NUMBER.png."""
    draw = np.random.default_rng(0)
    shape = (size, size) if mode == "L" else (size, size, 3)
    for split, count in (("train", train), ("test", test)):
        for place, name in enumerate(classes):
            for number in range(count):
                pixels = draw.integers(0, 60, shape) + 180 * place // max(1, len(classes) - 1)
                Image.fromarray(pixels.astype(np.uint8)).save(made(root / split / name) / f"{number}.png")
    return root


def weights(folder: Path) -> None:
    """Files of weights, of a network of signs, and of an exported one."""
    import torch
    from safetensors.torch import save_file

    import lilliput as lp

    torch.manual_seed(0)
    for path, name in TRAINED.items():
        made((folder / path).parent)
        save_file(dict(lp.zoo.create(name).state_dict()), folder / f"{path}.safetensors")
    net = lp.quant.LowBit("xnor")(lp.zoo.create("bireal_resnet20", width=0.5).eval(), lp.Look(torch.randn(1, 3, 32, 32)))
    lp.save(net, folder / "net.lil")
    lp.export(lp.zoo.create("resnet8").eval(), torch.randn(1, 3, 32, 32), made(folder / "out/r56") / "model.onnx")


if __name__ == "__main__":
    main([Path(p).resolve() for p in sys.argv[1:]] or PAGES)
