"""Distillation of relations: distances, angles and correlations among the images of a batch.

Nothing here compares one feature with another, so student and teacher may have any number of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lilliput.config import config
from lilliput.distill.contract import Feature, check_weights
from lilliput.distill.feature import unit
from lilliput.distill.taps import Taps
from lilliput.errors import ConfigError


@config("distill.rkd_distance")
class Distance(Feature):
    """Distances among the images of a batch are the teacher's, up to a scale.

    L = Σ over taps of mean over pairs i ≠ j of huber(d(s_i, s_j) / mean d(s) - d(t_i, t_j) / mean d(t))
    huber(e) = e²/2 where |e| < 1, else |e| - 1/2; means over the pairs with d > 0; any shapes; without unit.
    Equal features give 0. Costs n² distances. Park, Kim, Lu, Cho 2019, "Relational Knowledge Distillation", arXiv:1904.05068.
    """

    taps: Taps = ()
    weight: float = 25.0
    hard: float = 1.0

    default: ClassVar[str] = "embedding"

    def __call__(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """The term of one batch."""
        total = student[0].new_zeros(())
        for ours, theirs in zip(student, teacher, strict=True):
            total = total + F.smooth_l1_loss(distances(ours), distances(theirs))
        return total


def distances(x: Tensor) -> Tensor:
    """Euclidean distances of all pairs i ≠ j of a batch, over their mean; (n·(n - 1),)."""
    flat = x.flatten(1)
    squares = flat.square().sum(1)
    product = flat @ flat.T
    others = ~torch.eye(len(flat), dtype=torch.bool, device=x.device)
    squared = (squares[:, None] + squares[None] - 2 * product)[others]
    apart = squared > 1e-12  # the root of nothing has no gradient
    found = torch.where(apart, squared.clamp(min=1e-12).sqrt(), 0)
    return found / (found.sum() / apart.sum().clamp(min=1)).clamp(min=1e-12)


@config("distill.rkd_angle")
class Angle(Feature):
    """Angles of all triples of images of a batch are the teacher's.

    L = Σ over taps of mean over i, j, k of huber(cos_s(i, j, k) - cos_t(i, j, k))
    cos(i, j, k) = e_ji · e_jk, e_ji the unit vector from x_j to x_i (0 where both are one point); any shapes; without unit.
    Equal features give 0. Costs n³ products. Park, Kim, Lu, Cho 2019, "Relational Knowledge Distillation", arXiv:1904.05068.
    """

    taps: Taps = ()
    weight: float = 50.0
    hard: float = 1.0

    default: ClassVar[str] = "embedding"

    def __call__(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """The term of one batch."""
        total = student[0].new_zeros(())
        for ours, theirs in zip(student, teacher, strict=True):
            total = total + F.smooth_l1_loss(angles(ours), angles(theirs))
        return total


def angles(x: Tensor) -> Tensor:
    """Cosines of the angles at x_j between x_i and x_k, (n, n, n) in the order j, i, k."""
    flat = x.flatten(1)
    units = unit(flat[None] - flat[:, None])  # (j, i, features)
    return units @ units.mT


@config("distill.cc")
class Correlation(Feature):
    """The correlations among the images of a batch are the teacher's, by a Gaussian kernel.

    L = Σ over taps of mean over pairs of (k(s_i, s_j) - k(t_i, t_j))²
    k(x, y) = Σ over p from 0 to `order` of exp(-2g)·(2g)^p / p!·(x·y)^p: exp(-g·‖x - y‖²) of unit vectors, by its Taylor series
    Any shapes; without unit. Equal features give 0. Costs n² products.
    Peng, Jin, Liu, Zhou, Wu, Liu, Li, Zhang 2019, "Correlation Congruence for Knowledge Distillation", arXiv:1904.01802.
    """

    taps: Taps = ()
    gamma: float = 0.4
    order: int = 2
    weight: float = 100.0
    hard: float = 1.0

    default: ClassVar[str] = "embedding"

    def check(self) -> None:
        """Raise `ConfigError` for options that can never work."""
        check_weights(self)
        if not (self.gamma > 0 and self.order >= 1):
            raise ConfigError(f"`gamma` (={self.gamma}) is above 0, `order` (={self.order}) from 1")

    def __call__(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """The term of one batch."""
        total = student[0].new_zeros(())
        for ours, theirs in zip(student, teacher, strict=True):
            total = total + F.mse_loss(self.kernel(ours), self.kernel(theirs))
        return total

    def kernel(self, x: Tensor) -> Tensor:
        """The kernel of all pairs, (n, n)."""
        rows = unit(x.flatten(1))
        product, twice = rows @ rows.T, 2 * self.gamma
        found = torch.zeros_like(product)
        for p in range(self.order + 1):
            found = found + math.exp(-twice) * twice**p / math.factorial(p) * product**p
        return found
