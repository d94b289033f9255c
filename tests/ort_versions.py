"""Our operations in the oldest and the newest ONNX Runtime that pip offers for this Python (or in those named).

    make ort-versions, or python tests/ort_versions.py [VERSION ...]

Writes networks of packed layers (signs to floats, signs to signs, zeros), installs each ONNX Runtime into a folder of its own,
and runs the networks there in a Python that sees that folder, the library, and nothing else of this package. The outputs must
equal those of the ONNX Runtime that is installed here. Needs the network; not part of `make test`.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

import lilliput as lp
from lilliput import kernels
from lilliput.core.edits import Map
from lilliput.export.onnx import predictor
from lilliput.kernels.runtime import library

RUNS = """
import sys, numpy as np, onnxruntime as ort
library, folder = sys.argv[1:]
for name in ("signs", "zeros"):
    options = ort.SessionOptions()
    options.register_custom_ops_library(library)
    session = ort.InferenceSession(f"{folder}/{name}.onnx", options, providers=["CPUExecutionProvider"])
    found, wanted = session.run(None, {"input": np.load(f"{folder}/x.npy")})[0], np.load(f"{folder}/{name}.npy")
    assert np.allclose(found, wanted, atol=1e-5 * np.abs(wanted).max()), np.abs(found - wanted).max()
    try:  # what does not fit is an error of the runtime's, in every version
        session.run(None, {"input": np.zeros((1, 3, 0, 11), np.float32)})
    except Exception as error:
        print(name, "refuses no pixels:", str(error).splitlines()[0][:160])
    else:
        raise SystemExit(f"{name} took an image without pixels")
print(ort.__version__)
"""


def offered() -> list[str]:
    """The versions that pip can install here, newest first."""
    told = [sys.executable, "-m", "pip", "index", "versions", "onnxruntime", "--disable-pip-version-check"]
    answer = subprocess.run(told, capture_output=True, text=True, check=True).stdout
    found = re.search(r"Available versions: (.*)", answer)
    if found is None:
        raise SystemExit(f"pip does not say which versions there are: {answer}")
    return found[1].split(", ")


def numbers(version: str) -> tuple[int, ...]:
    """A version's first two numbers."""
    return tuple(map(int, version.split(".")[:2]))


def networks(folder: Path) -> None:
    """The files to run, their input, and what they give here."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 20, 3, padding=1), nn.BatchNorm2d(20), nn.Conv2d(20, 33, 3, padding=1), nn.BatchNorm2d(33),
        nn.Conv2d(33, 9, 3, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(9, 5),
    ).eval()  # fmt: skip
    signed = lp.perform(net, [e for n in ("2", "4") for e in (Map(n, "weight", "bwn"), Map(n, "input", "sign"))])
    x = torch.randn(2, 3, 13, 11)
    np.save(folder / "x.npy", x.numpy())
    zeros = lp.prune.Weights(rate=0.8, allocate="uniform")(net, lp.Look(x))
    for name, model in {"signs": kernels.pack_binary(signed), "zeros": kernels.pack_sparse(zeros)}.items():
        done = lp.export(model, x, folder / f"{name}.onnx")
        print(f"{name}: {done.packed_nodes}")
        np.save(folder / f"{name}.npy", predictor(done.path)(x).numpy())


def tried(version: str, folder: Path) -> str | None:
    """What went wrong with one version; None where nothing did."""
    place = folder / version
    venv.create(place, with_pip=True)
    python = str(place / "bin/python")
    packages = [f"onnxruntime=={version}", *(["numpy<2"] if numbers(version) < (1, 19) else [])]  # built before NumPy 2
    told = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    done = subprocess.run(told, capture_output=True, text=True)
    if done.returncode == 0:
        done = subprocess.run([python, "-c", RUNS, str(library()), str(folder)], capture_output=True, text=True)
    lines = done.stderr.strip().splitlines()
    return None if done.returncode == 0 else (lines[-1] if lines else f"ended with {done.returncode}")


def main() -> None:
    """Try them and say which run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="*")
    listed = offered()
    versions = parser.parse_args().versions or [listed[-1], listed[0]]
    print(f"pip offers {listed[-1]} to {listed[0]}; here is {onnxruntime.__version__}")
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        networks(Path(folder))
        for version in versions:
            wrong = tried(version, Path(folder))
            print(f"onnxruntime {version}: {'runs' if wrong is None else wrong}", flush=True)
            failed += [] if wrong is None else [version]
    if failed:
        raise SystemExit(f"does not run: {', '.join(failed)}")


if __name__ == "__main__":
    main()
