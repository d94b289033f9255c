"""Batch norm folding as a step of its own."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, ClassVar

from torch import nn

from lilliput.config import config
from lilliput.core.edits import Edit
from lilliput.core.fold import fold
from lilliput.core.method import Look, Method
from lilliput.errors import ConfigError
from lilliput.quant.settle import settle


@config("fold")
class Fold(Method):
    """Compute every batch norm into the layer before it. The network computes what it did, with fewer operations.

    Layers whose quantizers were learned (`quant.Quantize(learn=..., norms="keep")`) take the norm into their scales, and end
    with plain integers (quant/settle); those that were trained on grids (quant/hold) end as a file holds them.
    zone: the least dead zone of these grids, up to a step, for a file that is a little too large; 0 leaves them theirs.
    skip: norms that stay, by name or pattern ("layer1.*").
    Jacob et al. 2018, arXiv:1712.05877, section 3.2.
    """

    identity: ClassVar[dict[str, Any]] = {"skip": ("*",)}

    skip: tuple[str, ...] = ()
    zone: float = 0.0

    def check(self) -> None:
        """Raise `ConfigError` for a zone that is none."""
        if not 0 <= self.zone <= 1:
            raise ConfigError(f"{self.name}: `zone` (={self.zone}) is a share of a step, from 0 to 1")

    def plan(self, model: nn.Module, look: Look) -> list[Edit]:
        """Two edits a norm."""
        self.check()
        folded = fold(model, look.example)
        pairs = zip(folded[::2], folded[1::2], strict=True)
        return [
            *(e for pair in pairs if not self._skips(pair[1].site) for e in pair),
            *settle(model, look.example, self._skips, self.zone),
        ]

    def _skips(self, site: str) -> bool:
        return any(fnmatchcase(site, pattern) for pattern in self.skip)
