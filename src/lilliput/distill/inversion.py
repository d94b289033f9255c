"""Images without data: what a teacher's batch norms remember of the images it was trained on."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lilliput.data.seeds import generator
from lilliput.errors import ConfigError


def synthesize(
    teacher: nn.Module,
    shape: tuple[int, int, int],
    *,
    images: int = 1024,
    steps: int = 500,
    batch_size: int = 128,
    lr: float = 0.1,
    statistics: float = 1.0,
    smoothness: float = 1e-3,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Images (n, channels, height, width), as the network reads them, and the class that each is to show, (n,).

    min over x of  H(t(x), y) + statistics · Σ over norms of (‖μ(x) - μ‖² + ‖σ²(x) - σ²‖²) / channels + smoothness · TV(x)
    from noise by Adam; μ(x), σ²(x): mean and variance of what the norm reads, over the batch; μ, σ²: its running ones;
    TV: the mean squared difference of neighbouring pixels. Classes take turns. Costs `steps` trainings' worth of forward
    and backward an image. Deterministic by seed; the teacher stays as it is. Raises `ConfigError` for a teacher
    without running statistics.
    Yin et al. 2019, "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion", arXiv:1912.08795.
    """
    if images < 2 or batch_size < 2 or steps < 1 or not lr > 0:
        raise ConfigError(f"`images` (={images}) and `batch_size` (={batch_size}) are from 2, `steps` (={steps}) from 1, "
                          f"`lr` (={lr}) above 0")  # fmt: skip
    teacher = copy.deepcopy(teacher).eval().requires_grad_(False)
    norms = [m for m in teacher.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        raise ConfigError("the teacher has no batch norm with running statistics, from which images could be made")
    draw = generator("synthesize", seed)
    device = next(teacher.parameters()).device
    found, labels = [], []
    for start in range(0, images, batch_size):
        count = max(2, min(batch_size, images - start))
        x = torch.randn(count, *shape, generator=draw).to(device).requires_grad_()
        with torch.no_grad():
            classes = teacher(x[:1]).shape[1]
        y = (start + torch.arange(count, device=device)) % classes
        found.append(_descend(teacher, norms, x, y, steps, lr, statistics, smoothness))
        labels.append(y)
    return torch.cat(found)[:images].cpu(), torch.cat(labels)[:images].cpu()


def _descend(
    teacher: nn.Module, norms: list[_BatchNorm], x: Tensor, y: Tensor, steps: int, lr: float, statistics: float, smooth: float
) -> Tensor:
    """One batch of images, from noise."""
    apart: list[Tensor] = []
    handles = [norm.register_forward_pre_hook(lambda norm, args: apart.append(strangeness(norm, args[0]))) for norm in norms]
    optimizer = torch.optim.Adam([x], lr=lr)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        apart.clear()
        loss = F.cross_entropy(teacher(x), y) + statistics * torch.stack(apart).sum() + smooth * roughness(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for handle in handles:
        handle.remove()
    return x.detach()


def strangeness(norm: _BatchNorm, x: Tensor) -> Tensor:
    """How far the mean and variance of what a batch norm reads are from those it remembers, a channel."""
    over = [d for d in range(x.dim()) if d != 1]
    mean, variance = x.mean(over), x.var(over, correction=0)
    return F.mse_loss(mean, norm.running_mean) + F.mse_loss(variance, norm.running_var)  # type: ignore[arg-type]


def roughness(x: Tensor) -> Tensor:
    """The mean squared difference of neighbouring pixels."""
    return x.diff(dim=2).square().mean() + x.diff(dim=3).square().mean()
