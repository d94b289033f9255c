"""Batch norms that keep their statistics while training goes on."""

from __future__ import annotations

from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lilliput.config import config
from lilliput.core.edits import Edit, Swap
from lilliput.core.layers import Compressed, OutputMaps, output_hook, swaps
from lilliput.core.method import Look, Method
from lilliput.errors import EditError


class FrozenNorm(nn.BatchNorm2d):
    """A batch norm that computes by its running statistics in either mode, and never changes them. Slope and offset learn."""

    only_norms = True  # so it can be folded (core/fold)

    def forward(self, input: Tensor) -> Tensor:
        return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions will do."""


@config("quant.freeze")
class Freeze(Method):
    """Freeze the statistics of every batch norm, for the last epochs of training with quantizers.

    In training mode a norm divides by the deviation of the batch, at inference by the one it remembers; on few levels the two
    differ enough to move activations across thresholds. Frozen, the network trains as it will run, and as it will be folded.
    In eval mode nothing changes. Krishnamoorthi 2018, arXiv:1806.08342, section 3.2.2.
    """

    identity: ClassVar[dict[str, Any]] = {}

    def plan(self, model: nn.Module, look: Look) -> list[Edit]:
        """One swap a norm."""
        return [Swap(name, "frozen") for name, layer in model.named_modules() if _is_open(layer)]


def _is_open(layer: nn.Module) -> bool:
    return isinstance(layer, _BatchNorm) and not isinstance(layer, FrozenNorm) and layer.running_mean is not None


@swaps.register("frozen")
class Frozen(Compressed):
    """The same batch norm with its statistics frozen."""

    name = "frozen"

    @classmethod
    def like(cls, dense: nn.Module) -> nn.Module:  # type: ignore[override] # its own spec
        """The frozen norm, with the same tensors."""
        if not _is_open(dense):
            raise EditError(f"a `{type(dense).__name__}` has no running statistics to freeze")
        layer = FrozenNorm.__new__(FrozenNorm)
        layer.__dict__ = {k: v.copy() if isinstance(v, dict) else v for k, v in dense.__dict__.items()}
        layer.track_running_stats = False  # whoever estimates statistics anew leaves them alone
        return layer

    @classmethod
    def absorb_into(cls, layer: Any, model: nn.Module, dense: nn.Module) -> None:  # type: ignore[override]
        """There is nothing to compute."""


def carry(new: nn.Module, old: nn.Module, drop: tuple[type[nn.Module], ...] = ()) -> nn.Module:
    """Let a layer take over the maps on the output of the one it replaces, without those of some types."""
    maps = [m for m in old._modules.get("output_maps") or () if not isinstance(m, drop)]  # type: ignore[union-attr]
    if maps:
        new.output_maps = OutputMaps(maps)
        new.register_forward_hook(output_hook)
    return new
