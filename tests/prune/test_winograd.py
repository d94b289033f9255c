"""The Winograd domain: exact at no sparsity, exact as ordinary layers at any, and pruned where it multiplies."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import lilliput as lp
from lilliput import testing
from lilliput.core.method import Look
from lilliput.errors import EditError
from lilliput.prune import Weights
from lilliput.prune.masks import masks
from lilliput.prune.winograd import A, B, G, Winograd, WinogradDomain

CHECKS = [name for name in testing.CHECKS if name != "exports_and_agrees"]


@settings(max_examples=25)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(3, 11), st.integers(3, 10), st.integers(0, 2), st.booleans())
def test_at_no_sparsity_it_is_the_direct_convolution(i: int, o: int, h: int, w: int, pad: int, bias: bool) -> None:
    torch.manual_seed(i * 100 + o)
    dense = nn.Conv2d(i, o, 3, padding=pad, bias=bias)
    layer = Winograd.like(dense)
    layer.absorb(dense)
    x = torch.randn(2, i, h, w)
    torch.testing.assert_close(layer(x), dense(x), atol=1e-4, rtol=1e-4)


def test_one_tile_is_the_formula() -> None:
    torch.manual_seed(0)
    dense, d = nn.Conv2d(1, 1, 3, bias=False), torch.randn(1, 1, 4, 4)
    a, b, g = (torch.tensor(t) for t in (A, B, G))
    expected = a @ ((g @ dense.weight[0, 0] @ g.T) * (b @ d[0, 0] @ b.T)) @ a.T
    torch.testing.assert_close(dense(d)[0, 0], expected, atol=1e-5, rtol=1e-5)
    layer = Winograd.like(dense, relu=True)
    layer.absorb(dense)
    expected = a @ ((g @ dense.weight[0, 0] @ g.T) * (b @ d[0, 0] @ b.T).relu()) @ a.T
    torch.testing.assert_close(layer(d)[0, 0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("pad", [0, 1])
def test_pruned_or_not_it_equals_ordinary_layers(relu: bool, pad: int) -> None:
    torch.manual_seed(0)
    dense = nn.Conv2d(3, 5, 3, padding=pad)
    model = lp.perform(nn.Sequential(dense), [lp.core.edits.Swap("0", "winograd", {"relu": relu})])
    pruned = Weights(rate=0.6)(model, Look(torch.randn(1, 3, 8, 6)))
    x = torch.randn(2, 3, 8, 6)
    torch.testing.assert_close(pruned[0].dense()(x), pruned(x), atol=1e-4, rtol=1e-4)
    assert masks(pruned)["0.product"][1].rate == pytest.approx(0.6, abs=0.01)
    torch.testing.assert_close(lp.bake(pruned)(x), pruned(x))


def test_gradients_reach_what_is_kept_and_only_that() -> None:
    model = WinogradDomain()(testing.subject_model(), testing.subject_look())
    pruned = Weights(rate=0.8, allocate="global")(model, testing.subject_look()).train()
    optimizer = torch.optim.SGD(pruned.parameters(), 0.05, 0.9, weight_decay=1e-3)
    for x, y in [*testing.subject_look().need_batches("the test")] * 2:
        optimizer.zero_grad()
        nn.functional.cross_entropy(pruned(x), y).backward()
        optimizer.step()
    inner = {site: pair for site, pair in masks(pruned).items() if site.endswith("product")}
    assert len(inner) == 5
    for layer, mask in inner.values():
        assert layer.weight.grad is not None and not layer.weight.grad[~mask.kept].any()
        assert layer.weight.grad[mask.kept].any() and not layer.weight[~mask.kept].any()


def test_gradients_are_those_of_the_function() -> None:
    torch.manual_seed(0)
    layer = Winograd.like(nn.Conv2d(2, 2, 3, padding=1).double(), relu=True)
    with torch.no_grad():
        layer.product.weight.normal_()
    x = torch.randn(1, 2, 5, 4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


def test_the_contract() -> None:
    testing.check_method(WinogradDomain(), only=CHECKS)


def test_it_multiplies_less_and_the_profile_says_so() -> None:
    look = testing.subject_look()
    model = testing.subject_model()
    made = WinogradDomain()(model, look)
    rows = {r.name: r for r in lp.profile(made, look.example).layers}
    before = {r.name: r for r in lp.profile(model, look.example).layers}
    assert rows["layer1.0.conv1.product"].macs * 9 == before["layer1.0.conv1"].macs * 4
    pruned = lp.profile(Weights(rate=0.75)(made, look), look.example)
    assert {r.name: r for r in pruned.layers}["layer1.0.conv1.product"].density == pytest.approx(0.25, abs=0.01)


def test_a_relu_of_its_own_moves_into_the_domain() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.Flatten())
    x = torch.randn(2, 3, 8, 8)
    made = WinogradDomain(relu=True)(net, Look(x))
    assert not made[0].relu and made[2].relu and not isinstance(made[1], nn.ReLU)
    expected = made[2](made[0](x)).flatten(1)
    torch.testing.assert_close(made(x), expected)


def test_saved_and_back(tmp_path: Path) -> None:
    look = testing.subject_look()
    made = Weights(rate=0.5)(WinogradDomain()(testing.subject_model(), look), look)
    lp.save(made, tmp_path / "w.lil")
    with torch.no_grad():
        assert torch.equal(lp.load(tmp_path / "w.lil")(look.example), made(look.example))


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.Conv2d(4, 4, 5), "kernel_size"),
        (nn.Conv2d(4, 4, 3, stride=2), "stride"),
        (nn.Conv2d(4, 4, 3, groups=2), "groups"),
        (nn.Conv2d(4, 4, 3, dilation=2), "dilation"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), "padding_mode"),
        (nn.Linear(4, 4), "it is a `Linear`"),
    ],
)
def test_what_has_no_winograd_form(layer: nn.Module, words: str) -> None:
    with pytest.raises(EditError, match=words):
        lp.perform(nn.Sequential(layer), [lp.core.edits.Swap("0", "winograd")])


def test_a_pruned_layer_is_not_transformed() -> None:
    look = testing.subject_look()
    pruned = Weights(rate=0.5)(testing.subject_model(), look)
    assert WinogradDomain().plan(pruned, look) == []
    with pytest.raises(EditError, match="transform first, then prune"):
        lp.perform(pruned, [lp.core.edits.Swap("conv1", "winograd")])
