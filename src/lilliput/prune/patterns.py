"""Granularities: which weights go together. A pattern sees every weight as (blocks, rows, inputs, taps) and sums over some.

weight     single weights                                  nothing together
N:M        at most N of M consecutive input channels stay, at every kernel position and output channel
1xN        N consecutive output channels lose the same kernels
kernel     whole kernels: one input channel of one filter
position   one position of the kernels of one input channel, in all filters: a column of the matrix product
filter     whole filters, which stay in place as zeros (`prune.Channels` removes them)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lilliput.errors import ConfigError, UnknownName

_OVER = {"weight": (), "kernel": (3,), "position": (0, 1), "filter": (1, 2, 3)}
_RATIO, _BLOCK = re.compile(r"([1-9]\d{0,3}):([1-9]\d{0,3})\Z"), re.compile(r"1x([1-9]\d{0,3})\Z")


@dataclass(frozen=True)
class Pattern:
    """One granularity. Weights are seen as (out / rows, rows, in, taps); those along the dimensions `over` go together.

    In an N:M pattern `most` (N) of every `among` (M) consecutive input channels stay, and nothing goes together.
    Zhou et al. 2021, arXiv:2102.04010 (N:M); Lin et al. 2021, arXiv:2105.14713 (1xN); Wen et al. 2016, arXiv:1608.03665.
    """

    name: str
    over: tuple[int, ...] = ()
    rows: int = 1
    most: int = 0
    among: int = 1

    @property
    def rate(self) -> float | None:
        """The share of weights that an N:M pattern removes; None where the pattern leaves it open."""
        return 1 - self.most / self.among if self.most else None

    def check(self, shape: Sequence[int]) -> None:
        """Raise `ConfigError` where channels do not divide into blocks."""
        if shape[0] % self.rows:
            raise ConfigError(f"`pattern` (={self.name}) needs blocks of {self.rows} of {shape[0]} outputs; `skip` this layer")
        if shape[1] % self.among:
            raise ConfigError(f"`pattern` (={self.name}) needs runs of {self.among} of {shape[1]} inputs; `skip` this layer")

    def size(self, shape: Sequence[int]) -> int:
        """How many weights of a tensor of this shape go together."""
        view = self._view(torch.empty(tuple(shape), device="meta"))
        return torch.Size([view.shape[d] for d in self.over]).numel()

    def pool(self, scores: Tensor) -> Tensor:
        """The scores of groups, (groups,), from those of weights."""
        view = self._view(scores)
        return (view.sum(self.over) if self.over else view).flatten()

    def mask(self, scores: Tensor, zeros: int) -> Tensor:
        """Which weights stay, as booleans of the shape of `scores`: `zeros` of them go, those of the lowest scores.

        Equal scores go in the order in which they stand. An N:M pattern says itself how many go.
        """
        self.check(scores.shape)
        if self.most:
            return self._ratio(scores)
        pooled = self.pool(scores)
        kept = torch.ones_like(pooled, dtype=torch.bool)
        kept[torch.argsort(pooled, stable=True)[: zeros // self.size(scores.shape)]] = False
        return self.spread(kept, scores.shape)

    def spread(self, groups: Tensor, shape: Sequence[int]) -> Tensor:
        """Values of groups, (groups,), given to each of their weights."""
        view = self._view(torch.empty(tuple(shape), device="meta")).shape
        small = [1 if d in self.over else n for d, n in enumerate(view)]
        spread = groups.view(small).expand(view).reshape(tuple(shape))
        return spread.clone(memory_format=torch.contiguous_format)  # never a view of fewer numbers than it shows

    def _view(self, tensor: Tensor) -> Tensor:
        return tensor.reshape(tensor.shape[0] // self.rows, self.rows, tensor.shape[1], -1)

    def _ratio(self, scores: Tensor) -> Tensor:
        runs = scores.reshape(scores.shape[0], -1, self.among, scores[0, 0].numel())  # (out, runs, among, taps)
        best = torch.argsort(runs, dim=2, descending=True, stable=True)[:, :, : self.most]
        return torch.zeros_like(runs, dtype=torch.bool).scatter_(2, best, True).reshape(scores.shape)


def pattern(name: str) -> Pattern:
    """The pattern of a name: weight, kernel, position, filter, N:M such as `2:4`, or 1xN such as `1x4`.

    >>> pattern("2:4").rate
    0.5
    """
    if (ratio := _RATIO.match(name)) and int(ratio[1]) <= int(ratio[2]):
        return Pattern(name, most=int(ratio[1]), among=int(ratio[2]))
    if block := _BLOCK.match(name):
        return Pattern(name, (1, 3), rows=int(block[1]))
    if name not in _OVER:
        raise UnknownName("pattern", name, (*_OVER, "2:4", "1x4"))
    return Pattern(name, _OVER[name])
