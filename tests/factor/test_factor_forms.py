"""What every decomposition keeps to, over shapes of kernels, strides, dilations and paddings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lilliput as lp
from lilliput.core.edits import Swap
from lilliput.core.layers import swaps
from lilliput.core.perform import perform
from lilliput.errors import EditError
from lilliput.factor import als, forms
from lilliput.factor.chain import Chain, spec_of
from lilliput.factor.shape import macs, shape
from lilliput.factor.spectra import energies, factors, reaching, tail

EXACT = {"svd", "spatial", "separable", "group"}  # the error is the discarded spectrum, and no more than it for the others

sides = st.sampled_from([1, 2, 3, 5])


@st.composite
def convolutions(draw: st.DrawFn) -> nn.Conv2d:
    torch.manual_seed(draw(st.integers(0, 1000)))
    kernel = (draw(sides), draw(sides))
    stride = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    padding: Any = (draw(st.integers(0, 2)), draw(st.integers(0, 2)))
    if stride == (1, 1) and kernel[0] % 2 and kernel[1] % 2 and draw(st.booleans()):
        padding = "same"
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    inputs, outputs = (draw(st.integers(1, 4)) * 2 for _ in range(2))
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=draw(st.booleans()), padding_mode=mode).eval()


def images(layer: nn.Conv2d) -> Tensor:
    return torch.randn(2, layer.in_channels, 12, 13)


def options(form: type[Chain], **more: Any) -> dict[str, Any]:
    return {**form.options, **more}


def put(layer: nn.Module, form: type[Chain], ranks: tuple[int, ...], **more: Any) -> Any:
    return perform(nn.Sequential(layer), [Swap("0", form.name, spec_of(ranks, options(form, **more), form.options))])[0]


def near(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    a, b = a.detach(), b.detach()
    return float((a - b).abs().max()) <= tolerance * max(1.0, float(b.abs().max()))


@pytest.mark.parametrize("name", sorted(forms))
@given(layer=convolutions())
@settings(max_examples=15, deadline=None)
def test_full_rank_is_the_dense_layer(name: str, layer: nn.Conv2d) -> None:
    form, seen = forms[name], shape(layer)
    if form.refuses(seen, **options(form)) is not None:
        return
    chain, x = put(layer, form, form.largest(seen, **options(form))), images(layer)
    assert near(chain(x), layer(x))


@pytest.mark.parametrize("name", sorted(forms))
@given(layer=convolutions(), share=st.floats(0.05, 1))
@settings(max_examples=15, deadline=None)
def test_a_chain_is_the_layer_that_dense_gives(name: str, layer: nn.Conv2d, share: float) -> None:
    form, seen = forms[name], shape(layer)
    if form.refuses(seen, **options(form)) is not None:
        return
    chain = put(layer, form, tuple(max(1, int(share * r)) for r in form.largest(seen, **options(form))))
    dense, x = chain.dense(), images(layer)
    assert type(dense) is nn.Conv2d and shape(dense) == seen
    assert near(chain(x), dense(x), 1e-4)


@pytest.mark.parametrize("name", sorted(forms))
@given(layer=convolutions(), share=st.floats(0.05, 0.95))
@settings(max_examples=15, deadline=None)
def test_the_error_is_the_discarded_spectrum(name: str, layer: nn.Conv2d, share: float) -> None:
    form, seen = forms[name], shape(layer)
    if form.refuses(seen, **options(form)) is not None or name == "low_rank_sparse":
        return
    ranks = tuple(max(1, int(share * r)) for r in form.largest(seen, **options(form)))
    weight = layer.weight.detach()
    lost = float((put(layer, form, ranks).kernel() - weight).detach().square().sum() / weight.square().sum())
    foreseen = sum(tail(m.energies, r) for m, r in zip(form.modes(weight, **options(form)), ranks, strict=True))
    if name in EXACT:
        assert lost == pytest.approx(foreseen, abs=1e-5)
    else:
        assert lost <= foreseen * 1.01 + 1e-5


@pytest.mark.parametrize("name", sorted(forms))
def test_structure_needs_no_numbers_and_draws_none(name: str) -> None:
    form, layer = forms[name], nn.Conv2d(8, 12, 3, padding=1)
    ranks = tuple(max(1, r // 3) for r in form.largest(shape(layer), **options(form)))
    edit = Swap("0", name, spec_of(ranks, options(form), form.options))
    drawn = torch.get_rng_state()
    full = perform(nn.Sequential(layer), [edit])
    assert torch.equal(drawn, torch.get_rng_state())
    empty = perform(nn.Sequential(layer).to("meta"), [edit], weights=False)
    described = [{k: (v.shape, v.dtype) for k, v in m.state_dict().items()} for m in (full, empty)]
    assert described[0] == described[1]
    assert all(v.is_meta for v in empty.state_dict().values())
    assert {type(m) for m in full[0].children()} == {nn.Conv2d}


@pytest.mark.parametrize("name", sorted(forms))
def test_what_a_chain_costs_is_what_is_counted(name: str) -> None:
    form, layer, x = forms[name], nn.Conv2d(8, 12, (3, 5), (2, 1), (1, 2), bias=False), torch.zeros(1, 8, 11, 9)
    seen = shape(layer)
    ranks = tuple(max(1, r // 3) for r in form.largest(seen, **options(form)))
    counted = lp.profile(nn.Sequential(put(layer, form, ranks)), x)
    if name == "low_rank_sparse":  # the remainder runs whole until a runtime knows zeros
        return
    assert form.price(seen, ranks, [(11, 9)], **options(form)) == (counted.macs, counted.params)
    assert macs([seen.whole()], [(11, 9)]) == lp.profile(nn.Sequential(layer), x).macs


@pytest.mark.parametrize("name", ["svd", "low_rank_sparse"])
def test_linear_layers(name: str) -> None:
    layer, x = nn.Linear(20, 12), torch.randn(3, 7, 20)
    assert near(put(layer, forms[name], (12,))(x), layer(x))
    half = put(layer, forms[name], (4,))
    assert isinstance(half.dense(), nn.Linear) and near(half.dense()(x), half(x))


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_groups_of_any_number(groups: int, shuffle: bool) -> None:
    layer, x = nn.Conv2d(8, 16, 3, padding=1, stride=2), torch.randn(2, 8, 9, 9)
    form, more = forms["group"], {"groups": groups, "shuffle": shuffle}
    full = put(layer, form, form.largest(shape(layer), **more), **more)
    assert near(full(x), layer(x))
    part = put(layer, form, (1,), **more)
    assert near(part.dense()(x), part(x), 1e-4)


def test_one_group_is_svd_and_a_group_for_each_channel_is_separable() -> None:
    layer = nn.Conv2d(8, 16, 3)
    kernels = [put(layer, forms["group"], (2,), groups=g).kernel() for g in (1, 8)]
    assert near(kernels[0], put(layer, forms["svd"], (2,)).kernel())
    assert near(kernels[1], put(layer, forms["separable"], (2,)).kernel())


def test_a_relu_between_is_there_and_has_no_dense_layer() -> None:
    layer, x = nn.Conv2d(4, 6, 3), torch.randn(1, 4, 6, 6)
    chain = put(layer, forms["separable"], (2,), relu=True)
    depthwise, pointwise = chain.chain
    assert torch.equal(chain(x), pointwise(depthwise(x).relu()))
    with pytest.raises(EditError, match="ReLU"):
        chain.dense()


def test_a_chain_is_decomposed_anew() -> None:
    layer = nn.Conv2d(8, 12, 3, padding=1)
    twice = put(put(layer, forms["svd"], (10,)), forms["svd"], (4,))
    assert near(twice.kernel(), put(layer, forms["svd"], (4,)).kernel(), 1e-4)
    assert [m.out_channels for m in twice.chain] == [4, 12] and torch.equal(twice.last.bias, layer.bias)


def test_low_rank_and_sparse_is_better_than_low_rank_alone() -> None:
    layer = nn.Conv2d(8, 12, 3)
    with torch.no_grad():
        layer.weight.view(-1)[::40] += 3.0
    form = forms["low_rank_sparse"]
    model = perform(nn.Sequential(layer), form.edits("0", {"rank": 4, "density": 0.05}))
    lost = [float((m.kernel() - layer.weight).detach().norm()) for m in (model[0], put(layer, forms["svd"], (4,)))]
    assert lost[0] < 0.5 * lost[1]
    rest = model[0].rest
    assert int((rest.mapped_weight() != 0).sum()) == round(0.05 * layer.weight.numel())
    with torch.no_grad():
        rest.weight.add_(1.0)  # as training would
    assert int((rest.mapped_weight() != 0).sum()) == round(0.05 * layer.weight.numel())


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"rank": 13}, "`rank` (=13) exceeds the layer's largest rank (=12). Take a number up to 12."),
        ({"rank": 0}, "`rank` (=0) must be at least 1; the largest for this layer is 12"),
        ({"rank": [2, 2]}, "does not give them"),
        ({"rank": 1.5}, "does not give them"),
        ({"rank": True}, "does not give them"),
        ({"rank": 1, "groups": 2}, "`svd` has no option `groups`"),
    ],
)
def test_ranks_that_cannot_be(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(EditError) as caught:
        perform(nn.Sequential(nn.Conv2d(8, 12, 3)), [Swap("0", "svd", spec)])
    assert words in str(caught.value) and str(caught.value).startswith("0: ")


@pytest.mark.parametrize(
    ("layer", "form", "words"),
    [
        (nn.Conv2d(8, 8, 3, groups=8), "svd", "depthwise"),
        (nn.Conv2d(8, 8, 3, groups=2), "svd", "grouped"),
        (nn.ConvTranspose2d(8, 8, 3), "svd", "neither an ordinary 2d convolution"),
        (nn.Conv2d(8, 8, 1), "tucker2", "its kernel is 1x1"),
        (nn.Conv2d(8, 8, 1), "cp", "its kernel is 1x1"),
        (nn.Conv2d(6, 8, 3), "group", "do not fall into `4` groups"),
    ],
)
def test_layers_that_a_form_cannot_serve(layer: nn.Module, form: str, words: str) -> None:
    spec = {"rank": 1, "groups": 4} if form == "group" else {"rank": [1, 1] if form == "tucker2" else 1}
    with pytest.raises(EditError, match=words):
        swaps[form].like(layer, **spec)


@given(rows=st.integers(1, 12), columns=st.integers(1, 12), seed=st.integers(0, 99), data=st.data())
@settings(max_examples=40, deadline=None)
def test_factors_are_the_best_of_their_rank(rows: int, columns: int, seed: int, data: st.DataObject) -> None:
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    rank = data.draw(st.integers(1, min(rows, columns)))
    left, right = factors(matrix, rank)
    values = torch.linalg.svdvals(matrix.double()) ** 2
    assert float((matrix - left @ right).square().sum()) == pytest.approx(float(values[rank:].sum()), abs=1e-4)
    assert torch.allclose(energies(matrix), values, atol=1e-5)
    assert tail(values, reaching(values, 0.9)) <= 0.1 + 1e-9


def test_zero_weights_are_no_trouble() -> None:
    layer = nn.Conv2d(8, 12, 3)
    nn.init.zeros_(layer.weight)
    for name, form in forms.items():
        ranks = tuple(max(1, r // 3) for r in form.largest(shape(layer), **options(form)))
        assert float(put(layer, form, ranks).kernel().detach().abs().max()) == 0, name


def test_the_correction_keeps_the_error_and_makes_terms_smaller() -> None:
    torch.manual_seed(0)
    weight = torch.randn(12, 8, 3, 3)
    solver = als._Solver(weight)
    found, _ = als.start(weight, 30)
    for _ in range(60):
        found, _ = solver.sweep(found, None)
    error, terms = solver.error(found), als.size(found)
    for _ in range(als.CORRECTIONS):
        found, _ = solver.sweep(found, error * als.SLACK)
    assert solver.error(found) <= error * als.SLACK * 1.001
    assert als.size(found) < 0.9 * terms


def test_cp_and_tucker_are_as_good_as_tensorly() -> None:
    tensorly = pytest.importorskip("tensorly")
    from tensorly.decomposition import parafac, partial_tucker

    torch.manual_seed(0)
    layer = nn.Conv2d(12, 16, 3)
    dense = layer.weight.detach()
    array = dense.double().numpy()
    for rank in (6, 20):
        theirs = tensorly.cp_to_tensor(parafac(array, rank, n_iter_max=200, init="random", random_state=0))
        ours = put(layer, forms["cp"], (rank,)).kernel().detach()
        assert float((ours - dense).norm()) <= 1.03 * float((dense - torch.from_numpy(theirs)).norm())
    for ranks in ((5, 4), (10, 8), (16, 3)):
        (core, bases), _ = partial_tucker(array, rank=list(ranks), modes=[0, 1], n_iter_max=200)
        theirs = tensorly.tenalg.multi_mode_dot(core, bases, modes=[0, 1])
        ours = put(layer, forms["tucker2"], ranks).kernel().detach()
        assert float((ours - dense).norm()) <= 1.002 * float((dense - torch.from_numpy(theirs)).norm())
