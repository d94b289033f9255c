"""A file of every version ever released still loads, and version 1 is still written byte for byte.

If the second test fails, the bytes of saved models have changed: that is a new version, with a golden file of its own, and
this one keeps loading. `python tests/store/test_lil_golden.py` wrote the file.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

ROOT = Path(__file__).parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

from lil_samples import small  # noqa: E402

from lilliput.core.edits import Map, Resize  # noqa: E402
from lilliput.store import load, save  # noqa: E402
from lilliput.store.tensors import same  # noqa: E402

FILE = ROOT / "tests" / "golden" / "version1.lil"


def model() -> nn.Module:
    """The network of the golden file: a resized block, a mask with 4-bit codes, a sign, plain floats."""
    resizes = [
        Resize(f"layer2.0.{name}", axis, (0, 2, 3)) for name, axis in [("conv1", "out"), ("bn1", "out"), ("conv2", "in")]
    ]
    maps = [("layer2.0.conv1", "mask", {}), ("layer2.0.conv1", "grid", {"bits": 4}), ("layer3.0.conv1", "sign", {})]
    edits = (*resizes, *(Map(site, "weight", f"test.{name}", spec) for site, name, spec in maps))
    return small(edits, "resnet8:width=0.125")


def test_version_1_loads() -> None:
    loaded, wanted = load(FILE), model()
    x = torch.linspace(-1, 1, 3072).reshape(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(x), wanted(x))
    names = [name for name in wanted.state_dict() if not name.endswith(("2.0.conv1.weight", "3.0.conv1.weight"))]
    assert all(same(wanted.state_dict()[name], loaded.state_dict()[name]) for name in names)


def test_version_1_is_written_as_it_was(tmp_path: Path) -> None:
    save(model(), tmp_path / "now.lil", recipe="recipe(steps=[])")
    assert (tmp_path / "now.lil").read_bytes() == FILE.read_bytes()


if __name__ == "__main__":
    print(save(model(), FILE, recipe="recipe(steps=[])"), "bytes")
