"""Post-training quantization as a method."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from integer_nets import NETS, images, look, outputs, resnet
from torch import nn

from lilliput.config import parse
from lilliput.core.edits import Map, Swap, to_json
from lilliput.core.layers import Mapped
from lilliput.core.method import Look
from lilliput.core.perform import bake, perform
from lilliput.core.record import edits
from lilliput.errors import ConfigError, DataError, EditError, UnknownName
from lilliput.export import export
from lilliput.quant import Quantize, ranges
from lilliput.quant.scales import saturating


@pytest.mark.parametrize("name", NETS)
def test_outputs_stay_close(name: str) -> None:
    model, x = NETS[name](), images(32)
    wanted = outputs(model, x)
    error = {bits: outputs(Quantize(bits=bits, activations=bits)(model, look()), x).sub(wanted).norm() for bits in (4, 8, 16)}
    assert error[8] < 0.05 * wanted.norm()
    assert error[16] < 1e-3 * wanted.norm()
    assert error[16] < error[8] < error[4]


@pytest.mark.parametrize("rule", ranges)
def test_every_rule_for_ranges_works(rule: str) -> None:
    model, x = resnet(), images(32)
    wanted = outputs(model, x)
    assert outputs(Quantize(range=rule)(model, look()), x).sub(wanted).norm() < 0.1 * wanted.norm()


@pytest.mark.parametrize("bits", [2, 4])
def test_sums_of_more_bits_lose_less_and_layers_keep_their_width(bits: int, tmp_path: Path) -> None:
    model, x = resnet(), images(64)
    wanted = outputs(model, x)
    plain, apart = (Quantize(bits=8, activations=bits, sums=sums)(model, look()) for sums in (0, 8))
    assert outputs(apart, x).sub(wanted).norm() < outputs(plain, x).sub(wanted).norm()
    widths = {(e.site, e.tensor): e.spec["bits"] for e in edits(apart) if isinstance(e, Map) and e.tensor != "weight"}
    assert all(width == bits for (_, tensor), width in widths.items() if tensor == "input")
    assert 8 in widths.values()
    done = export(apart, images(1), tmp_path / "net.onnx")
    assert done.integer_nodes["QLinearConv"] == export(plain, images(1), tmp_path / "net.onnx").integer_nodes["QLinearConv"]


def test_sums_as_wide_as_the_rest_change_nothing() -> None:
    plain, same = (Quantize(activations=4, sums=sums).plan(resnet(), look()) for sums in (0, 4))
    assert to_json(plain) == to_json(same)


def test_sums_in_floats_leave_quantizers_to_the_inputs_of_layers() -> None:
    found = edits(Quantize(bits=1, activations=2, learn="dorefa", norms="keep", skip=("conv1",), sums=32)(resnet(), look()))
    assert {e.tensor for e in found if isinstance(e, Map)} == {"weight", "input"}


def test_sums_of_no_width_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"`sums` \(=9\) is not a width"):
        Quantize(sums=9)(resnet(), look())


def test_everything_in_floats_is_no_edit() -> None:
    assert Quantize(bits=32, activations=32).plan(resnet(), look()) == []


def test_a_network_without_layers_is_no_edit() -> None:
    assert Quantize().plan(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192)).eval(), look()) == []


def test_weights_alone_need_no_images() -> None:
    plan = Quantize(activations=32).plan(resnet(), Look(images(1)))
    assert {e.tensor for e in plan if isinstance(e, Map)} == {"weight"}
    assert not any(isinstance(e, Swap) and e.layer == "whole_bias" for e in plan)


def test_activations_alone() -> None:
    plan = Quantize(bits=32).plan(resnet(), look())
    assert {e.tensor for e in plan if isinstance(e, Map)} == {"input", "output"}


def test_planning_changes_nothing() -> None:
    model = resnet().train()
    before, drawn = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    plan = Quantize().plan(model, look())
    assert plan == Quantize().plan(model, look())
    assert model.training and torch.equal(drawn, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_structure_and_state_dict_are_the_network() -> None:
    model, x = resnet(), images()
    made = Quantize()(model, look())
    shell = perform(resnet(), edits(made), weights=False)
    shell.load_state_dict(made.state_dict())
    assert torch.equal(outputs(shell, x), outputs(made, x))


def test_baking_keeps_the_function() -> None:
    made, x = Quantize()(resnet(), look()), images()
    assert torch.equal(outputs(bake(made), x), outputs(made, x))


def test_edits_are_small() -> None:
    assert len(str(to_json(Quantize().plan(resnet(), look())))) < 200 * 8 * 6


def test_no_filter_can_saturate_unless_it_is_allowed() -> None:
    def codes(method: Quantize) -> list[torch.Tensor]:
        made = method(resnet(), look())
        layers = [m for m in made.modules() if isinstance(m, Mapped)]
        return [m.weight_maps[0].encode(m.weight).values for m in layers]

    assert not any(saturating(c).any() for c in codes(Quantize()))
    assert any(saturating(c).any() for c in codes(Quantize(saturation_free=False)))


def test_depthwise_filters_keep_all_their_levels() -> None:
    plan = Quantize().plan(NETS["shuffled"](), look())
    paired = {e.site: "pairs" in e.spec for e in plan if isinstance(e, Map) and e.tensor == "weight"}
    assert paired == {"stem.0": True, "deep.0": False, "deep.2": True, "group": True, "fc": True}


def test_biases_are_whole() -> None:
    made = Quantize()(resnet(), look())
    swaps = {e.site: e.spec["input"] for e in edits(made) if isinstance(e, Swap) and e.layer == "whole_bias"}
    assert set(swaps) == {n for n, m in made.named_modules() if isinstance(m, Mapped)}
    for site, step in swaps.items():
        layer = made.get_submodule(site)
        whole = layer.bias.double() / (layer.weight_maps[0].scale * torch.tensor(step)).double()
        assert torch.allclose(whole, whole.round(), atol=1e-3)


def test_a_whole_bias_needs_an_integer_weight() -> None:
    with pytest.raises(EditError, match="0: only a layer with a bias and an integer weight"):
        perform(nn.Sequential(nn.Conv2d(3, 3, 1)), [Swap("0", "whole_bias", {"input": 0.1})])


def test_a_dead_channel_keeps_its_bias() -> None:
    model = resnet()
    with torch.no_grad():
        model.conv1.weight[0] = 0
        model.bn1.bias[0] = 1.2345
    made = Quantize()(model, look())
    assert torch.isfinite(outputs(made, images())).all()
    norm = model.bn1
    offset = (norm.bias - norm.running_mean * norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
    assert float(made.conv1.bias.detach()[0]) == pytest.approx(float(offset[0]), abs=1e-6)


def test_only_so_many_images_calibrate() -> None:
    few, many = look(32), replace(look(32), batches=[*look(32).batches, (images(8, seed=9) * 100, torch.zeros(8))])
    assert Quantize(images=32).plan(resnet(), few) == Quantize(images=32).plan(resnet(), many)
    assert Quantize(images=40).plan(resnet(), few) != Quantize(images=40).plan(resnet(), many)


def test_its_text_is_invertible() -> None:
    method = Quantize(bits=4, range="percentile", skip=("conv1",))
    assert method.text() == "quant.quantize(bits=4, range=percentile, skip=[conv1])"
    assert parse(method.text()) == method


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"bits": 9}, ConfigError, "`bits` \\(=9\\) is not a width"),
        ({"activations": 1}, ConfigError, "`activations` \\(=1\\) is not a width"),
        ({"range": "minmacs"}, UnknownName, "Did you mean `minmax`"),
        ({"weights": "kl"}, ConfigError, "`weights` \\(=kl\\)"),
        ({"images": 0}, ConfigError, "`images` \\(=0\\)"),
        ({"skip": ("conv9",)}, ConfigError, "no layer is called `conv9`"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Quantize(**options).plan(resnet(), look())


def test_calibration_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"quant\.quantize needs labelled images"):
        Quantize().plan(resnet(), Look(images(1)))
    with pytest.raises(DataError, match="no calibration image"):
        Quantize().plan(resnet(), Look(images(1), []))
    broken = images(4)
    broken[2] = float("nan")
    with pytest.raises(DataError, match="conv1: calibration images make activations from `nan`"):
        Quantize().plan(resnet(), Look(images(1), [(broken, torch.zeros(4))]))


def test_a_baked_network_is_rebuilt_from_its_edits_and_its_tensors() -> None:
    model, x = resnet(), images(4)
    baked = bake(Quantize()(model, look()))
    shell = perform(model, edits(baked), weights=False)
    shell.load_state_dict(baked.state_dict())
    assert torch.equal(outputs(shell, x), outputs(baked, x))
