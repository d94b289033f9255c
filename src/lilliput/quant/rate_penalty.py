"""Training that makes files small: a penalty on the bits that weights will take."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lilliput.config import config
from lilliput.core.callback import Active, Callback
from lilliput.errors import ConfigError


@config("quant.rate_penalty")
class RatePenalty(Callback):
    r"""Push weights to where an entropy coder needs few bits for them.

    adds λ·mean over all weights of log₂(1 + |w| / s_l), about what the code of a weight takes beyond the one for zero
    gradient λ·sign(w) / (ln 2·(s_l + |w|)·n), 0 at 0: small weights are pushed hardest, large ones hardly
    s_l = relative·√(mean w²) of the layer, a constant to the gradient, so that scaling a layer saves nothing

    strength  λ: the loss that a bit a weight is worth
    relative  the size of a step beside the layer's weights

    One pass over the weights of convolutions and linear layers a step. As logarithmic penalties of sparse coding do
    (Candès, Wakin and Boyd 2008, arXiv:0711.1612); rate in the loss after Oktay et al. 2020, arXiv:1906.06624.
    """

    strength: float = 0.01
    relative: float = 0.25

    def check(self) -> None:
        """Raise `ConfigError` for options that can never work."""
        if not 0 <= self.strength < float("inf") or not 0 < self.relative < float("inf"):
            raise ConfigError(f"`strength` (={self.strength}) is a number from 0 on, and `relative` (={self.relative}) above 0")

    def begin(self, model: nn.Module, steps: int, seed: int) -> Active:
        """The penalty in one training; raises `ConfigError` for a network without weights to code."""
        self.check()
        if not _weights(model):
            raise ConfigError("`quant.rate_penalty` is for weights, and this network has no convolution and no linear layer")
        return _Bits(model, self.strength, self.relative)


class _Bits(Active):
    def __init__(self, model: nn.Module, strength: float, relative: float) -> None:
        self.model, self.strength, self.relative = model, strength, relative

    def loss(self, x: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean bits, times λ."""
        weights = _weights(self.model)
        count = sum(w.numel() for w in weights)
        return self.strength / count * torch.stack([self._bits(w) for w in weights]).sum()

    def _bits(self, weight: Tensor) -> Tensor:
        step = self.relative * weight.detach().square().mean().sqrt().clamp(min=1e-12)
        return (weight.abs() / step).log1p().sum() / math.log(2)


def _weights(model: nn.Module) -> list[Tensor]:
    return [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
