"""Rounding of weights with the rate in mind (csrc/rate.h), by the native core alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lilliput.errors import WorkError

Matrix = NDArray[np.float64]


class Job(NamedTuple):
    """A weight of `shape` (rows, kernels, taps), each row maybe followed by a bias; the fields of `lilliput_rounding`.

    weights: (rows, kernels·taps + 0 or 1), changed in place. steps: (rows, kernels·taps). across, down: the upper factors of
    A⁻¹, as wide as a row of `weights`, and of G⁻¹, (rows, rows). price: the rise of the loss that a bit is worth.
    """

    shape: tuple[int, int, int]
    weights: Matrix
    steps: Matrix
    bias_step: float
    across: Matrix
    down: Matrix
    price: float
    most: int
    turns: bool = False


def round_weights(native: Any, job: Job) -> float:
    """The bits that the codes would take by themselves; `job.weights` become what they stand for."""
    if native is None:
        raise WorkError(
            "rounding with the rate in mind is done by the native core, and it was not built here (no C++ compiler at "
            "install). Install with one"
        )
    bits: float = native.round_weights(*job)
    return bits
