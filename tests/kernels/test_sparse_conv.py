"""Sparse convolution: every kernel agrees with the dense one within the rounding of its sums."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from conv_shapes import Shape, shapes, usable
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lilliput import kernels
from lilliput.kernels import sparse

native = pytest.mark.skipif(kernels.backend() != "native", reason="the native core was not built")


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, shape: Shape) -> Tensor:
    w = shape.window
    return F.conv2d(x, weight, bias, w.stride, w.padding, w.dilation, w.groups)


def close(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, shape: Shape) -> bool:
    """|out − exact| ≤ (terms + 2) · 2⁻²⁴ · Σ|terms|: any order of the sum, rounded at every step."""
    exact = convolve(x.double(), weight.double(), None if bias is None else bias.double(), shape)
    size = convolve(x.double().abs(), weight.double().abs(), None if bias is None else bias.double().abs(), shape)
    terms = weight[0].numel() + 2
    return bool(((out - exact).abs() <= terms * 2.0**-24 * size + 1e-40).all())


@native
@settings(max_examples=60)
@given(shape=shapes(), seed=st.integers(0, 2**31), zeros=st.sampled_from([0.0, 0.7, 0.9, 0.99, 1.0]), biased=st.booleans())
def test_every_kernel_agrees_with_the_dense_convolution(shape: Shape, seed: int, zeros: float, biased: bool) -> None:
    torch.manual_seed(seed)
    w = shape.window
    x = torch.randn(shape.batch, shape.inputs, *shape.size)
    weight = torch.randn(shape.outputs, shape.inputs // w.groups, *w.kernel)
    weight[torch.rand_like(weight) < zeros] = 0
    bias = torch.randn(shape.outputs) if biased else None
    rows, columns, values = sparse.compress(weight)
    assert torch.equal(sparse.expand(rows, columns, values, tuple(weight.shape)), weight)
    for name in usable("sparse"):
        numbers = w.numbers(shape.inputs, shape.outputs, shape.size)
        made = kernels._native.Sparse(
            numbers, rows.numpy(), columns.numpy(), values.numpy(), None if bias is None else bias.numpy(), name
        )
        out = torch.full((shape.batch, shape.outputs, *w.output(shape.size)), float("nan"))
        made.floats(shape.batch, x.numpy(), out.numpy())
        assert made.kernel == name and close(out, x, weight, bias, shape), name


@settings(max_examples=30)
@given(
    batch=st.sampled_from([(), (1,), (3,), (2, 5), (0,), (1025,)]), inputs=st.integers(1, 70), outputs=st.integers(1, 40),
    seed=st.integers(0, 2**31),
)  # fmt: skip
def test_linear_layers_agree_with_the_dense_ones(batch: tuple[int, ...], inputs: int, outputs: int, seed: int) -> None:
    torch.manual_seed(seed)
    x, weight, bias = torch.randn(*batch, inputs), torch.randn(outputs, inputs), torch.randn(outputs)
    weight[torch.rand_like(weight) < 0.8] = 0
    out = torch.ops.lilliput.sparse_linear(x, *sparse.compress(weight), bias)
    torch.testing.assert_close(out, F.linear(x, weight, bias), rtol=1e-5, atol=1e-5)


@native
@pytest.mark.parametrize(("rows", "columns"), [
    ([0, 2, 1], [0, 1]), ([1, 1, 2], [0, 1]), ([0, 1, 2], [0, 18]), ([0, 1, 2], [0, -1]), ([0, 1, 3], [0, 1]), ([0, 1], [0, 1]),
])  # fmt: skip
def test_indices_that_no_weight_has_are_refused(rows: list[int], columns: list[int]) -> None:
    numbers = [2, 2, 1, 5, 5, 3, 3, 1, 1, 0, 0, 1, 1]
    arrays = [torch.tensor(each, dtype=torch.int32).numpy() for each in (rows, columns)]
    with pytest.raises(ValueError):
        kernels._native.Sparse(numbers, *arrays, torch.ones(len(columns)).numpy(), None, None)
