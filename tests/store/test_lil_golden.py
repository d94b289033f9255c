"""A file of every version ever released still loads, and both versions are still written byte for byte.

If the last test fails, the bytes of saved models have changed: that is a new version, with a golden file of its own, and
these keep loading. `python tests/store/test_lil_golden.py` wrote the files.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

from lil_samples import small  # noqa: E402

from lilliput import kernels  # noqa: E402
from lilliput.core.edits import Map, Resize  # noqa: E402
from lilliput.core.perform import perform  # noqa: E402
from lilliput.core.record import Record  # noqa: E402
from lilliput.store import load, rebuild, save  # noqa: E402
from lilliput.store.tensors import same  # noqa: E402

FILES = {coder: ROOT / "tests" / "golden" / f"version{n}.lil" for n, coder in enumerate(("plain", "context"), start=1)}


def model() -> nn.Module:
    """The network of the golden file: a resized block, a mask with 4-bit codes, a sign, plain floats."""
    resizes = [
        Resize(f"layer2.0.{name}", axis, (0, 2, 3)) for name, axis in [("conv1", "out"), ("bn1", "out"), ("conv2", "in")]
    ]
    maps = [("layer2.0.conv1", "mask", {}), ("layer2.0.conv1", "grid", {"bits": 4}), ("layer3.0.conv1", "sign", {})]
    edits = (*resizes, *(Map(site, "weight", f"test.{name}", spec) for site, name, spec in maps))
    return small(edits, "resnet8:width=0.125")


def test_loading_does_not_import_what_takes_a_second(tmp_path: Path) -> None:
    file = tmp_path / "net.lil"
    save(perform(rebuild(Record("resnet8")), [Map("conv1", "weight", "grid", {})]), file)
    code = f"import sys, lilliput; lilliput.load({str(file)!r}); print({{'torch._dynamo', 'sympy'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "set()", done.stderr


@pytest.mark.parametrize("coder", list(FILES))
def test_every_version_loads(coder: str) -> None:
    loaded, wanted = load(FILES[coder]), model()
    x = torch.linspace(-1, 1, 3072).reshape(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(x), wanted(x))
    names = [name for name in wanted.state_dict() if not name.endswith(("2.0.conv1.weight", "3.0.conv1.weight"))]
    assert all(same(wanted.state_dict()[name], loaded.state_dict()[name]) for name in names)


def test_python_alone_reads_version_2(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = load(FILES["context"]).state_dict()
    monkeypatch.setattr(kernels, "_native", None)
    found = load(FILES["context"]).state_dict()
    assert found.keys() == wanted.keys() and all(same(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("coder", list(FILES))
def test_every_version_is_written_as_it_was(coder: str, tmp_path: Path) -> None:
    if coder == "context" and kernels.backend() != "native":
        pytest.skip("only the native core writes version 2")
    save(model(), tmp_path / "now.lil", recipe="recipe(steps=[])", coder=coder)
    assert (tmp_path / "now.lil").read_bytes() == FILES[coder].read_bytes()


if __name__ == "__main__":
    for coder, file in FILES.items():
        print(save(model(), file, recipe="recipe(steps=[])", coder=coder), "bytes")
