"""The encoding that makes the smallest files: an adaptive range coder that learns from the numbers around each number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np

from lilliput import kernels
from lilliput.store.codec import Array, Codec, Piece, bounded, carried, codecs


@codecs.register("context")
@dataclass(frozen=True)
class Context(Codec):
    """Each number as yes-or-no questions, answered by adaptive binary range coding with contexts.

    Codes and masks: is it zero, of which sign, over 1, over 2, how long is the rest. How likely an answer is, is learnt
    from the magnitudes beside it, at the same place of the kernel and of the filter before, and of its input channel; the
    opinions are mixed by weights that learn too. Bit patterns go byte by byte, from the highest.
    costs no tables; at least 1 byte for 4,096 numbers. The arithmetic is whole-numbered (csrc/codec.cc, docs/format.md).
    Marpe et al. 2003 (CABAC); Wiedemann et al. 2020, arXiv:1907.11900; Mahoney 2005 (mixing).
    """

    name: ClassVar[str] = "context"

    def encode(self, arrays: Sequence[Array], pieces: Sequence[Piece]) -> bytes:
        """One stream for all tensors, so that later ones profit from what was learnt on earlier ones."""
        native = [np.ascontiguousarray(carried(a, p), f"=i{p.carrier.itemsize}") for a, p in zip(arrays, pieces, strict=True)]
        return kernels.encode([_layout(p) for p in pieces], native)

    def decode(self, data: bytes | memoryview, pieces: Sequence[Piece]) -> list[Array]:
        """The arrays. The number of elements is checked against the bytes before any are allocated."""
        arrays, _ = kernels.decode(bytes(data), [_layout(p) for p in pieces])
        return [bounded(a, p).astype(p.carrier, copy=False).reshape(p.shape) for a, p in zip(arrays, pieces, strict=True)]

    def shares(self, data: bytes | memoryview, pieces: Sequence[Piece]) -> list[int]:
        """What had been read after each tensor, less what had before it; the end of the stream goes to the last."""
        if not pieces:
            return []
        _, ends = kernels.decode(bytes(data), [_layout(p) for p in pieces])
        return [b - a for a, b in pairwise([0, *ends[:-1], len(data)])]


def _layout(piece: Piece) -> kernels.Layout:
    """A tensor as rows of kernels of taps: filters, input channels, places. One dimension is one row."""
    shape, width = piece.shape, piece.carrier.itemsize
    rows, kernels_, taps = (shape[0], shape[1], math.prod(shape[2:])) if len(shape) > 1 else (1, 1, math.prod(shape))
    patterns = width > 1 and (piece.low, piece.high) == (-(1 << 8 * width - 1), (1 << 8 * width - 1) - 1)
    return kernels.Layout(rows, kernels_, taps, piece.low, piece.high, width, int(patterns))
