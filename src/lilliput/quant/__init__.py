"""Quantization: weights and activations on few levels, stored and computed as such."""

from lilliput.quant.fold import Fold
from lilliput.quant.quantize import Quantize
from lilliput.quant.ranges import ranges
from lilliput.registry import discover

discover(__name__, __path__)

__all__ = ["Fold", "Quantize", "ranges"]
