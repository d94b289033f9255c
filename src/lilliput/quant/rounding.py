"""Which way to round weights: by what the layer's outputs lose, not by what the weights lose.

For outputs y = W·x the error of codes q is a quadratic form, so a layer's images are needed once, for their second moments:

    L(q) = tr( Ŵ·H·Ŵᵀ ) − 2·tr( Ŵ·Cᵀ ) + λ·‖Ŵ − W‖²,     Ŵ = s·q,   H = Cov(x̃),   C = Cov(y, x̃)

One function a rounding, from the form and the nearest codes to better codes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lilliput.registry import Registry


@dataclass(frozen=True)
class Quadratic:
    """The error of a layer. `h`: (g, in, in); `c`: (g, out, in); `weight`: (g, out, in); `damp`: λ as a share of tr(H)/in."""

    h: Tensor
    c: Tensor
    weight: Tensor
    damp: float

    def split(self, weight: Tensor) -> Tensor:
        """A weight by groups, (g, out, in)."""
        return weight.reshape(self.weight.shape)

    def damped(self) -> tuple[Tensor, Tensor]:
        """H + λ·1 and C + λ·W."""
        mean = self.h.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)[:, None] * self.damp  # (g, 1)
        return self.h + torch.diag_embed(mean.expand(-1, self.h.shape[1])), self.c + mean[:, :, None] * self.weight

    def loss(self, weight: Tensor) -> Tensor:
        """The error of each output up to a constant, (g, out)."""
        h, c = self.damped()
        return ((weight @ h - 2 * c) * weight).sum(2)


Rounding = Callable[[Quadratic, Tensor, Tensor, Tensor, tuple[int, int]], Tensor]
roundings: Registry[Rounding] = Registry("rounding")


@roundings.register("descent")
def descent(problem: Quadratic, weight: Tensor, codes: Tensor, scale: Tensor, span: tuple[int, int], sweeps: int = 8) -> Tensor:
    """Coordinate descent: each code in turn becomes the best integer while all others stay, until none changes.

    qⱼ ← clamp(round(qⱼ − ∂L/∂ŵⱼ / (2·s·Hⱼⱼ)));  the loss never rises. Costs O(in²·out) a sweep.
    Behdin et al. 2023, "QuantEase", arXiv:2309.01885.
    """
    h, c = problem.damped()
    codes = codes.clone()
    slope = (codes * scale) @ h - c  # half the gradient, (g, out, in)
    for _ in range(sweeps):
        changed = False
        for j in range(codes.shape[2]):
            step, curve = scale[:, :, j], h[:, j, j, None].clamp(min=1e-20)
            best = (codes[:, :, j] - slope[:, :, j] / (step * curve)).round_().clamp_(*span)
            move = (best - codes[:, :, j]) * step  # (g, out)
            if bool(move.any()):
                changed = True
                slope.baddbmm_(move[:, :, None], h[:, j, None, :])
                codes[:, :, j] = best
        if not changed:
            break
    return codes


@roundings.register("adaround")
def adaround(
    problem: Quadratic, weight: Tensor, codes: Tensor, scale: Tensor, span: tuple[int, int], steps: int = 400
) -> Tensor:
    """AdaRound: up or down by a gate h(V) in [0, 1] that is learned, and in the end pushed to 0 or 1.

    Ŵ = s·clamp(⌊W/s⌋ + h(V)),   h(V) = clamp(1.2·σ(V) − 0.1, 0, 1),   loss L + ν·Σ (1 − |2h − 1|^β),   β from 20 to 2
    Costs O(in²·out) a step. The loss is the paper's for a layer without its ReLU, in closed form over all sampled positions
    instead of batches.
    Nagel et al. 2020, arXiv:2004.10568.
    """
    h, c = problem.damped()
    floor = (weight / scale).floor()
    rest = (weight / scale - floor).clamp(0.01, 0.99)
    gate = (-(1.2 / (rest + 0.1) - 1).log()).requires_grad_()
    unit = problem.loss(codes * scale).sub(problem.loss(weight)).abs().mean().clamp(min=1e-20)
    optimizer = torch.optim.Adam([gate], lr=8 / steps)  # gates start within 3 of the middle
    with torch.enable_grad():
        for step in range(steps):
            soft = (1.2 * gate.sigmoid() - 0.1).clamp(0, 1)
            made = (floor + soft).clamp(*span) * scale
            loss = (((made @ h - 2 * c) * made).sum(2)).mean() / unit
            if step >= steps // 5:
                done = (step - steps // 5) / (steps - steps // 5)
                beta = 20 - 18 * done
                loss = loss + 0.01 * (1 - (2 * soft - 1).abs().clamp(min=1e-6).pow(beta)).mean() * soft.shape[2]
            (gate.grad,) = torch.autograd.grad(loss, [gate])
            optimizer.step()
    return (floor + (gate.detach() > 0).float()).clamp(*span)
