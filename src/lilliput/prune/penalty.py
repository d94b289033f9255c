"""Training that makes channels ready to leave: penalties that push whole channels towards zero, as callbacks of a `Fit`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from lilliput.config import config
from lilliput.core.callback import Active, Callback
from lilliput.core.channels import Group, Slot, channels
from lilliput.errors import ConfigError
from lilliput.prune.evidence import places
from lilliput.prune.slices import scales, slices

Rows = Callable[[nn.Module, Group], list[tuple[Slot, Tensor]]]
"""The weights of a group's channels: (channels, rest) of every slot that has some, with their gradient."""


@config("prune.slim")
class Slim(Callback):
    """Push the scales of norms towards zero, so that `bn_scale` can tell which channels go.

    adds λ·Σ|γ| to the loss; with `coupled`, λ·Σ_a √Σγ² over the norms that an atom a of coupled channels passes
    gradient λ·sign(γ), or λ·γ/√Σγ²; 0 where it has no slope

    strength  λ
    warmup    share of the training over which λ rises from 0, from 0 to 1
    coupled   channels that additions tie together shrink together, or stay

    Liu et al. 2017, "Network Slimming", arXiv:1708.06519.
    """

    strength: float = 1e-4
    warmup: float = 0.0
    coupled: bool = False

    def check(self) -> None:
        """Raise `ConfigError` for options that can never work."""
        _check(self.strength, self.warmup)

    def begin(self, model: nn.Module, steps: int, seed: int) -> Active:
        """The penalty in one training; raises `ConfigError` for a network without scales of norms."""
        self.check()
        if not _gammas(model):
            raise ConfigError("`prune.slim` needs norms with a scale, and this network has none; use `prune.group_lasso`")
        if self.coupled:
            return _Coupled(model, steps, self.strength, self.warmup, _scale_rows)
        return _Slimming(model, steps, self.strength, self.warmup)


@config("prune.group_lasso")
class GroupLasso(Callback):
    """Push whole channels towards zero, in all layers they are coupled over.

    adds λ·Σ_a g_a·√Σw² over the atoms a of coupled channels, the inner sum over all weights that leave with the atom: those
    that make it, scale it and read it; gradient λ·g_a·w/√Σw², 0 where all are 0
    with g_a = 2^(adaptive·(M − n_a)/(M − m)), n_a the atom's norm, m and M the least and largest of its group: g = 1 for the
    strongest channel, and the weaker one is, the harder it is pushed; g is a constant to the gradient

    strength  λ
    warmup    share of the training over which λ rises from 0, from 0 to 1
    adaptive  how much harder weak channels are pushed; 0 treats all alike

    One pass over the weights a step. Wen et al. 2016, "Structured Sparsity Learning", arXiv:1608.03665; coupling and g as in
    Fang et al. 2023, "DepGraph", arXiv:2301.12900, section 3.3, whose penalty is the square.
    """

    strength: float = 1e-4
    warmup: float = 0.0
    adaptive: float = 0.0

    def check(self) -> None:
        """Raise `ConfigError` for options that can never work."""
        _check(self.strength, self.warmup)
        if not (math.isfinite(self.adaptive) and self.adaptive >= 0):
            raise ConfigError(f"`adaptive` (={self.adaptive}) is from 0")

    def begin(self, model: nn.Module, steps: int, seed: int) -> Active:
        """The penalty in one training."""
        self.check()
        return _Coupled(model, steps, self.strength, self.warmup, _weight_rows, self.adaptive)


def _check(strength: float, warmup: float) -> None:
    if not (math.isfinite(strength) and strength >= 0 and 0 <= warmup <= 1):
        raise ConfigError(f"`strength` (={strength}) is from 0, `warmup` (={warmup}) from 0 to 1")


class _Rising(Active):
    """A strength that rises in a straight line over the first steps."""

    def __init__(self, model: nn.Module, steps: int, strength: float, warmup: float) -> None:
        self.model, self.full, self.rise, self.step = model, strength, warmup * steps, 0

    @property
    def strength(self) -> float:
        """λ at this step."""
        return self.full * min(1.0, (self.step + 1) / self.rise) if self.rise > 0 else self.full

    def after_step(self, step: int) -> None:
        self.step = step + 1

    def state(self) -> dict[str, Any]:
        return {"step": self.step}

    def load_state(self, stored: dict[str, Any]) -> None:
        self.step = int(stored["step"])


class _Slimming(_Rising):
    """The sum of the sizes of all scales."""

    def loss(self, x: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.strength * torch.stack([gamma.abs().sum() for gamma in _gammas(self.model)]).sum()


class _Coupled(_Rising):
    """The sum of the norms of atoms. Channels are named at the first batch, which is the first input there is."""

    def __init__(self, model: nn.Module, steps: int, strength: float, warmup: float, rows: Rows, adaptive: float = 0.0) -> None:
        super().__init__(model, steps, strength, warmup)
        self.rows, self.adaptive = rows, adaptive
        self.groups: list[tuple[Group, dict[str, tuple[Tensor, Tensor]]]] | None = None

    def loss(self, x: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.groups is None:
            self.groups = self._named(x)
        norms = [self._norms(group, index) for group, index in self.groups]
        if not norms:
            raise ConfigError("no channel of this network can leave, so there is nothing to push towards zero")
        return self.strength * torch.cat([n * self._weights(n.detach()) for n in norms]).sum()

    def _named(self, x: Tensor) -> list[tuple[Group, dict[str, tuple[Tensor, Tensor]]]]:
        """Each group with, for every slot, the channels that belong to it and their atoms."""
        found = []
        for group in channels(self.model, x[:1]).groups:
            index = {}
            for slot, _ in self.rows(self.model, group):
                where = places(slot, group)
                mine = torch.nonzero(where >= 0).flatten()
                index[_key(slot)] = (mine.to(x.device), where[mine].to(x.device))
            if index:
                found.append((group, index))
        return found

    def _norms(self, group: Group, index: dict[str, tuple[Tensor, Tensor]]) -> Tensor:
        """√Σw² of every atom, (atoms,)."""
        total: Tensor | None = None
        for slot, weight in self.rows(self.model, group):
            mine, atoms = index[_key(slot)]
            squares = weight.square().sum(1)[mine]
            total = squares.new_zeros(len(group.atoms)) if total is None else total
            total = total.index_add(0, atoms, squares)
        assert total is not None
        return total.clamp(min=torch.finfo(total.dtype).tiny).sqrt()  # no slope where all weights are 0

    def _weights(self, norms: Tensor) -> Tensor:
        """How hard each atom is pushed."""
        spread = (norms.max() - norms.min()).clamp(min=torch.finfo(norms.dtype).tiny)
        return torch.exp2(self.adaptive * (norms.max() - norms) / spread)


def _key(slot: Slot) -> str:
    return f"{slot.site}:{slot.axis}"


def _gammas(model: nn.Module) -> list[Tensor]:
    norms = [m for m in model.modules() if isinstance(m, _NormBase | nn.GroupNorm)]
    return [m.weight for m in norms if m.weight is not None]


def _scale_rows(model: nn.Module, group: Group) -> list[tuple[Slot, Tensor]]:
    return [(slot, gamma.unsqueeze(1)) for slot, gamma in scales(model, group)]


def _weight_rows(model: nn.Module, group: Group) -> list[tuple[Slot, Tensor]]:
    shown = [(slot, slices(model, slot)) for slot in group.slots]
    return [(slot, weight) for slot, weight in shown if weight is not None]
