"""Laws of the grid: a quantizer whose steps are powers of √2."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lilliput.errors import EditError
from lilliput.quant.grid import HIGH, Grid


def grid(weight: torch.Tensor) -> Grid:
    made = Grid.like(weight)
    made.absorb(weight)
    return made


@settings(max_examples=30)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=4), st.floats(-20, 20), st.integers(0, 99))
def test_decoding_codes_is_forward_and_idempotent(shape: list[int], size: float, seed: int) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2.0**size
    made = grid(weight)
    codes = made.encode(weight)
    assert codes.low <= int(codes.values.min()) and int(codes.values.max()) <= codes.high
    assert torch.equal(made.decode(codes), made(weight))
    assert torch.equal(made(made(weight)), made(weight))


def test_the_largest_of_a_row_is_64_to_127_steps() -> None:
    weight = torch.randn(8, 3, 3, 3) * torch.logspace(-6, 6, 8).view(-1, 1, 1, 1)
    largest = grid(weight).encode(weight).values.flatten(1).abs().amax(1)
    assert ((64 <= largest) & (largest <= 127)).all()
    assert (
        (grid(weight)(weight) - weight).abs().flatten(1).amax(1).le(largest * 0 + weight.abs().flatten(1).amax(1) / 128).all()
    )


def test_exponents_of_rows_kernels_and_taps_add_up() -> None:
    made = Grid.like(torch.zeros(2, 3, 2, 2))
    made.set(torch.tensor([-8.0, -7.0]), torch.tensor([0.0, 1, 2]), torch.tensor([0.0, 0, 0, -2]))
    assert made.spread()[0, 0, 0] == 2.0**-4
    assert made.spread()[1, 1, 0] == 2.0**-3
    assert made.spread()[0, 2, 3] == 2.0**-4
    assert made.spread()[1, 0, 0] == torch.tensor(2**0.5).float() * 2.0**-4
    assert made.steps.tolist()[:3] == [-8, 0, 1]


def test_gradients_pass_except_beyond_the_last_level() -> None:
    made = Grid.like(torch.zeros(1, 2))
    made.set(torch.tensor([-2.0]), torch.zeros(2), torch.zeros(1))
    weight = torch.tensor([[0.3, HIGH * 1.0]], requires_grad=True)
    quantized = made(weight)
    assert torch.equal(quantized, made(weight.detach()))
    quantized.sum().backward()
    assert weight.grad is not None and weight.grad.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize(("dim", "shape"), [(0, (2, 3, 2, 2)), (1, (4, 2, 2, 2))])
def test_a_thinned_layer_keeps_the_steps_that_stay(dim: int, shape: tuple[int, ...]) -> None:
    weight = torch.randn(4, 3, 2, 2)
    made = grid(weight)
    made.set(torch.tensor([-3.0, -4, -5, -6]), torch.tensor([1.0, 2, 3]), torch.tensor([0.0, 1, 2, 3]))
    before = made.spread().view(4, 3, 2, 2)
    made.resize("out" if dim == 0 else "in", [0, 2], dim)
    assert torch.equal(made.spread().view(shape), before.index_select(dim, torch.tensor([0, 2])))


def test_what_is_no_weight_is_refused() -> None:
    with pytest.raises(EditError, match="two dimensions"):
        Grid.like(torch.zeros(3))
    with pytest.raises(EditError, match="NaN or infinity"):
        grid(torch.full((1, 1), torch.inf))
