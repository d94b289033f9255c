"""Quantization: weights and activations on few levels, stored and computed as such."""

from lilliput.quant.fold import Fold
from lilliput.quant.low_bit import LowBit
from lilliput.quant.quantize import Quantize
from lilliput.quant.ranges import ranges
from lilliput.quant.training import Centroids, Clip, ErrorDecay, Incremental, descending, two_step
from lilliput.registry import discover

discover(__name__, __path__)

__all__ = [
    "Centroids",
    "Clip",
    "ErrorDecay",
    "Fold",
    "Incremental",
    "LowBit",
    "Quantize",
    "descending",
    "ranges",
    "two_step",
]
