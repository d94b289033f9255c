"""The example in C++ runs the same files to the same numbers, without Python."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from lilliput import kernels, zoo
from lilliput.export import export
from lilliput.export.onnx import predictor
from lilliput.kernels.runtime import library

SOURCE = Path(__file__).parent.parent.parent / "examples/run_onnx.cc"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if kernels.backend() != "native":
        pytest.skip("the native core was not built")
    if shutil.which("g++") is None:
        pytest.skip("there is no g++")
    made = tmp_path_factory.mktemp("example") / "run_onnx"
    subprocess.run(["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", SOURCE, "-ldl", "-o", made], check=True)
    return made


@pytest.fixture(scope="module")
def onnxruntime_library() -> Path:
    found = sorted((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*"))
    if not found:
        pytest.skip("this onnxruntime package has no shared library of its own")
    return found[0]


def test_the_example_computes_what_python_does(program: Path, onnxruntime_library: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = zoo.create("resnet8").eval(), torch.randn(2, 3, 32, 32)
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            with torch.no_grad():
                layer.weight[torch.rand_like(layer.weight) < 0.8] = 0
    path = export(kernels.pack_sparse(model), x, tmp_path / "net.onnx").path
    told = [program, onnxruntime_library, library(), path]
    done = subprocess.run([*told, "2", "3", "32", "32"], input=x.numpy().tobytes(), capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    found = torch.from_numpy(np.frombuffer(done.stdout, np.float32).copy()).view(2, -1)
    assert torch.equal(found, predictor(path)(x))
    wrong = subprocess.run([*told, "2", "3", "32", "31"], input=x.numpy().tobytes(), capture_output=True)
    assert wrong.returncode == 1 and b"invalid dimensions" in wrong.stderr
    assert subprocess.run([program], capture_output=True).returncode == 2


def test_the_example_is_short() -> None:
    assert len(SOURCE.read_text(encoding="utf-8").splitlines()) < 100
