"""Roundings and corrected biases: by what layers say, never worse than what they begin with."""

from __future__ import annotations

import copy
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from integer_nets import NETS, images, look, outputs, resnet
from torch import Tensor, nn

from lilliput.core.edits import Swap
from lilliput.core.fold import fold
from lilliput.core.layers import Mapped
from lilliput.core.perform import perform
from lilliput.core.record import edits
from lilliput.quant import Quantize
from lilliput.quant.blocks import blocks
from lilliput.quant.rounding import Quadratic, adaround, roundings
from lilliput.quant.scales import saturating

SPAN = (-7, 7)


def problem(seed: int, inputs: int = 5, outputs: int = 3, groups: int = 2) -> tuple[Quadratic, Tensor, Tensor]:
    """A layer with correlated inputs, its scales, and its nearest codes."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(groups, 200, inputs, generator=draw) @ torch.randn(groups, inputs, inputs, generator=draw)
    weight = torch.randn(groups, outputs, inputs, generator=draw)
    h = x.mT @ x / 200
    scale = (weight.abs().amax(2, keepdim=True) / SPAN[1]).expand_as(weight)
    return Quadratic(h, weight @ h, weight, 0.01), scale, (weight / scale).round()


@given(seed=st.integers(0, 500), name=st.sampled_from(["descent"]))
def test_descent_never_loses_more_than_the_nearest_codes(seed: int, name: str) -> None:
    form, scale, codes = problem(seed)
    made = roundings[name](form, form.weight, codes, scale, SPAN)
    assert torch.equal(made, made.round()) and made.abs().max() <= SPAN[1]
    assert (form.loss(made * scale) <= form.loss(codes * scale) + 1e-4).all()


@pytest.mark.parametrize("seed", range(3))
def test_descent_ends_where_no_single_code_can_improve(seed: int) -> None:
    form, scale, codes = problem(seed)
    made = roundings["descent"](form, form.weight, codes, scale, SPAN)
    least = form.loss(made * scale)
    for j, step in product(range(made.shape[2]), (-1, 1)):
        other = made.clone()
        other[:, :, j] = (other[:, :, j] + step).clamp(*SPAN)
        assert (form.loss(other * scale) >= least - 1e-4).all()


@pytest.mark.parametrize("seed", range(3))
def test_adaround_goes_up_or_down_and_loses_less(seed: int) -> None:
    form, scale, codes = problem(seed, inputs=12)
    made = adaround(form, form.weight, codes, scale, SPAN, steps=150)
    assert ((made - form.weight / scale).abs() < 1 + 1e-5).all()
    assert form.loss(made * scale).sum() < form.loss(codes * scale).sum()


def test_the_form_is_the_error_of_the_outputs() -> None:
    draw = torch.Generator().manual_seed(0)
    x, w, v = (torch.randn(*s, generator=draw, dtype=torch.double) for s in ((50, 4), (3, 4), (3, 4)))
    form = Quadratic((x.T @ x / 50)[None], (w @ x.T @ x / 50)[None], w[None], 0.0)
    lost = (x @ v.T - x @ w.T).square().mean(0)
    assert torch.allclose(form.loss(v[None]) - form.loss(w[None]), lost[None])


def layer_error(made: nn.Module, model: nn.Module) -> float:
    x = images(64)
    return float((outputs(made, x) - outputs(model, x)).norm() / outputs(model, x).norm())


def block_error(made: nn.Module, model: nn.Module, path: str) -> float:
    said = []
    for net in (made, model):
        hook = net.get_submodule(path).register_forward_hook(lambda module, inputs, output: said.append(output))
        outputs(net, images(64))
        hook.remove()
    return float((said[0] - said[1]).norm() / said[1].norm())


@pytest.mark.parametrize("round", ["descent", "block"])
def test_four_bits_say_more_of_what_eight_said(round: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lilliput.quant.quantize.reconstruct_blocks", _short)
    model = resnet()
    nearest, better = (Quantize(bits=3, round=r, images=64)(model, look(64)) for r in ("nearest", round))
    for path in ("layer1.0", "layer2.0", "layer3.0"):  # the last layer of an untrained network says nothing that stays
        assert block_error(better, model, path) < 0.9 * block_error(nearest, model, path)
    assert edits(better) == edits(nearest)


def _short(*arguments: Any) -> None:
    from lilliput.quant.blocks import reconstruct_blocks

    reconstruct_blocks(*arguments, steps=60)


@pytest.mark.parametrize("name", ["shuffled", "branches", "pruned_resnet"])
def test_any_layer_can_be_rounded(name: str) -> None:
    model = NETS[name]()
    made = Quantize(bits=4, round="descent")(model, look())
    assert layer_error(made, model) < layer_error(Quantize(bits=4)(model, look()), model)


def test_codes_stay_codes_and_no_filter_begins_to_saturate() -> None:
    made = Quantize(round="descent")(resnet(), look())
    for layer in (m for m in made.modules() if isinstance(m, Mapped)):
        (quantizer,) = layer.weight_maps
        codes = quantizer.encode(layer.weight).values
        assert not saturating(codes).any()
        assert torch.allclose(layer.weight, quantizer.decode(quantizer.encode(layer.weight)))


def test_refitting_is_deterministic_and_leaves_the_network_alone() -> None:
    model = resnet().train()
    before = copy.deepcopy(model.state_dict())
    drawn = torch.get_rng_state()
    one, two = (Quantize(bits=4, round="descent")(model, look()) for _ in range(2))
    assert all(torch.equal(v, two.state_dict()[k]) for k, v in one.state_dict().items())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training and one.training and torch.equal(drawn, torch.get_rng_state())
    assert not any(m._forward_pre_hooks for m in one.modules())


def test_corrected_biases_bring_the_means_back() -> None:
    model = resnet()
    made = Quantize(bits=3, activations=32, correct=True)(model, look())
    folded = perform(model, fold(model, images(1)))
    for site in ("conv1", "layer2.0.conv2", "linear"):
        means = [_mean(net, site) for net in (folded, made)]
        assert torch.allclose(*means, atol=1e-4 * float(means[0].abs().max()) + 1e-5)


def test_corrected_biases_are_whole_still() -> None:
    made = Quantize(correct=True)(resnet(), look())
    steps = {e.site: e.spec["input"] for e in edits(made) if isinstance(e, Swap) and e.layer == "whole_bias"}
    for site, step in steps.items():
        layer = made.get_submodule(site)
        whole = layer.bias.double() / (layer.weight_maps[0].scale * torch.tensor(step)).double()
        assert torch.allclose(whole, whole.round(), atol=1e-3)


def _mean(net: nn.Module, site: str) -> Tensor:
    found: list[Tensor] = []
    hook = net.get_submodule(site).register_forward_hook(lambda m, a, out: found.append(out))
    outputs(net, torch.cat([x for x, _ in look().batches]))
    hook.remove()
    return found[0].mean([d for d in range(found[0].dim()) if d != 1])


def test_blocks_are_the_smallest_modules_with_several_layers() -> None:
    model = Quantize()(resnet(), look())
    sites = [n for n, m in model.named_modules() if isinstance(m, Mapped)]
    found = blocks(model, images(1), sites)
    assert list(found) == ["layer1.0", "layer2.0", "layer3.0"]
    assert found["layer1.0"] == ["layer1.0.conv1", "layer1.0.conv2"]


def test_masked_weights_stay_zero() -> None:
    from lilliput.prune import Weights

    sparse = Weights(rate=0.5)(perform(resnet(), fold(resnet(), images(1))), look())
    made = Quantize(bits=4, round="descent")(sparse, look())
    for name, layer in made.named_modules():
        if isinstance(layer, Mapped) and len(layer.weight_maps) > 1:
            kept = sparse.get_submodule(name).mapped_weight() != 0
            assert not layer.mapped_weight()[~kept].any()
