"""Networks at another resolution: the same network behind a resize, in every file and for every method."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import lilliput as lp
from lilliput.errors import ConfigError
from lilliput.recipe import Student


@given(st.integers(8, 40))
def test_it_is_the_network_on_resized_images(resolution: int) -> None:
    small = lp.zoo.create("resnet8", resolution=resolution).eval()
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        resized = F.interpolate(x, size=(resolution, resolution), mode="bilinear", align_corners=False)
        assert torch.equal(small(x), small.net(resized))  # type: ignore[operator]


def test_the_name_comes_back() -> None:
    small = lp.zoo.create("resnet8:width=0.5,resolution=24")
    assert small.architecture == "resnet8:resolution=24,width=0.5"
    assert small.input_shape == (3, 32, 32)


def test_methods_files_and_exports_take_it(tmp_path: Path) -> None:
    net, x = lp.zoo.create("resnet8:resolution=24").eval(), torch.rand(2, 3, 32, 32)
    small = lp.prune.Channels(keep=0.5, criterion="l2")(net, lp.Look(x))
    lp.save(small, tmp_path / "net.lil")
    with torch.no_grad():
        assert torch.equal(lp.load(tmp_path / "net.lil")(x), small(x))
    lp.export(small, x[:1], tmp_path / "net.onnx")  # compares outputs
    assert lp.profile(net, x[:1]).macs < lp.profile(lp.zoo.create("resnet8"), x[:1]).macs


def test_a_student_at_another_resolution_starts_from_its_teacher() -> None:
    teacher, x = lp.zoo.create("resnet8").eval(), torch.rand(1, 3, 32, 32)
    same = Student("resnet8:resolution=24")(teacher, x, seed=1).eval()
    other = Student("resnet8:resolution=24,width=0.5")(teacher, x, seed=1)
    assert all(torch.equal(v, same.net.state_dict()[k]) for k, v in teacher.state_dict().items())  # type: ignore[union-attr]
    assert other.net.conv1.weight.shape != teacher.conv1.weight.shape  # type: ignore[union-attr]


@pytest.mark.parametrize("resolution", [0, -3, 1.5, "large"])
def test_what_is_no_number_of_pixels_is_refused(resolution: object) -> None:
    with pytest.raises(ConfigError, match="is a number of pixels, at least 1"):
        lp.zoo.create("resnet8", resolution=resolution)
