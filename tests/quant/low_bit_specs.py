"""Every quantizer of the low-bit literature with options that its tests take, and weights to try it on."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from lilliput.core.maps import Quantizer, maps

SPECS: list[tuple[str, dict[str, Any]]] = [
    ("binaryconnect", {}),
    ("bwn", {}),
    ("bwn", {"axis": None}),
    ("birealnet", {}),
    ("irnet", {}),
    ("twn", {}),
    ("twn", {"axis": 0}),
    ("ttq", {}),
    ("ttq", {"threshold": 0.3}),
    ("inq", {"bits": 5}),
    ("inq", {"bits": 2}),
    ("lognet", {"bits": 3}),
    ("lognet", {"bits": 5, "base": 1.414}),
    ("apot", {"bits": 2}),
    ("apot", {"bits": 3, "normalize": False}),
    ("apot", {"bits": 4}),
    ("apot", {"bits": 5}),
    ("apot", {"bits": 7, "normalize": False}),
    ("abcnet", {"bits": 1}),
    ("abcnet", {"bits": 3}),
    ("abcnet", {"bits": 5}),
    ("kmeans", {"bits": 1}),
    ("kmeans", {"bits": 3, "start": "density"}),
    ("kmeans", {"bits": 2, "start": "random", "seed": 3, "groups": 2}),
    ("kmeans", {"bits": 3, "zero": True}),
    ("pq", {"centroids": 4}),
    ("pq", {"size": 3, "centroids": 8}),
]
KERNELS: list[tuple[str, dict[str, Any]]] = [("cnnpack", {"centers": 4}), ("cnnpack", {"bits": 8, "centers": 1, "dead": 2})]


@st.composite
def weights(draw: Any, kernels: bool = False) -> Tensor:
    """Weights of several shapes, scales and shifts; some with a filter of zeros, some with few distinct values."""
    shape = draw(
        st.sampled_from([(6, 3, 3, 3), (5, 4, 3, 3)] if kernels else [(6, 3, 3, 3), (5, 12), (8, 3, 1, 1), (6, 1, 3, 3)])
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    w = torch.randn(shape, generator=generator)
    if draw(st.booleans()):
        w = w**3  # heavy tails
    w = w * draw(st.sampled_from([1e-4, 0.05, 1.0, 30.0])) + draw(st.sampled_from([0.0, 0.02]))
    if draw(st.booleans()):
        w[0] = 0
    return w


def fitted(name: str, w: Tensor, **spec: Any) -> Quantizer:
    """The quantizer for a weight, in eval mode."""
    made: Any = maps[name].like(w, **spec)
    made.absorb(w)
    return made.eval()  # type: ignore[no-any-return]
