"""How many channels each group keeps."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from lilliput.core.channels import Group
from lilliput.core.method import Look
from lilliput.errors import ConfigError

SPREAD = ("uniform", "global")


def counts(
    model: nn.Module,
    look: Look,
    groups: Sequence[Group],
    scores: Sequence[Tensor],
    *,
    keep: float | dict[str, float],
    allocate: str,
    multiple: int,
) -> list[int]:
    """How many atoms each group keeps, from the share asked for and the worth of every atom, (atoms,) a group."""
    if isinstance(keep, dict):
        _check_patterns(keep, groups)
        shares = [next((s for p, s in keep.items() if fnmatchcase(g.name, p)), 1.0) for g in groups]
    elif allocate == "uniform" or not groups:
        shares = [keep] * len(groups)
    else:
        every = torch.cat(list(scores))
        cut = torch.quantile(every, 1 - keep) if keep < 1 else every.min()
        shares = [max(0.1, float((s >= cut).float().mean())) for s in scores]
    return [_round(share, len(g.atoms), multiple) for share, g in zip(shares, groups, strict=True)]


def _check_patterns(keep: dict[str, float], groups: Sequence[Group]) -> None:
    for pattern in keep:
        if not any(fnmatchcase(g.name, pattern) for g in groups):
            raise ConfigError(f"`keep`: `{pattern}` matches no group of channels; they are {', '.join(g.name for g in groups)}")


def _round(share: float, size: int, multiple: int) -> int:
    if share >= 1:
        return size
    whole = max(1, round(share * size / multiple)) * multiple
    return min(whole, size)
