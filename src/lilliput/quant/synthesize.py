"""Images without data: noise, shaped until the batch norms of a network see the statistics they remember.

    min over x of  Σ_norms  mean_c( (μ_c(x) − μ̂_c)² / v̂_c + (log σ_c²(x) − log v̂_c)² ),   by Adam

with μ(x), σ²(x) the mean and variance of what reaches a norm, and μ̂, v̂ its running statistics. Such images calibrate ranges,
correct biases and decide roundings where no image may leave the house that trained the network.
Cai et al. 2020, "ZeroQ", arXiv:2001.00281; Yin et al. 2020, "DeepInversion", arXiv:1912.08795.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lilliput.errors import ModelError

STEPS = 60
BATCH = 32


def synthesize(model: nn.Module, example: Tensor, images: int, seed: int = 0) -> list[Tensor]:
    """Batches of so many images of the example's shape.

    Costs `STEPS` forwards and backwards an image. Raises `ModelError` where no norm remembers statistics.
    """
    runner = copy.deepcopy(model).eval().requires_grad_(False)
    norms = [m for m in runner.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms:
        raise ModelError("no batch norm remembers what its input was like, so images cannot be made; calibrate on data")
    draw = torch.Generator().manual_seed(seed)
    sizes = [min(BATCH, images - start) for start in range(0, images, BATCH)]
    return [_shape(runner, norms, torch.randn(n, *example.shape[1:], generator=draw)) for n in sizes]


def _shape(runner: nn.Module, norms: list[Any], noise: Tensor) -> Tensor:
    """One batch."""
    x = noise.to(norms[0].running_mean).requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.1)
    apart: list[Tensor] = []
    hooks = [n.register_forward_pre_hook(lambda norm, args: apart.append(_apart(norm, args[0]))) for n in norms]
    with torch.enable_grad():
        for step in range(STEPS):
            apart.clear()
            optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / STEPS)
            runner(x)
            (x.grad,) = torch.autograd.grad(torch.stack(apart).sum(), [x])
            optimizer.step()
    for hook in hooks:
        hook.remove()
    return x.detach()


def _apart(norm: Any, x: Tensor) -> Tensor:
    """How far the statistics of a batch are from those a norm remembers."""
    dims = [d for d in range(x.dim()) if d != 1]
    mean, variance = x.mean(dims), x.var(dims, correction=0)
    kept = norm.running_var + norm.eps
    return ((mean - norm.running_mean).square() / kept + ((variance + norm.eps) / kept).log().square()).mean()  # type: ignore[no-any-return]
