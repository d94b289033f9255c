"""Shapes of convolutions for property tests: awkward sizes, every stride, padding, dilation and group."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import assume
from hypothesis import strategies as st

from lilliput import kernels
from lilliput.kernels.window import Window

AWKWARD = [1, 2, 3, 5, 8, 12, 16, 17, 33, 63, 64]


@dataclass(frozen=True)
class Shape:
    """A convolution and its input."""

    batch: int
    inputs: int
    outputs: int
    size: tuple[int, int]
    window: Window


def usable(family: str) -> list[str]:
    """The kernels of a family that this processor runs."""
    return [name for each, name, here in kernels.rows() if each == family and here]


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    """Small enough for the portable kernel."""

    def two(low: int, high: int) -> tuple[int, int]:
        return draw(st.integers(low, high)), draw(st.integers(low, high))

    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 5]))
    if draw(st.sampled_from([True, False, False, False])):  # pixel by pixel, where kernels may read the image as it is
        window, size = Window((1, 1), groups=groups), draw(st.sampled_from([(4, 4), (2, 8), (28, 28), (16, 32), (5, 7)]))
    else:
        window, size = Window(two(1, 5), two(1, 3), two(0, 3), two(1, 2), groups), two(1, 13)
    assume(
        all(
            n + 2 * p >= (k - 1) * d + 1
            for n, p, k, d in zip(size, window.padding, window.kernel, window.dilation, strict=True)
        )
    )
    inputs, outputs = draw(st.sampled_from(AWKWARD)), draw(st.sampled_from([1, 3, 8, 9, 17]))
    return Shape(draw(st.integers(1, 2)), inputs * groups, outputs * groups, size, window)
