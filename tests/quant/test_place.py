"""Where quantizers stand."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
import torch
import torch.nn.functional as F
from integer_nets import NETS, images, look
from torch import Tensor, nn

from lilliput.core.edits import Map
from lilliput.core.fold import fold
from lilliput.core.perform import perform
from lilliput.core.watch import watch
from lilliput.quant import Quantize
from lilliput.quant.place import Placement, Spot, place


def placed(model: nn.Module, skip: tuple[str, ...] = ()) -> Placement:
    x = images(1)
    folded = perform(model, fold(model, x))
    return place(folded, watch(folded, x), lambda site: any(fnmatchcase(site, p) for p in skip))


def names(found: Placement) -> set[tuple[str, ...]]:
    return {tuple(f"{s.site}.{s.tensor}" for s in spots) for spots in found.spots}


def test_a_residual_network() -> None:
    found = placed(NETS["resnet"]())
    assert names(found) == {
        ("conv1.input",), ("conv1.output",),  # the stem's ReLU is a function: its quantizer stands before it
        ("layer1.0.conv2.input",), ("layer1.0.conv2.output",), ("layer1.0.output",),
        ("layer2.0.conv2.input",), ("layer2.0.conv2.output",), ("layer2.0.output",),
        ("layer3.0.conv2.input",), ("layer3.0.conv2.output",), ("layer3.0.output",), ("linear.input",),
    }  # fmt: skip
    assert (Spot("conv1", "output", float("inf")),) in found.spots
    assert found.floats == {}


def test_what_is_concatenated_shares_a_grid() -> None:
    found = placed(NETS["branches"]())
    assert ("last.1.input",) in names(found)  # one reader of the whole concatenation: one quantizer, behind it
    found = placed(NETS["shuffled"]())
    assert any(set(group) == {"stem.2.output", "deep.3.output"} for group in names(found))


def test_what_has_no_integer_form_is_named() -> None:
    found = placed(NETS["gated"]())
    assert {"sigmoid" in why or "mul" in why for why in found.floats.values()} == {True}
    assert {("a.output",), ("b.input",), ("b.output",)} <= names(found)


def test_a_skipped_layer_has_no_quantizer() -> None:
    found = placed(NETS["resnet"](), skip=("layer2.*",))
    assert not any(site.startswith("layer2") for site in found.layers)
    assert ("layer2.0.conv2.input",) not in names(found)
    assert found.floats["layer2.0.conv1"] == "it is skipped on request"


class Repeated(nn.Module):
    """A layer that runs twice, and a value that several layers read inside the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.twice(self.twice(x)))
        return self.a(x).mean((2, 3)) + self.b(x).mean((2, 3))


def test_a_layer_that_runs_twice_stays_and_readers_share_a_grid() -> None:
    found = placed(Repeated())
    assert found.floats["twice"] == "it runs 2 times in one forward"
    assert ("a.input", "b.input") in names(found)  # no module returns what they read


@pytest.mark.parametrize("name", NETS)
def test_no_value_is_quantized_twice(name: str) -> None:
    graph = watch(Quantize()(NETS[name](), look()), images(1))
    rounds = [op for op in graph.ops if op.kind == "aten::round"]
    assert rounds
    for op in rounds:  # back through the quantizer's own operations, then through whatever keeps values
        behind = graph.makers.get(op.inputs[0])
        while behind is not None and (behind.site == op.site or behind.kind in ("move", "relu")):
            behind = graph.makers.get(behind.inputs[0])
        assert behind is None or "_maps" not in behind.site, f"{op.site} stands behind {behind.site}"


def test_a_quantized_network_is_left_alone() -> None:
    for make in NETS.values():
        quantized = Quantize()(make(), look())
        assert Quantize().plan(quantized, look()) == []
        assert set(Quantize().explain(quantized, look()).values()) & {"it is quantized already"}


def test_maps_stand_on_the_sites_they_name() -> None:
    model = NETS["branches"]()
    plan = Quantize().plan(model, look())
    maps = [e for e in plan if isinstance(e, Map)]
    assert len({(e.site, e.tensor) for e in maps}) == len(maps)
    assert torch.isfinite(perform(model, plan)(images(2))).all()
