"""Binary and ternary convolution: every kernel says bit for bit what the definition says, in every shape."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conv_shapes import Shape, shapes, usable
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lilliput import kernels
from lilliput.errors import ModelError
from lilliput.kernels import binary
from lilliput.kernels.signs import pack, unpack
from lilliput.kernels.window import Window

native = pytest.mark.skipif(kernels.backend() != "native", reason="the native core was not built")
SEEDS = st.integers(0, 2**31)


def bytes_like(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def layer(shape: Shape, pad: int, name: str, weight: Tensor, mask: Tensor | None = None, **sides: Tensor | None) -> Any:
    numbers = shape.window.numbers(shape.inputs, shape.outputs, shape.size)
    four = [None if sides.get(each) is None else sides[each].numpy() for each in ("scale", "bias", "least", "flip")]
    return kernels._native.Binary(numbers, pad, weight.numpy(), *four, name, None if mask is None else mask.numpy())


def drawn(shape: Shape, seed: int, ternary: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
    torch.manual_seed(seed)
    inputs = shape.inputs // shape.window.groups
    x = bytes_like(shape.batch, -(-shape.inputs // 8), *shape.size)
    weight = bytes_like(shape.outputs, -(-inputs // 8), *shape.window.kernel)
    return x, weight, torch.randint_like(weight, 256) if ternary else None


def plain(
    x: Tensor, weight: Tensor, mask: Tensor | None, first: Tensor, second: Tensor | None, shape: Shape, pad: int
) -> Tensor:
    """The definition, by the operation that takes these tensors."""
    bits = first.dtype == torch.int32
    conv = next(each for each in binary.CONVS if each.masked == (mask is not None) and each.bits == bits)
    return conv.plain(x, weight, *([] if mask is None else [mask]), first, second, *numbers_of(shape, pad))


def numbers_of(shape: Shape, pad: int) -> tuple[Any, ...]:
    w = shape.window
    return shape.inputs, w.kernel, w.stride, w.padding, w.dilation, w.groups, pad


@native
@settings(max_examples=60)
@given(shape=shapes(), pad=st.sampled_from([-1, 0, 1]), seed=SEEDS, biased=st.booleans(), ternary=st.booleans())
def test_floats_are_those_of_the_definition(shape: Shape, pad: int, seed: int, biased: bool, ternary: bool) -> None:
    x, weight, mask = drawn(shape, seed, ternary)
    scale, bias = torch.randn(shape.outputs), torch.randn(shape.outputs) if biased else None
    expected = plain(x, weight, mask, scale, bias, shape, pad)
    for name in usable("ternary" if ternary else "binary"):
        out = torch.full_like(expected, float("nan"))
        layer(shape, pad, name, weight, mask, scale=scale, bias=bias).floats(shape.batch, x.numpy(), out.numpy())
        assert torch.equal(out, expected), name


@native
@settings(max_examples=60)
@given(shape=shapes(), pad=st.sampled_from([-1, 0, 1]), seed=SEEDS, ternary=st.booleans())
def test_bits_are_those_of_the_definition(shape: Shape, pad: int, seed: int, ternary: bool) -> None:
    x, weight, mask = drawn(shape, seed, ternary)
    products = shape.inputs // shape.window.groups * shape.window.kernel[0] * shape.window.kernel[1]
    least = torch.randint(-products - 2, products + 3, (shape.outputs,), dtype=torch.int32) // torch.randint(1, 6, (1,)).int()
    flip = torch.randint(0, 2, (shape.outputs,), dtype=torch.uint8)
    expected = plain(x, weight, mask, least, flip, shape, pad)
    for name in usable("ternary" if ternary else "binary"):
        out = torch.full_like(expected, 0xAA)
        layer(shape, pad, name, weight, mask, least=least, flip=flip).bits(shape.batch, x.numpy(), out.numpy())
        assert torch.equal(out, expected), name


@native
@pytest.mark.parametrize("least", [-(2**31), 2**31 - 1])
@pytest.mark.parametrize("name", usable("binary"))
def test_thresholds_beyond_every_dot_product_are_constants(least: int, name: str) -> None:
    shape = Shape(1, 9, 8, (4, 4), Window((3, 3), padding=(1, 1)))
    x, weight, _ = drawn(shape, 0)
    out = bytes_like(1, 1, 4, 4)
    layer(shape, 0, name, weight, least=torch.full((8,), least, dtype=torch.int32)).bits(1, x.numpy(), out.numpy())
    assert out.unique().tolist() == [255 if least < 0 else 0]


@native
@pytest.mark.parametrize("shape", [
    Shape(1, 40, 5, (12, 12), Window((9, 9), padding=(8, 8))),  # 289 ways of hanging over the edge
    Shape(1, 3650, 3, (3, 3), Window((3, 3))),  # 32,850 products
])  # fmt: skip
@pytest.mark.parametrize("name", usable("binary"))
def test_what_a_vector_kernel_does_not_cover_the_portable_one_computes(shape: Shape, name: str) -> None:
    x, weight, _ = drawn(shape, 1)
    made = layer(shape, 0, name, weight, scale=torch.ones(shape.outputs))
    expected = plain(x, weight, None, torch.ones(shape.outputs), None, shape, 0)
    out = torch.empty_like(expected)
    made.floats(1, x.numpy(), out.numpy())
    assert made.kernel == "portable" and torch.equal(out, expected)


@native
@settings(max_examples=40)
@given(n=st.integers(0, 3), c=st.sampled_from([1, 3, 8, 33, 63]), pixels=st.integers(1, 200), seed=SEEDS, bounded=st.booleans())
def test_signs_of_floats_are_those_of_the_definition(n: int, c: int, pixels: int, seed: int, bounded: bool) -> None:
    torch.manual_seed(seed)
    special = torch.tensor([0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e-45, -1e-45, 1.0])
    x = special[torch.randint(0, len(special), (n, c, pixels))]
    least = special[torch.randint(0, len(special), (c,))] if bounded else None
    expected = binary.binarize_plain(x, least)
    for name in usable("binary"):
        out = torch.full_like(expected, 0xAA)
        kernels._native.binarize(n, c, pixels, x.numpy(), None if least is None else least.numpy(), out.numpy(), name)
        assert torch.equal(out, expected), name


@given(c=st.integers(1, 40), seed=SEEDS)
def test_bits_come_back_as_they_went_in(c: int, seed: int) -> None:
    torch.manual_seed(seed)
    positive = torch.rand(2, c, 3) > 0.5
    assert torch.equal(unpack(pack(positive), c) > 0, positive)
    assert pack(positive).shape == (2, -(-c // 8), 3)


@native
def test_arrays_of_another_size_are_refused() -> None:
    shape = Shape(1, 9, 8, (4, 4), Window((3, 3)))
    x, weight, _ = drawn(shape, 0)
    with pytest.raises(ValueError, match="another size"):
        layer(shape, 0, "portable", weight[:-1], scale=torch.ones(8))
    made = layer(shape, 0, "portable", weight, scale=torch.ones(8))
    with pytest.raises(ValueError, match="another size"):
        made.floats(2, x.numpy(), torch.empty(2, 8, 2, 2).numpy())
    with pytest.raises(ValueError, match="floats"):
        made.bits(1, x.numpy(), torch.empty(1, 1, 2, 2, dtype=torch.uint8).numpy())
    with pytest.raises(ValueError, match="no convolution"):
        kernels._native.Binary(
            [9, 8, 2, 4, 4, 3, 3, 1, 1, 0, 0, 1, 1], 0, weight.numpy(), torch.ones(8).numpy(), None, None, None, None
        )


def test_signs_that_are_not_packed_are_refused() -> None:
    with pytest.raises(ModelError, match="packed in bytes"):
        torch.ops.lilliput.binary_conv2d(
            torch.ones(1, 2, 5, 5), bytes_like(4, 2, 3, 3), torch.ones(4), None, 16, (3, 3), (1, 1), (0, 0), (1, 1), 1, 0
        )


@pytest.mark.parametrize(("channels", "groups", "pad"), [(17, 1, 0), (16, 3, 0), (16, 1, 2)])
def test_numbers_that_do_not_go_together_are_refused(channels: int, groups: int, pad: int) -> None:
    x, weight = bytes_like(1, 2, 5, 5), bytes_like(4, 2, 3, 3)
    with pytest.raises(ModelError, match="go together"):
        torch.ops.lilliput.binary_conv2d(x, weight, torch.ones(4), None, channels, (3, 3), (1, 1), (0, 0), (1, 1), groups, pad)
