"""Quantization: weights and activations on few levels, stored and computed as such."""

from lilliput.quant.equalize import Equalize
from lilliput.quant.exact import integers
from lilliput.quant.fold import Fold
from lilliput.quant.freeze import Freeze
from lilliput.quant.low_bit import LowBit
from lilliput.quant.mixed import Mixed
from lilliput.quant.quantize import Quantize
from lilliput.quant.ranges import ranges
from lilliput.quant.training import Centroids, Clip, ErrorDecay, Incremental, descending, two_step
from lilliput.registry import discover

discover(__name__, __path__)

__all__ = [
    "Centroids",
    "Clip",
    "Equalize",
    "ErrorDecay",
    "Fold",
    "Freeze",
    "Incremental",
    "LowBit",
    "Mixed",
    "Quantize",
    "descending",
    "integers",
    "ranges",
    "two_step",
]
