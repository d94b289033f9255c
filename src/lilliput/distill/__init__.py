"""Distillation: a small network learns from a large one, or from its own uncompressed self."""

from lilliput.distill.response import Distillation, Hinton
from lilliput.registry import discover

discover(__name__, __path__)

__all__ = ["Distillation", "Hinton"]
