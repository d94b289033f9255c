"""Levels in a row and bounds between them: what powers of two, codebooks and stacked bases have in common."""

from __future__ import annotations

import torch
from torch import Tensor

from lilliput.core.maps import Codes
from lilliput.quant.straight import Coded


class Table(Coded):
    """Base of the quantizers that look a level up: the number of bounds at or below an element says which.

    Subclasses write `levels` and `bounds`. `stray` ones have levels that need not lie between their own bounds; there an
    element that is a level, bit for bit, stays what it is, so that quantizing again changes nothing.
    """

    stray = False

    def levels(self) -> Tensor:
        """What codes stand for, in order of their ranges."""
        raise NotImplementedError

    def bounds(self) -> Tensor:
        """Ascending; one fewer than levels. A bound belongs to the range above it."""
        raise NotImplementedError

    def seen(self, x: Tensor) -> Tensor:
        """What is compared with the bounds; x itself by default."""
        return x

    def side(self) -> dict[str, Tensor]:
        """What the levels are computed from."""
        return {}

    def encode(self, tensor: Tensor) -> Codes:
        x, levels = tensor.detach(), self.levels().detach()
        places = place(self.seen(x), self.bounds().detach())
        if self.stray:
            places = stay(x, levels, places)
        kind = torch.uint8 if len(levels) <= 256 else torch.int32
        return Codes(places.to(kind), 0, len(levels) - 1, self.side())

    def decode(self, codes: Codes) -> Tensor:
        return self.levels().detach()[codes.values.long()]


def place(x: Tensor, bounds: Tensor) -> Tensor:
    """How many bounds lie at or below each element."""
    if torch.compiler.is_exporting():  # an operation that every target has
        return (x.unsqueeze(-1) >= bounds).sum(-1)
    return torch.bucketize(x.contiguous(), bounds.contiguous(), right=True)


def stay(x: Tensor, levels: Tensor, places: Tensor) -> Tensor:
    """The places, but those of elements that are a level already point to that level."""
    ascending, order = levels.sort()
    found = torch.bucketize(x.contiguous(), ascending).clamp(max=len(levels) - 1)
    return torch.where(ascending[found] == x, order[found], places)


def mirrored(magnitudes: Tensor) -> Tensor:
    """−m_k … −m_1, 0, m_1 … m_k for ascending positive magnitudes."""
    return torch.cat([-magnitudes.flip(0), magnitudes.new_zeros(1), magnitudes])


def both(bounds: Tensor) -> Tensor:
    """The bounds of magnitudes on both sides: a magnitude at a bound belongs to the larger level on either."""
    below = torch.nextafter(-bounds.flip(0), bounds.new_full((), float("inf")))
    return torch.cat([below, bounds])
