"""Shapes of the two operations that networks consist of, on the meta device.

PyTorch has its own rules for them, written in Python: the first call imports over a second's worth of modules, and each costs
more than all that is done to names. Everything else is left to PyTorch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_SAME = {f"aten::{op}" for op in ("relu", "sigmoid", "silu", "gelu", "hardtanh", "hardswish", "hardsigmoid", "leaky_relu")}


def shaped(op: str, args: tuple[Any, ...]) -> Any:
    """An empty result of the right shape, or None for what PyTorch should be asked about."""
    x = args[0] if args else None
    if not isinstance(x, Tensor) or x.device.type != "meta":
        return None
    if op == "aten::convolution" and x.dim() == args[1].dim():
        return _convolution(x, *args[1:9])
    if op == "aten::native_batch_norm" and not args[5]:
        return _like(x), _empty(x, 0), _empty(x, 0)
    if op in _SAME and x.is_floating_point():
        return _like(x)
    if op == "aten::add" and isinstance(args[1], Tensor) and (x.shape, x.dtype) == (args[1].shape, args[1].dtype):
        return _like(x)
    return None


def _empty(x: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=x.dtype, device="meta")


def _like(x: Tensor) -> Tensor:
    """`torch.empty_like` takes twenty times as long on the meta device."""
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")


def _convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int], padding: list[int], dilation: list[int],
    transposed: bool, output_padding: list[int], groups: int,
) -> Tensor:  # fmt: skip
    """The convolution itself, of one channel, tells the size of the image."""
    if x.shape[1] != weight.shape[0 if transposed else 1] * (1 if transposed else groups):
        raise RuntimeError(f"{x.shape[1]} channels meet a weight of shape {tuple(weight.shape)} in {groups} groups")
    one, kernel = torch.zeros(1, 1, *x.shape[2:]), torch.zeros(1, 1, *weight.shape[2:])
    image = torch.ops.aten.convolution(one, kernel, None, stride, padding, dilation, transposed, output_padding, 1)
    outputs = weight.shape[1] * groups if transposed else weight.shape[0]
    return _empty(x, x.shape[0], outputs, *image.shape[2:])
