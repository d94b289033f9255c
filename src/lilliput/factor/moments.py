"""What layers see on data: second moments of their inputs, by which errors of weights become errors of activations.

E‖(W − Ŵ)x‖² = ‖(W − Ŵ)·L‖² with E[x·xᵀ] = L·Lᵀ, so the decomposition of W·L is the best for the data, and L⁻¹ goes into the
first link. Neighbouring positions are taken as alike: L is over channels (c x c), not over patches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from lilliput.core.copies import sharing
from lilliput.core.method import Batch
from lilliput.errors import DataError
from lilliput.factor.chain import Chain, kernel
from lilliput.factor.sites import Site
from lilliput.factor.spectra import CHUNK

DAMPING = 1e-3  # of the mean, added to every direction: what the images did not show is not free to change


def moments(model: nn.Module, sites: Sequence[Site], batches: Iterable[Batch]) -> dict[str, Tensor]:
    """E[x·xᵀ] of every layer's input over images and positions, (c, c) in doubles. One pass over the batches."""
    runner = sharing(model, model.parameters()).eval()
    sums = {site.name: torch.zeros(site.seen.inputs, site.seen.inputs, dtype=torch.double) for site in sites}
    counts = dict.fromkeys(sums, 0)

    def see(name: str, x: Tensor) -> None:
        rows = (x.transpose(0, 1).flatten(1) if x.dim() == 4 else x.flatten(0, -2).T).to("cpu", torch.double)
        sums[name].addmm_(rows, rows.T)
        counts[name] += rows.shape[1]

    for name in sums:
        runner.get_submodule(name).register_forward_pre_hook(lambda _, args, name=name: see(name, args[0]))
    run(runner, batches)
    return {name: total / max(1, counts[name]) for name, total in sums.items()}


def run(model: nn.Module, batches: Iterable[Batch]) -> None:
    """Show all images to a network. Raises `DataError` if there is none."""
    device = next(model.parameters()).device
    seen = 0
    with torch.no_grad():
        for x, _ in batches:
            model(x.to(device))
            seen += len(x)
    if not seen:
        raise DataError("no image was given; data-driven factorization needs at least one")


def root(moment: Tensor, groups: int = 1) -> Tensor:
    """L with L·Lᵀ = the damped moment, lower triangular; without what lies between different groups of channels."""
    size = len(moment) // groups
    blocks = [moment[i : i + size, i : i + size] for i in range(0, len(moment), size)]
    damped = torch.block_diag(*blocks) + DAMPING * moment.diagonal().mean().clamp(min=1e-12) * torch.eye(len(moment))
    return torch.linalg.cholesky(damped)


def whitened(weight: Tensor, by: Tensor) -> Tensor:
    """W·L over input channels, of the weight's type."""
    made = torch.empty_like(weight)
    step = max(1, CHUNK // max(1, weight[0].numel()))
    for part, target in zip(weight.split(step), made.split(step), strict=True):
        target.copy_(torch.einsum("ncyx,cd->ndyx", part.double(), by))
    return made


def absorb_whitened(chain: Chain, dense: nn.Module, moment: Tensor) -> None:
    """Fill a chain with the decomposition whose error is smallest on the data."""
    first = chain.chain[0]
    groups = getattr(first, "groups", 1)
    by = root(moment, groups)
    chain.fill(whitened(kernel(dense).detach().cpu(), by))
    inverse = torch.linalg.solve_triangular(by, torch.eye(len(by), dtype=by.dtype), upper=False)
    size = len(by) // groups
    with torch.no_grad():
        for g, part in enumerate(first.weight.chunk(groups)):
            block = inverse[g * size : (g + 1) * size, g * size : (g + 1) * size].to(part.device)
            part.copy_(torch.tensordot(part.double(), block, dims=([1], [0])).movedim(-1, 1))
