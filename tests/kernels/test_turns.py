"""Numbers of two quantizers that take turns come back, in fewer bytes than as any numbers, from the same bytes for ever."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lilliput import kernels
from lilliput.errors import FormatError
from lilliput.kernels import entropy
from lilliput.kernels.numbers import TURNS, Layout
from lilliput.kernels.ranges import Decoder
from lilliput.kernels.turns import STATES, Trellis

native = pytest.mark.skipif(kernels.backend() != "native", reason="only the native core writes")
GOLDEN = Path(__file__).parents[1] / "golden" / "turns.bin"
GOLDEN_SHAPE = (12, 7, 9)


def numbers(codes: np.ndarray) -> np.ndarray:
    """What a path through the trellis stands for."""
    trellis, found = Trellis(), []
    for k in codes.ravel().tolist():
        found.append(trellis.number(k))
        trellis.step(k)
    return np.array(found).reshape(codes.shape)


def layout(shape: tuple[int, int, int], width: int = 2) -> Layout:
    most = (1 << 8 * width - 1) - 1
    return Layout(*shape, -most, most, width, 0)


def kind(data: bytes) -> int:
    return Decoder(data).plain(3)


def codes_of_golden() -> np.ndarray:
    """Peaked numbers with a few large ones, by whole-number arithmetic alone."""
    seeds = (np.arange(np.prod(GOLDEN_SHAPE)) * 2654435761 + 12345) % (1 << 32) >> 12
    small = (seeds % 7) * (seeds // 7 % 5) // 4 - (seeds // 35 % 6)
    return np.where(seeds % 97 == 0, seeds % 5000, small).reshape(GOLDEN_SHAPE)


@native
@settings(max_examples=40)
@given(
    st.tuples(st.integers(1, 6), st.integers(1, 6), st.sampled_from([1, 2, 9, 25, 49])), st.sampled_from([1, 3, 400]),
    st.integers(0, 99), st.sampled_from([2, 4]),
)  # fmt: skip
def test_both_decoders_give_back_what_was_encoded(shape: tuple[int, int, int], scale: int, seed: int, width: int) -> None:
    codes = np.round(np.random.default_rng(seed).laplace(size=shape) * scale).astype(int)
    array = numbers(codes).astype(f"=i{width}").ravel()
    data = kernels.encode([layout(shape, width)], [array])
    found, ends = kernels.decode(data, [layout(shape, width)])
    slow, slow_ends = entropy.decode(None, data, [layout(shape, width)])
    assert (found[0] == array).all() and (slow[0] == array).all() and ends == slow_ends
    assert kind(data) == TURNS or np.count_nonzero(array) < 60


@native
def test_they_take_a_bit_less_than_numbers_of_which_all_are_possible() -> None:
    codes = np.round(np.random.default_rng(0).laplace(size=(64, 32, 9)) * 4).astype(int)
    turned = numbers(codes)
    size = len(kernels.encode([layout(codes.shape)], [turned.astype(np.int16).ravel()]))
    alone = len(kernels.encode([layout(codes.shape)], [codes.astype(np.int16).ravel()]))
    spoiled = turned.copy()
    spoiled[0, 0, 0] += 1
    whole = len(kernels.encode([layout(codes.shape)], [spoiled.astype(np.int16).ravel()]))
    assert size < 1.01 * alone
    assert 8 * (whole - size) / codes.size > 0.8


@native
def test_signs_that_resemble_their_neighbours_take_less() -> None:
    rng = np.random.default_rng(1)
    sizes = np.round(rng.exponential(size=(64, 32, 9)) * 3).astype(int)
    smooth, rough = rng.choice([-1, 1], size=(64, 32, 1)), rng.choice([-1, 1], size=sizes.shape)
    alike, random = (
        len(kernels.encode([layout(sizes.shape)], [numbers(sizes * s).astype(np.int16).ravel()])) for s in (smooth, rough)
    )
    assert alike < 0.85 * random


@native
def test_a_number_out_of_bounds_is_refused() -> None:
    array = numbers(np.full((8, 8, 9), 40)).astype(np.int16).ravel()
    data = kernels.encode([layout((8, 8, 9))], [array])
    for core in (kernels._native, None):
        with pytest.raises(FormatError, match="outside its bounds"):
            entropy.decode(core, data, [Layout(8, 8, 9, -70, 70, 2, 0)])


@native
def test_wide_numbers_and_such_without_zero_cannot_take_turns() -> None:
    data = kernels.encode([layout((8, 8, 9))], [numbers(np.ones((8, 8, 9), int)).astype(np.int16).ravel()])
    assert kind(data) == TURNS
    for wrong in (Layout(8, 8, 9, -100, 100, 8, 0), Layout(8, 8, 9, 1, 100, 2, 0)):
        for core in (kernels._native, None):
            with pytest.raises(FormatError, match="coded in a way there is not"):
                entropy.decode(core, data, [wrong])


@native
def test_every_truncation_is_refused() -> None:
    data = kernels.encode([layout(GOLDEN_SHAPE)], [numbers(codes_of_golden()).astype(np.int16).ravel()])
    for size in range(len(data)):
        with pytest.raises(FormatError):
            kernels.decode(data[:size], [layout(GOLDEN_SHAPE)])


def test_the_golden_bytes_are_read() -> None:
    found, _ = entropy.decode(None, GOLDEN.read_bytes(), [layout(GOLDEN_SHAPE)])
    assert (found[0].reshape(GOLDEN_SHAPE) == numbers(codes_of_golden())).all()


@native
def test_the_golden_bytes_are_written() -> None:
    assert kernels.encode([layout(GOLDEN_SHAPE)], [numbers(codes_of_golden()).astype(np.int16).ravel()]) == GOLDEN.read_bytes()


def test_every_state_is_reached_and_both_quantizers_are_used_alike() -> None:
    seen, used = {0}, []
    for _ in range(STATES):
        for state in list(seen):
            for k in (0, 1):
                trellis = Trellis()
                trellis.state = state
                trellis.step(k)
                seen.add(trellis.state)
    for state in seen:
        trellis = Trellis()
        trellis.state = state
        used.append(trellis.quantizer)
    assert len(seen) == STATES and sum(used) == STATES // 2
