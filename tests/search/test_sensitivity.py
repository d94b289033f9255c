"""Sensitivity: each point is the network with one layer compressed, and nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from small import network, task

import lilliput as lp
from lilliput.core.record import edits
from lilliput.errors import UnknownName
from lilliput.measure.accuracy import accuracy
from lilliput.recipe import Bench, look
from lilliput.search.sensitivity import WAYS, WIDTHS, sensitivity


def test_every_method_has_curves_and_the_model_is_not_touched() -> None:
    data, model = task(), network().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    points = list(sensitivity(model, data, look(Bench(data, Path())), tuple(WAYS), images=45))
    assert {p.method for p in points} == set(WAYS) and all(0 <= p.accuracy <= 1 for p in points)
    for method, (_, amounts) in WAYS.items():
        for layer in {p.layer for p in points if p.method == method}:
            found = [p.amount for p in points if (p.method, p.layer) == (method, layer)]
            assert found == sorted(found) and set(found) <= set(amounts)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items()) and not edits(model)


def test_a_point_is_what_the_method_alone_gives() -> None:
    data, model = task(), network().eval()
    seen = look(Bench(data, Path()))
    (point,) = [p for p in sensitivity(model, data, seen, ["bits"], images=45) if p.layer == "conv1" and p.amount == 0.9375]
    small = lp.quant.Quantize(bits=32, activations=32, widths={"conv1": WIDTHS[0.9375]})(model, seen)
    assert point.accuracy == accuracy(small, data.batches("val", 250, shuffle_seed=0), data.metric).value


def test_a_method_that_is_none_is_named_before_anything_is_measured() -> None:
    data = task()
    with pytest.raises(UnknownName, match="channel"):
        next(sensitivity(network().eval(), data, look(Bench(data, Path())), ["bits", "channel"]))
