"""Integer quantizers: what every one keeps, whatever the tensor."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lilliput.core.edits import Map, Resize
from lilliput.core.maps import maps
from lilliput.core.perform import perform
from lilliput.errors import EditError
from lilliput.quant.integer import Affine
from lilliput.quant.quantize import grid
from lilliput.quant.scales import PAIR_LIMIT, paired, saturating

SPECS = st.fixed_dictionaries(
    {
        "bits": st.sampled_from([2, 3, 4, 5, 6, 7, 8, 16]),
        "axis": st.sampled_from([None, 0, 1]),
        "range": st.sampled_from(["max", "mse", "power"]),
    }
)


@st.composite
def weights(draw: Any) -> Tensor:
    """Weights of odd shapes and scales, some channels all zero."""
    shape = draw(st.sampled_from([(4, 3, 3, 3), (5, 2, 1, 1), (3, 7), (1, 1), (6, 1, 3, 3)]))
    seed, size = draw(st.integers(0, 2**16)), draw(st.sampled_from([1e-6, 0.1, 1.0, 1e4]))
    w = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * size
    if draw(st.booleans()):
        w[0] = 0
    return w


def fitted(w: Tensor, **spec: Any) -> Affine:
    made = Affine.like(w, **spec)
    made.absorb(w)
    return made


@given(w=weights(), spec=SPECS)
def test_codes_are_the_quantizer(w: Tensor, spec: dict[str, Any]) -> None:
    q = fitted(w, **spec)
    codes = q.encode(w)
    assert torch.equal(q.decode(codes), q(w))
    assert codes.values.shape == w.shape
    assert codes.low <= int(codes.values.min()) <= int(codes.values.max()) <= codes.high


@given(w=weights(), spec=SPECS)
def test_it_is_idempotent(w: Tensor, spec: dict[str, Any]) -> None:
    q = fitted(w, **spec)
    assert torch.equal(q(q(w)), q(w))


@given(w=weights(), spec=SPECS)
def test_levels_are_at_most_two_to_the_bits(w: Tensor, spec: dict[str, Any]) -> None:
    q = fitted(w, **spec)
    assert q.high - q.low + 1 <= 2**q.bits
    assert q.low == -q.high  # symmetric: zero is a level, and so is the opposite of each


@given(w=weights(), bits=st.sampled_from([4, 8]), axis=st.sampled_from([None, 0]))
def test_the_largest_weight_is_the_last_level(w: Tensor, bits: int, axis: int | None) -> None:
    q = fitted(w, bits=bits, axis=axis, range="max")
    error = (q(w) - w).abs().amax()
    assert error <= q.scale.max() / 2 * (1 + 1e-4)


@given(w=weights(), spec=SPECS)
def test_least_error_is_no_worse_than_the_largest_weight(w: Tensor, spec: dict[str, Any]) -> None:
    error = {how: float((fitted(w, **{**spec, "range": how})(w) - w).square().sum()) for how in ("mse", "max")}
    assert error["mse"] <= error["max"] * (1 + 1e-5)


@given(w=weights(), bits=st.sampled_from([4, 8]), axis=st.sampled_from([None, 0]))
def test_powers_are_the_least_that_hold_the_largest_weight(w: Tensor, bits: int, axis: int | None) -> None:
    q = fitted(w, bits=bits, axis=axis, range="power")
    largest = w.flatten(1).abs().amax(1) if axis == 0 else w.abs().amax()
    assert (torch.frexp(q.scale).mantissa == 0.5).all()
    some, reach = largest > 0, q.high * q.scale
    assert (reach[some] >= largest[some] * (1 - 1e-6)).all() and (reach[some] < 2 * largest[some] * (1 + 1e-6)).all()


@given(w=weights(), how=st.sampled_from(["max", "mse", "power"]), axis=st.sampled_from([None, 0]))
def test_pairs_never_saturate(w: Tensor, how: str, axis: int | None) -> None:
    codes = fitted(w, axis=axis, range=how, pairs=True).encode(w).values
    assert not saturating(codes).any()
    # the largest input, the worst signs: every 16-bit sum of two products stays exact
    products = paired(codes.to(torch.int64)) * 255
    sums = torch.maximum(products.clamp(min=0).sum(-1), products.clamp(max=0).sum(-1).abs())
    assert int(sums.max()) <= PAIR_LIMIT * 255 < 2**15


def test_saturating_pairs_are_found() -> None:
    codes = torch.zeros(4, 4, 1, 1, dtype=torch.int8)
    codes[0, 0], codes[0, 1] = 64, 64  # 128: exact
    codes[1, 0], codes[1, 1] = 65, 64  # 129: not
    codes[2, 1], codes[2, 2] = 127, 127  # neighbours, but not a pair
    codes[3, 2], codes[3, 3] = 127, -127
    assert saturating(codes).tolist() == [False, True, False, False]


def test_pairs_follow_kernel_positions_then_channels() -> None:
    weight = torch.arange(6).reshape(1, 3, 1, 2)  # (out, in, kh, kw): channels c at positions p hold 2c + p
    assert paired(weight).tolist() == [[[0, 2], [4, 1], [3, 5]]]


@given(low=st.floats(-100, 100), high=st.floats(-100, 100), bits=st.sampled_from([2, 4, 8, 16]))
def test_a_grid_covers_its_range_and_holds_zero(low: float, high: float, bits: int) -> None:
    low, high = min(low, high), max(low, high)
    q = Affine.like(torch.zeros(1), **grid(low, high, bits))
    assert q(torch.zeros(1)) == 0
    x = torch.linspace(low, high, 101)
    assert float((q(x) - x).abs().max()) <= float(q.scale) * 1.01 + 1e-30


def test_an_unsigned_grid_from_zero_is_a_relu() -> None:
    q = Affine.like(torch.zeros(1), **grid(0.0, 3.0, 8))
    x = torch.linspace(-2, 4, 301)
    assert torch.equal(q(x.relu()), q(x)) and torch.equal(q(x).relu(), q(x))


def test_gradients_pass_inside_the_range_and_stop_outside() -> None:
    x = torch.tensor([-2.0, -0.5, 0.3, 0.9, 5.0], requires_grad=True)
    Affine.like(x, scale=1 / 127)(x).sum().backward()
    assert x.grad is not None and torch.allclose(x.grad, torch.tensor([0.0, 1.0, 1.0, 1.0, 0.0]))


def test_halves_round_to_even() -> None:
    q = Affine.like(torch.zeros(1), scale=1.0)
    assert q(torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5])).tolist() == [0, 2, 2, 0, -2]


def test_scales_a_channel_from_the_spec() -> None:
    q = Affine.like(torch.zeros(2, 3), axis=0, scale=[0.5, 2.0])
    assert q(torch.full((2, 3), 3.2)).tolist() == [[3.0] * 3, [4.0] * 3]


def test_side_information_is_what_decoding_needs() -> None:
    assert set(Affine.like(torch.zeros(1), scale=1.0).encode(torch.ones(1)).side) == {"scale"}
    assert set(Affine.like(torch.zeros(1), **grid(-1, 1, 8)).encode(torch.ones(1)).side) == {"scale", "zero"}


@pytest.mark.parametrize(("axis", "keep", "kept"), [("out", (0, 2), 2), ("in", (1,), 4)])
def test_scales_follow_the_channels_they_belong_to(axis: str, keep: tuple[int, ...], kept: int) -> None:
    torch.manual_seed(0)
    model = perform(nn.Sequential(nn.Conv2d(3, 4, 3)), [Map("0", "weight", "affine", {"axis": 0})])
    small = perform(model, [Resize("0", axis, keep)])
    q = small[0].weight_maps[0]
    assert q.scale.shape == q.zero.shape == (kept,)
    expected = model[0].mapped_weight().index_select("out in".split().index(axis), torch.tensor(keep))
    assert torch.equal(small[0].mapped_weight(), expected)


def test_structure_on_meta_and_state_dict_are_the_quantizer() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    edits = [Map("0", "weight", "affine", {"bits": 4, "axis": 0}), Map("1", "output", "affine", grid(0, 1, 8))]
    made = perform(model, edits)
    shell = perform(copy.deepcopy(model).to("meta"), edits, weights=False).to_empty(device="cpu")
    shell.load_state_dict(made.state_dict())
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(shell(x), made(x))


def test_it_is_registered() -> None:
    assert maps["affine"] is Affine


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"bits": 9}, "`bits` \\(=9\\) is a width no integer quantizer has"),
        ({"axis": 4}, "`axis` \\(=4\\) is not a dimension"),
        ({"range": "kl"}, "`range` \\(=kl\\) is `max`, `mse` or `power`"),
        ({"scale": 0.0}, "a scale is a positive number"),
        ({"scale": [1.0, 2.0]}, "`2` scales or zero points for `1` channels"),
        ({"axis": 0, "scale": [1.0, 2.0]}, "`2` scales or zero points for `4` channels"),
        ({"signed": False}, "needs its `scale`"),
        ({"axis": 1, "pairs": True}, "`pairs` go with"),
        ({"steps": 3}, "cannot be made with"),
    ],
)
def test_specs_that_cannot_be_are_refused_with_the_site(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(EditError, match=f"^0: .*{message}"):
        perform(nn.Sequential(nn.Conv2d(3, 4, 3)), [Map("0", "weight", "affine", spec)])


def test_a_weight_that_is_not_finite_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    nn.init.constant_(model[0].weight, float("nan"))
    with pytest.raises(EditError, match="0: the weight holds NaN"):
        perform(model, [Map("0", "weight", "affine")])
