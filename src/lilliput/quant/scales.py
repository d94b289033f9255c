"""Scales of weights: the step between levels, chosen from the weight itself, one for each output channel or one for all.

Also the condition under which integer kernels built on `vpmaddubsw` (x86 without VNNI) are exact. That instruction adds two
products of a uint8 activation and an int8 weight in 16 bits, with saturation. ONNX Runtime lays a filter out by kernel
position, then input channel, and multiplies neighbours 2i and 2i+1 of that order together (QLinearConv, QGemm; depthwise
convolutions have a kernel of their own that cannot saturate). A pair (a, b) is exact for every activation iff its positive
parts add up to at most 128 and its negative parts to at least −128, for 255·128 = 32,640 < 2¹⁵ but 255·129 is not.
"""

from __future__ import annotations

import torch
from torch import Tensor

PAIR_LIMIT = 128
_TINY = 1e-30
_CHUNK = 2**18  # weights at a time, which stay in the cache


def fit(weight: Tensor, axis: int | None, levels: tuple[int, int], how: str, pairs: bool) -> Tensor:
    """The scale of a symmetric quantizer: (channels,) for an axis, () without.

    how: "max" puts the largest magnitude on the last level; "mse" takes the step with the least squared error among many,
    first coarsely, then around the best; "power" takes the least power of two that holds the largest magnitude, which a file
    stores in a few bits. With `pairs` only steps at which no pair can saturate count; at twice the largest magnitude none
    can, so there is always one. A channel of zeros gets the scale 1.
    """
    pairs = pairs and 2 * levels[1] > PAIR_LIMIT
    whole = weight.detach().float()
    order = paired(whole) if pairs else whole
    rows = order.reshape(1, -1, order.shape[-1]) if axis is None else order.movedim(axis, 0).flatten(1)
    rows = rows.reshape(len(rows), -1, 2 if pairs else 1)  # (channels, pairs, 2) or (channels, weights, 1)
    share = max(1, _CHUNK // max(rows[0].numel(), 1))
    scale = torch.cat([_best(part, levels, how, pairs) for part in rows.split(share)])
    return scale if axis is not None else scale.reshape(())


def paired(weight: Tensor) -> Tensor:
    """A weight as the pairs an integer kernel adds up: (out, in, ...) to (out, pairs, 2), with a zero where one is missing."""
    flat = weight.detach().movedim(1, -1).flatten(1) if weight.dim() > 1 else weight.detach()[:, None]
    if flat.shape[1] % 2:
        flat = torch.nn.functional.pad(flat, (0, 1))
    return flat.unflatten(1, (-1, 2))


def saturating(codes: Tensor) -> Tensor:
    """Which filters of an int8 weight (out, in, ...) hold a pair that can saturate, (out,)."""
    return _worst(paired(codes.float())) > PAIR_LIMIT


def _best(rows: Tensor, levels: tuple[int, int], how: str, pairs: bool) -> Tensor:
    """The best step of each row of (rows, ..., 2 or 1)."""
    largest = rows.abs().amax((1, 2))
    unit = largest.clamp(min=_TINY) / levels[1]
    if how == "power":
        return torch.where(largest > 0, _power(rows, unit, levels, pairs), 1.0)
    least, factor = torch.full_like(unit, torch.inf), torch.full_like(unit, 2.0)
    first, last = (0.4 if how == "mse" else 1.0), (2.0 if pairs else 1.0)
    rounds = [torch.arange(first, last + 0.01, 0.1), torch.arange(-0.08, 0.09, 0.02)]
    for number, steps in enumerate(rounds if first < last else rounds[:1]):
        start = factor if number else torch.zeros_like(factor)
        for step in steps:
            tried = (start + step).clamp(first, last)
            scale = (unit * tried)[:, None, None]
            codes = (rows / scale).round_().clamp_(*levels)
            bad = _worst(codes) > PAIR_LIMIT if pairs else torch.zeros_like(unit, dtype=torch.bool)
            error = codes.mul_(scale).sub_(rows).square_().sum((1, 2)).masked_fill_(bad, torch.inf)
            better = error < least
            least, factor = torch.where(better, error, least), torch.where(better, tried, factor)
    return torch.where(largest > 0, unit * factor, 1.0)


def _power(rows: Tensor, unit: Tensor, levels: tuple[int, int], pairs: bool) -> Tensor:
    """The least power of two from each unit on, or the next if a pair saturates there."""
    scale = torch.ldexp(torch.ones_like(unit), torch.frexp(unit).exponent)  # above the unit, by a factor of 2 at most
    scale = torch.where(scale / 2 >= unit, scale / 2, scale)  # a unit that is a power of two already
    codes = (rows / scale[:, None, None]).round_().clamp_(*levels)
    return torch.where(_worst(codes) > PAIR_LIMIT, 2 * scale, scale) if pairs else scale


def _worst(pairs: Tensor) -> Tensor:
    """The largest sum of a pair in each row, over inputs in units of 255. Opposite signs never add up to more than either."""
    return pairs.sum(-1).abs().amax(1)
