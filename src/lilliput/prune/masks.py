"""The mask: a map that keeps some weights and makes zeros of the others. Which, is a tensor of booleans in the state dict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from lilliput.core.layers import HOSTS, Mapped
from lilliput.core.maps import Mapping, maps, take
from lilliput.errors import ConfigError, EditError
from lilliput.prune.patterns import pattern
from lilliput.prune.saliency import draw, saliencies


@maps.register("mask")
class Mask(Mapping):
    """Zero where a weight was pruned.

    m(w) = w where kept, else 0;    ∂m/∂w = 1 where kept, else 0
    costs 1 bit a weight in a file. The zeros stay whatever an optimizer does to the weight behind them.

    The spec says how many weights are zero (`zeros`), in which `pattern`, and by which criterion of the weight alone
    (`by`, with a `seed` for one that draws); so an edit is small and replays. Numbers in a state dict take precedence:
    methods that decide by data, and callbacks in training, set `kept` (`Method.refit`).
    """

    name = "mask"
    kept: Tensor

    def __init__(self, kept: Tensor, zeros: int, grain: str, by: str, seed: int) -> None:
        super().__init__()
        self.zeros, self.pattern, self.by, self.seed = zeros, grain, by, seed
        self.open = False  # whether gradients reach pruned weights, which only a callback that regrows them asks for
        self.register_buffer("kept", kept)

    @classmethod
    def like(  # type: ignore[override] # its own spec
        cls, tensor: Tensor, zeros: int = 0, pattern: str = "weight", by: str = "magnitude", seed: int = 0
    ) -> Mask:
        """The mask for a tensor of this shape, all kept until numbers come."""
        _check(tensor, zeros, pattern, by)
        return cls(torch.ones(tensor.shape, dtype=torch.bool, device=tensor.device), zeros, pattern, by, seed)

    def absorb(self, tensor: Tensor) -> None:
        """Choose what stays, by the tensor itself."""
        if not torch.isfinite(tensor).all():
            raise EditError("the weight holds NaN or infinity, which no criterion orders")
        drawn = draw(tensor.shape, self.seed).to(tensor.device)
        self.kept = pattern(self.pattern).mask(saliencies[self.by].score(tensor, drawn), self.zeros)

    def forward(self, w: Tensor) -> Tensor:
        if self.open:
            return w - w.detach().masked_fill(self.kept, 0)  # the same values; gradients pass everywhere
        return w.masked_fill(~self.kept, 0)

    def resize(self, axis: str, keep: Sequence[int], dim: int) -> None:
        self.kept = take(self.kept, dim, keep)

    @property
    def rate(self) -> float:
        """The share of weights that are zero."""
        return 1 - float(self.kept.double().mean())

    def extra_repr(self) -> str:
        return f"pattern={self.pattern}"


def hosts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers that can hold a mask."""
    for site, layer in model.named_modules():
        if site and (type(layer) in HOSTS or isinstance(layer, Mapped)):
            yield site, layer


def mask(layer: nn.Module) -> Mask | None:
    """The mask on a layer's weight; the last, if there are several."""
    found = [m for m in layer.weight_maps if isinstance(m, Mask)] if isinstance(layer, Mapped) else []
    return found[-1] if found else None


def masks(model: nn.Module) -> dict[str, tuple[Mapped, Mask]]:
    """Every masked layer with its mask."""
    return {
        site: (layer, found) for site, layer in hosts(model) if isinstance(layer, Mapped) and (found := mask(layer)) is not None
    }


@torch.no_grad()
def settle(layer: Mapped, found: Mask) -> None:
    """Set pruned weights to zero behind their mask too, where the mask is what sees them first.

    So files hold zeros, weight decay and momentum find nothing, and a weight that regrows begins at zero.
    """
    if layer.weight_maps[0] is found:
        layer.weight.masked_fill_(~found.kept, 0)


def _check(tensor: Tensor, zeros: int, grain: str, by: str) -> None:
    if not saliencies[by].replays:
        raise EditError(f"`by` (={by}) needs more than the weight; its masks are numbers, set by the method")
    try:
        pattern(grain).check(tensor.shape)
    except ConfigError as error:
        raise EditError(str(error)) from None
    if not 0 <= zeros <= tensor.numel():
        raise EditError(f"`zeros` (={zeros}) is from 0 to the {tensor.numel()} weights of the layer")
