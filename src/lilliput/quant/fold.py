"""Batch norm folding as a step of its own."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, ClassVar

from torch import nn

from lilliput.config import config
from lilliput.core.edits import Edit
from lilliput.core.fold import fold
from lilliput.core.method import Look, Method


@config("fold")
class Fold(Method):
    """Compute every batch norm into the layer before it. The network computes what it did, with fewer operations.

    skip: norms that stay, by name or pattern ("layer1.*").
    Jacob et al. 2018, arXiv:1712.05877, section 3.2.
    """

    identity: ClassVar[dict[str, Any]] = {"skip": ("*",)}

    skip: tuple[str, ...] = ()

    def plan(self, model: nn.Module, look: Look) -> list[Edit]:
        """Two edits a norm."""
        folded = fold(model, look.example)
        pairs = zip(folded[::2], folded[1::2], strict=True)
        return [edit for pair in pairs if not any(fnmatchcase(pair[1].site, p) for p in self.skip) for edit in pair]
