"""Which row of csrc/kernels.inc runs a node of domain `lilliput` on this machine: the native core is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import lilliput.kernels as kernels
from lilliput.errors import WorkError
from lilliput.kernels.plans import packed
from lilliput.kernels.window import Window, pair


def row(kind: str, told: Mapping[str, Any], arrays: Sequence[Any], shape: Sequence[int]) -> str:
    """The kernel of a node: its kind, its attributes, its inputs but the first, and the shape of the first.

    Raises `WorkError` without the native core, and `ModelError` for a node that no kernel takes.
    """
    native = kernels._native
    if native is None:
        raise WorkError("the native core was not built (no C++ compiler at install), so none of its kernels runs")
    if kind == "Binarize":
        return kernels.forced() or next(name for family, name, here in kernels.rows() if family == "binary" and here)
    if kind == "SparseLinear":
        numbers = Window((1, 1)).numbers(told["channels"], len(arrays[0]) - 1, (1, prod(shape[:-1])))
        return str(packed(lambda: native.Sparse(numbers, *_four(arrays), None)).kernel)
    size = tuple(shape[2:])
    if kind == "SparseConv":
        numbers = _window(told, told["kernel_shape"]).numbers(told["channels"], len(arrays[0]) - 1, size)
        return str(packed(lambda: native.Sparse(numbers, *_four(arrays), None)).kernel)
    weight, *sides = arrays
    numbers = _window(told, weight.shape[2:]).numbers(told["channels"], weight.shape[0], size)
    if kind == "Int4Conv":
        return str(packed(lambda: native.Int4(numbers, told["zero"], weight, *(*sides, None)[:2], None)).kernel)
    mask, *sides = sides if kind.startswith("Ternary") else [None, *sides]
    scale, bias, least, flip = (None, None, *sides) if kind.endswith("Bits") else (*sides, None, None, None)[:4]
    return str(packed(lambda: native.Binary(numbers, told["pad"], weight, scale, bias, least, flip, None, mask)).kernel)


def _window(told: Mapping[str, Any], kernel: Sequence[int]) -> Window:
    return Window(pair(kernel), pair(told["strides"]), pair(told["pads"]), pair(told["dilations"]), told["group"])


def _four(arrays: Sequence[Any]) -> tuple[Any, ...]:
    return (*arrays, None)[:4]
