"""Cross-layer equalization: channels that differ in range between two layers are brought to one, for scales of whole tensors.

A ReLU passes factors: relu(a·x) = a·relu(x) for a > 0. So a channel between two layers may be divided in the first and
multiplied in the second, and the network computes what it did.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lilliput.config import config
from lilliput.core.edits import Edit, Swap
from lilliput.core.fold import fold
from lilliput.core.layers import HOSTS, Compressed, swaps
from lilliput.core.method import Look, Method
from lilliput.core.watch import Graph, Op, watch
from lilliput.errors import ConfigError, EditError, at


@config("quant.equalize")
class Equalize(Method):
    """Fold norms, then give each channel between two layers the same range in both.

    W₁ ← S⁻¹·W₁,  b₁ ← S⁻¹·b₁,  W₂ ← W₂·S,     s_c = √(r₁_c / r₂_c),   r the largest magnitude of a channel's weights
    The network computes the same, up to float rounding. Pairs are layers with nothing but a ReLU between them, which nothing
    else reads, until no factor is above 1.001 or `rounds` are over.
    relu6: "keep" leaves pairs around a ReLU6 alone, for it stops at 6 whatever the factor; "open" makes a ReLU of it, which
    changes what the network computes a little, and equalizes them.
    Nagel et al. 2019, arXiv:1906.04721, section 4.1.
    """

    identity: ClassVar[dict[str, Any]] = {"rounds": 0}

    rounds: int = 20
    relu6: str = "keep"

    def check(self) -> None:
        """Rounds that can be, words that exist."""
        if self.rounds < 0:
            raise ConfigError(f"`rounds` (={self.rounds}) is at least 0")
        if self.relu6 not in ("keep", "open"):
            raise ConfigError(f"`relu6` (={self.relu6}) is `keep` or `open`")

    def plan(self, model: nn.Module, look: Look) -> list[Edit]:
        """Folds, and ReLUs where ReLU6s were."""
        self.check()
        if not self.rounds:
            return []
        folds: list[Edit] = fold(model, look.example)
        if self.relu6 == "open":
            folds += [Swap(name, "relu") for name, layer in model.named_modules() if isinstance(layer, nn.ReLU6)]
        return folds

    def refit(self, before: nn.Module, after: nn.Module, look: Look) -> None:
        """Divide and multiply."""
        if not self.rounds:
            return
        with at(self.name), torch.no_grad():
            found = pairs(after, look.example)
            for _ in range(self.rounds):
                if all([pair.equalize() < 1.001 for pair in found]):
                    return


@swaps.register("relu")
class Opened(Compressed):
    """A ReLU where a clipped one stood."""

    name = "relu"

    @classmethod
    def like(cls, dense: nn.Module) -> nn.Module:  # type: ignore[override] # its own spec
        """`nn.ReLU`."""
        if not isinstance(dense, nn.ReLU6 | nn.ReLU):
            raise EditError(f"a `{type(dense).__name__}` is not a clipped ReLU")
        return nn.ReLU(inplace=dense.inplace)

    @classmethod
    def absorb_into(cls, layer: Any, model: nn.Module, dense: nn.Module) -> None:  # type: ignore[override]
        """There is nothing to compute."""


@dataclass(frozen=True)
class Pair:
    """Two layers; channel c of the first one's output is input c of the second."""

    first: Any
    second: Any

    def equalize(self) -> float:
        """Bring each channel to one range in both; the largest factor, or its inverse."""
        one, two = _ranges_out(self.first.weight), _ranges_in(self.second)
        able = (one > 0) & (two > 0)
        factor = torch.where(able, (one / two.clamp(min=1e-30)).sqrt(), 1.0).clamp(1e-4, 1e4)
        self.first.weight.div_(_along(factor, self.first.weight, 0))
        if self.first.bias is not None:
            self.first.bias.div_(factor)
        self.second.weight.mul_(_per_input(factor, self.second))
        return float(torch.maximum(factor, 1 / factor).max())


def pairs(model: nn.Module, example: Tensor) -> list[Pair]:
    """The pairs of plain layers between which factors can move, in order."""
    graph, found = watch(model, example), []
    for op in graph.ops:
        second = _behind(graph, op) if op.kind in ("conv", "linear") else None
        if second is not None and _is_plain(model, graph, op) and _is_plain(model, graph, second):
            found.append(Pair(model.get_submodule(op.site), model.get_submodule(second.site)))
    return found


def _behind(graph: Graph, op: Op) -> Op | None:
    """The layer that alone reads an operation's output, directly or through one ReLU without an end."""
    reader = graph.only_reader(op.outputs[0])
    if reader is not None and reader.kind == "relu" and reader.limit == float("inf"):
        reader = graph.only_reader(reader.outputs[0])
    return reader if reader is not None and reader.kind in ("conv", "linear") else None


def _is_plain(model: nn.Module, graph: Graph, op: Op) -> bool:
    layer, once = model.get_submodule(op.site), len(op.inputs) == 1 and graph.times_called[op.site] == 1
    return once and type(layer) in HOSTS and "output_maps" not in layer._modules


def _ranges_out(weight: Tensor) -> Tensor:
    return weight.abs().flatten(1).amax(1)


def _ranges_in(layer: Any) -> Tensor:
    """The largest magnitude of the weights that read each input channel, (in,)."""
    weight = layer.weight.abs()
    if isinstance(layer, nn.Linear):
        return weight.amax(0)  # type: ignore[no-any-return]
    return weight.unflatten(0, (layer.groups, -1)).flatten(3).amax((1, 3)).flatten()  # type: ignore[no-any-return]


def _per_input(factor: Tensor, layer: Any) -> Tensor:
    """Factors of input channels in a shape that multiplies the weight."""
    if isinstance(layer, nn.Linear):
        return factor
    shape = (layer.groups, 1, -1, *[1] * (layer.weight.dim() - 2))
    outputs = layer.out_channels // layer.groups
    return factor.view(shape).expand(-1, outputs, *[-1] * (layer.weight.dim() - 1)).flatten(0, 1)


def _along(factor: Tensor, weight: Tensor, axis: int) -> Tensor:
    return factor.view([-1 if d == axis else 1 for d in range(weight.dim())])
