"""The table of layer times: what a shape is, and that nothing is measured twice. No test looks at how long anything took."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from lilliput.measure import profile
from lilliput.measure import shape_times as table
from lilliput.measure.shape_times import LayerShape, ShapeTimes, measure

LAYERS = {
    "plain": (nn.Conv2d(6, 8, 3, stride=2, padding=1), (1, 6, 9, 11)),
    "same": (nn.Conv2d(6, 8, (2, 4), padding="same", dilation=2), (1, 6, 9, 11)),
    "valid": (nn.Conv2d(6, 8, 3, padding="valid"), (2, 6, 9, 11)),
    "depthwise": (nn.Conv2d(6, 12, 3, groups=6), (1, 6, 9, 11)),
    "grouped": (nn.Conv2d(6, 9, 3, groups=3), (1, 6, 9, 11)),
    "transposed": (nn.ConvTranspose2d(6, 8, 2, stride=2), (1, 6, 9, 11)),
    "line": (nn.Conv1d(6, 8, 3), (1, 6, 9)),
    "solid": (nn.Conv3d(6, 8, 3), (1, 6, 4, 5, 6)),
    "linear": (nn.Linear(6, 8), (3, 6)),
    "tokens": (nn.Linear(6, 8), (2, 5, 6)),
}


def of(name: str) -> LayerShape:
    layer, size = LAYERS[name]
    found = LayerShape.of(layer, size)
    assert found is not None
    return found


@pytest.mark.parametrize("name", LAYERS)
def test_counts_are_those_of_the_profile(name: str) -> None:
    layer, size = LAYERS[name]
    assert of(name).macs == profile(layer, torch.zeros(size)).macs
    assert of(name).weights == layer.weight.numel()


def test_other_layers_have_no_shape() -> None:
    assert LayerShape.of(nn.BatchNorm2d(3), (1, 3, 4, 4)) is None


def test_every_kind_of_layer_is_measured_at_once() -> None:
    shapes = [of(name) for name in LAYERS]
    found = measure(shapes)
    assert len(found) == len(shapes) and all(ms > 0 for ms in found)
    assert len({str(s) for s in shapes}) == len(shapes)


def test_nothing_is_measured_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def made_up(shapes: list[LayerShape], threads: int) -> list[float]:
        asked.extend(str(s) for s in shapes if s is not table.REFERENCE)
        return [s.macs / 1e6 for s in shapes]

    monkeypatch.setattr(table, "measure", made_up)
    shapes = [of("plain"), of("linear"), of("plain")]
    first = ShapeTimes(tmp_path)
    times = first(shapes)
    assert times == pytest.approx([s.macs / 1e6 for s in shapes]) and asked == [str(shapes[0]), str(shapes[1])]
    again = ShapeTimes(tmp_path)
    assert again(shapes) == times and len(asked) == 2
    assert again([of("same")]) and first([of("valid")]) and len(asked) == 4
    assert ShapeTimes(tmp_path)([of("same"), of("valid"), *shapes]) and len(asked) == 4  # what two have stored is all there
    assert ShapeTimes(tmp_path, threads=2)([of("plain")]) and len(asked) == 5
    assert len(list((tmp_path / "layer_times").iterdir())) == 2


def test_a_machine_that_is_slower_now_is_so_for_all_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for speed in (1.0, 1.5):
        monkeypatch.setattr(table, "measure", lambda shapes, threads, by=speed: [by * s.macs / 1e6 for s in shapes])
        for shapes in ([of("plain")], [of("plain"), of("linear")]):
            assert ShapeTimes(tmp_path)(shapes) == pytest.approx([speed * s.macs / 1e6 for s in shapes])


def test_the_file_says_what_it_was_measured_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "measure", lambda shapes, threads: [1.0] * len(shapes))
    times = ShapeTimes(tmp_path)
    times([of("plain")])
    assert times.path is not None
    content = json.loads(times.path.read_text())
    assert set(content["machine"]) >= {"cpu", "flags", "onnxruntime", "threads"} and content["times"] == {str(of("plain")): 1.0}


@pytest.mark.parametrize("rubbish", ["", "{", "[]", '{"times": {"a": "b"}}', '{"times": 3}'])
def test_a_file_that_cannot_be_read_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rubbish: str) -> None:
    monkeypatch.setattr(table, "measure", lambda shapes, threads: [1.0] * len(shapes))
    times = ShapeTimes(tmp_path)
    times([of("plain")])
    assert times.path is not None
    times.path.write_text(rubbish)
    assert ShapeTimes(tmp_path)([of("plain")]) == [1.0]
    assert json.loads(times.path.read_text())["times"]


def test_large_tables_are_measured_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(
        table,
        "measure",
        lambda shapes, threads: sizes.append(len([s for s in shapes if s is not table.REFERENCE])) or [1.0] * len(shapes),
    )
    shapes = [of("plain").resized(i, o, 1) for i in range(1, 21) for o in range(1, 21)]
    assert len(ShapeTimes()(shapes)) == 400 and sum(sizes) == 400 and max(sizes) <= 192
