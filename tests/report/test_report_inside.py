"""What a run writes down of its networks and files: counted right, by layer, and nothing left over."""

from __future__ import annotations

from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import lilliput as lp
from lilliput.core.edits import Swap
from lilliput.core.perform import perform
from lilliput.report import answers, inside
from lilliput.report.inside import BINS, histogram, ranks, weights


def resnet() -> nn.Module:
    torch.manual_seed(0)
    return lp.zoo.create("resnet8:channels=1,classes=3").eval()


@given(st.lists(st.floats(-1e30, 1e30), max_size=40))
def test_every_weight_is_counted_once(values: list[float]) -> None:
    found = histogram(torch.tensor(values, dtype=torch.float64))
    assert found["elements"] == len(values) == found["zeros"] + sum(found["counts"])
    assert len(found["counts"]) in (0, BINS) and found["zeros"] == values.count(0)


def test_a_mirrored_weight_has_a_mirrored_histogram() -> None:
    weight = torch.randn(500, generator=torch.Generator().manual_seed(0))
    assert histogram(weight)["counts"] == histogram(-weight)["counts"][::-1]
    assert histogram(3 * weight)["counts"] == histogram(weight)["counts"]


def test_weights_are_seen_as_the_layer_uses_them() -> None:
    model = resnet()
    pruned = lp.prune.Weights(rate=0.5)(model, lp.Look(torch.randn(2, 1, 8, 8)))
    seen = weights(pruned)["layer1.0.conv1"]
    assert abs(seen["zeros"] / seen["elements"] - 0.5) < 0.02
    assert weights(model).keys() == weights(pruned).keys() and weights(model)["conv1"]["zeros"] == 0


def test_a_chain_has_the_rank_of_its_narrowest_point() -> None:
    model = resnet()
    small = perform(model, [Swap("layer2.0.conv2", "svd", {"rank": 5})])
    was, now = ranks(model), ranks(small)
    assert was["layer2.0.conv2"] == 32 and now["layer2.0.conv2"] == 5
    assert was.keys() == now.keys() and {name for name in was if was[name] != now[name]} == {"layer2.0.conv2"}


def test_answers_are_compared_one_by_one() -> None:
    before, after = torch.tensor([1, 1, 1, 0, 0]).bool(), torch.tensor([1, 0, 0, 1, 0]).bool()
    assert answers(before, after) == {"total": 5, "lost": 2, "gained": 1}
    assert answers(before, after[:3]) == {}


def test_files_are_accounted_for_to_the_last_byte_and_timed_layer_by_layer(tmp_path: Path) -> None:
    model, example = resnet(), torch.randn(1, 1, 8, 8)
    small = perform(model, [Swap("layer2.0.conv2", "svd", {"rank": 5})])
    networks = {}
    for side, each in (("baseline", model), ("compressed", small)):
        lp.export(each, example, tmp_path / f"{side}.onnx")
        networks[side] = (each, tmp_path / f"{side}.onnx")
    size = lp.save(small, tmp_path / "compressed.lil")
    found = inside(networks, example)
    assert found["contents"]["baseline"] == {} and sum(found["contents"]["compressed"].values()) == size
    assert found["ranks"]["baseline"]["layer2.0.conv2"] == 32
    for side, each in (("baseline", model), ("compressed", small)):
        times = found["times"][side]["layers"]
        assert times.keys() == weights(each).keys() and all(row["ms"] >= 0 and row["kernel"] for row in times.values())
        assert found["weights"][side].keys() == times.keys()
