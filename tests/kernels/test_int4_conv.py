"""Bytes by weights of four bits: every kernel says bit for bit what the definition says, in every shape."""

from __future__ import annotations

import pytest
import torch
from conv_shapes import Shape, shapes, usable
from hypothesis import given, settings
from hypothesis import strategies as st

from lilliput import kernels
from lilliput.errors import ModelError
from lilliput.kernels import int4

native = pytest.mark.skipif(kernels.backend() != "native", reason="the native core was not built")


@native
@settings(max_examples=60)
@given(
    shape=shapes(), seed=st.integers(0, 2**31), zero=st.integers(0, 255), biased=st.booleans(),
    extreme=st.sampled_from([None, 0x88, 0x77, 0x11]),
)  # fmt: skip
def test_every_kernel_says_what_the_definition_says(
    shape: Shape, seed: int, zero: int, biased: bool, extreme: int | None
) -> None:
    torch.manual_seed(seed)
    w = shape.window
    x = torch.randint(0, 256, (shape.batch, shape.inputs, *shape.size), dtype=torch.uint8)
    weight = torch.randint(0, 256, (shape.outputs, -(-shape.inputs // w.groups // 2), *w.kernel), dtype=torch.uint8)
    if extreme is not None:  # what 16 bits hold for the fewest steps: the largest weights by the largest activations
        weight.fill_(extreme)
        x.fill_(255)
    scale, bias = torch.randn(shape.outputs), torch.randn(shape.outputs) if biased else None
    told = (shape.inputs, w.kernel, w.stride, w.padding, w.dilation, w.groups, zero)
    expected = int4.conv_plain(x, weight, scale, bias, *told)
    numbers = w.numbers(shape.inputs, shape.outputs, shape.size)
    for name in usable("int4"):
        sides = scale.numpy(), None if bias is None else bias.numpy()
        made = kernels._native.Int4(numbers, zero, weight.numpy(), *sides, name)
        out = torch.full_like(expected, float("nan"))
        made.floats(shape.batch, x.numpy(), out.numpy())
        assert made.kernel == name and torch.equal(out, expected), name
    assert torch.equal(torch.ops.lilliput.int4_conv2d(x, weight, scale, bias, *told), expected)


@given(c=st.integers(1, 20), seed=st.integers(0, 2**31))
def test_levels_come_back_as_they_went_in(c: int, seed: int) -> None:
    torch.manual_seed(seed)
    levels = torch.randint(-8, 8, (3, c, 2))
    assert torch.equal(int4.unpack(int4.pack(levels), c).long(), levels)


@pytest.mark.parametrize(
    ("x", "weight", "told", "says"),
    [
        (torch.zeros(1, 4, 5, 5), (6, 2, 3, 3), (4, 1, 0), "are bytes"),
        (torch.zeros(1, 5, 5, 5, dtype=torch.uint8), (6, 2, 3, 3), (4, 1, 0), "go together"),
        (torch.zeros(1, 4, 5, 5, dtype=torch.uint8), (6, 2, 3, 3), (4, 3, 0), "go together"),
        (torch.zeros(1, 4, 5, 5, dtype=torch.uint8), (6, 2, 3, 3), (4, 1, 256), "go together"),
        (torch.zeros(1, 4, 5, 5, dtype=torch.uint8), (6, 3, 3, 3), (4, 1, 0), "belong"),
    ],
)
def test_what_does_not_fit_is_refused(x: torch.Tensor, weight: tuple[int, ...], told: tuple[int, int, int], says: str) -> None:
    packed, (channels, groups, zero) = torch.zeros(weight, dtype=torch.uint8), told
    with pytest.raises(ModelError, match=says):
        torch.ops.lilliput.int4_conv2d(x, packed, torch.ones(6), None, channels, (3, 3), (1, 1), (0, 0), (1, 1), groups, zero)
