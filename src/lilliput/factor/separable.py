"""A trained convolution as depthwise and pointwise convolutions."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lilliput.errors import EditError
from lilliput.factor.chain import Chain, Mode, Ranks, form
from lilliput.factor.shape import Link, Shape
from lilliput.factor.spectra import energies, factors, pooled


@form
class Separable(Chain):
    """A convolution as `rank` depthwise kernels a channel and a 1x1 convolution over what they see.

    W[:, c] (n × k·k) ≈ Σ_t P_t[:, c]·D_t[c],   ‖W − Ŵ‖² = Σ_c Σ_{i > rank} σ_{c,i}²
    Costs rank·c·(k·k + n) multiply-adds a position. `relu` puts a ReLU behind the depthwise part; then no dense layer computes
    the same, and the pointwise part needs to be refitted on data (`reconstruct`) or trained.
    Guo et al. 2018, "Network decoupling", arXiv:1808.05517; a ReLU or none: Chollet 2017, arXiv:1610.02357, section 4.7.
    """

    name = "separable"
    options: ClassVar[dict[str, Any]] = {"relu": False}
    whitens = False

    @classmethod
    def refuses(cls, seen: Shape, **options: Any) -> str | None:
        """A 1x1 kernel is pointwise already."""
        return "its kernel is 1x1, so it is pointwise already; take `svd`" if seen.area == 1 else None

    @classmethod
    def largest(cls, seen: Shape, **options: Any) -> Ranks:
        """As many terms as the kernel has positions."""
        return (min(seen.area, seen.outputs),)

    @classmethod
    def links(cls, seen: Shape, ranks: Ranks, **options: Any) -> list[Link]:
        """Depthwise, then pointwise."""
        middle = seen.inputs * ranks[0]
        return [seen.full("depthwise", seen.inputs, middle, seen.inputs), Link("pointwise", middle, seen.outputs)]

    @classmethod
    def modes(cls, weight: Tensor, **options: Any) -> list[Mode]:
        """The energies of each input channel's kernels, summed over channels."""
        channels = [weight[:, c].flatten(1) for c in range(weight.shape[1])]
        return [Mode(pooled([energies(m) for m in channels]), *channels[0].shape)]

    def factor(self, weight: Tensor) -> dict[str, Tensor]:
        """The best terms of each input channel on its own."""
        pairs = [factors(weight[:, c].flatten(1), self.ranks_made[0]) for c in range(weight.shape[1])]
        return {"depthwise": torch.cat([right for _, right in pairs]), "pointwise": torch.cat([left for left, _ in pairs], 1)}

    def forward(self, x: Tensor) -> Tensor:
        """Depthwise, perhaps a ReLU, pointwise."""
        seen = self.get_submodule("depthwise")(x)
        return self.get_submodule("pointwise")(F.relu(seen) if self.chosen["relu"] else seen)  # type: ignore[no-any-return]

    def dense(self) -> nn.Module:
        """The convolution it computes; with a ReLU inside there is none."""
        if self.chosen["relu"]:
            raise EditError("with a ReLU between its links no ordinary convolution computes the same")
        return super().dense()
