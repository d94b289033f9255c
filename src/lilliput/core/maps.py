"""Maps: small modules that stand between a tensor and the layer that uses it. All variety of compression lives in them.

A map sees a weight (or an activation) and returns another tensor of the same shape: a mask zeroes, a quantizer rounds, a
sign keeps one bit. `MappedConv2d` and `MappedLinear` (core/layers) apply them in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lilliput.registry import Registry

WEIGHT_AXIS = {"out": 0, "in": 1}


class Mapping(nn.Module):
    """Base of every map.

    Structure and numbers. `like(tensor, **spec)` builds the map for a tensor of that shape, on its device (which may be
    "meta"): buffers and parameters have their final shapes, and numbers given in the spec their final values.
    `absorb(tensor)` then sets whatever is computed from the tensor itself.
    Replay. What the two calls do is a function of `tensor` and `spec` alone, so that replaying an edit gives equal maps.
    """

    name: ClassVar[str]

    @classmethod
    def like(cls, tensor: Tensor, **spec: Any) -> Mapping:
        """The map for a tensor of this shape. A spec key that the constructor lacks is an error."""
        raise NotImplementedError

    def absorb(self, tensor: Tensor) -> None:
        """Compute from the tensor what the spec left open; nothing by default."""

    def resize(self, axis: str, keep: Sequence[int], dim: int) -> None:
        """Follow the host: its `axis` ("in" or "out") keeps these channels, which is dimension `dim` of the tensor."""


class Quantizer(Mapping):
    """A map onto few values. `decode(encode(w)) == forward(w)` bit for bit; storage, profile and export read only these.

    `for_files`: its codes make a file small and no runtime computes with them, so a quantizer of a runtime may follow it.
    """

    bits: float
    for_files = False

    def encode(self, tensor: Tensor) -> Codes:
        """The integer codes and their side information."""
        raise NotImplementedError

    def decode(self, codes: Codes) -> Tensor:
        """The tensor these codes stand for."""
        raise NotImplementedError


@dataclass(frozen=True)
class Codes:
    """What a quantizer stores: integers of the tensor's shape in [`low`, `high`], and named side tensors (scales, codebook)."""

    values: Tensor
    low: int
    high: int
    side: dict[str, Tensor] = field(default_factory=dict)


maps: Registry[type[Mapping]] = Registry("map")


def take(tensor: Tensor, dim: int, keep: Sequence[int]) -> Tensor:
    """The slices `keep` of a tensor, detached and contiguous; works on the meta device."""
    index = torch.tensor(keep, dtype=torch.long, device=tensor.device)
    return tensor.detach().index_select(dim, index).contiguous()
