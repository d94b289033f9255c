"""Convolutions and linear layers whose weights are mostly zero, as operations of PyTorch: only the others are multiplied."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lilliput.errors import ModelError
from lilliput.kernels.binary import LIBRARY, array, declare, read_window
from lilliput.kernels.plans import core, planned
from lilliput.kernels.window import Window, four

ROWS = 1024  # of a linear layer's input at a time
_WEIGHT = "Tensor rows, Tensor columns, Tensor values, Tensor? bias"
LIBRARY.define(
    f"sparse_conv2d(Tensor x, {_WEIGHT}, int[2] kernel, int[2] stride, int[2] padding, int[2] dilation, int groups) -> Tensor"
)
LIBRARY.define(f"sparse_linear(Tensor x, {_WEIGHT}) -> Tensor")


def compress(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The non-zeros of a weight (out, …), row by row: where each row begins, their columns, their values.

    >>> [t.tolist() for t in compress(torch.tensor([[0.0, 2.0], [0.0, 0.0], [3.0, 4.0]]))]
    [[0, 1, 1, 3], [1, 0, 1], [2.0, 3.0, 4.0]]
    """
    flat = weight.detach().flatten(1)
    row, column = flat.nonzero(as_tuple=True)
    rows = F.pad(torch.bincount(row, minlength=flat.shape[0]).cumsum(0), (1, 0))
    return rows.to(torch.int32), column.to(torch.int32), flat[row, column].float()


def expand(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The dense weight of this shape."""
    flat = values.new_zeros(shape).flatten(1)
    row = torch.arange(shape[0], device=rows.device).repeat_interleave(rows.long().diff())
    flat[row, columns.long()] = values
    return flat.view(shape)


def conv_plain(x: Tensor, rows: Tensor, columns: Tensor, values: Tensor, bias: Tensor | None, *numbers: Any) -> Tensor:
    """The definition in PyTorch: by the dense weight."""
    window = read_window(*numbers)
    weight = expand(rows, columns, values, (rows.numel() - 1, x.shape[1] // window.groups, *window.kernel))
    return F.conv2d(x, weight, bias, window.stride, window.padding, window.dilation, window.groups)


def conv_native(x: Tensor, rows: Tensor, columns: Tensor, values: Tensor, bias: Tensor | None, *numbers: Any) -> Tensor:
    """By the native core, for floats."""
    native = core()
    if native is None or x.dtype != torch.float32:
        return conv_plain(x, rows, columns, values, bias, *numbers)
    out = conv_shape(x, rows, columns, values, bias, *numbers)
    _run(native, x, rows, columns, values, bias, read_window(*numbers), out)
    return out


def conv_shape(x: Tensor, rows: Tensor, columns: Tensor, values: Tensor, bias: Tensor | None, *numbers: Any) -> Tensor:
    """An output of the right shape, not filled."""
    n, c, h, w = four(x, "a sparse convolution")
    window, outputs = read_window(*numbers), rows.numel() - 1
    if c % window.groups or outputs % window.groups:
        raise ModelError(f"`{window.groups}` groups do not divide `{c}` and `{outputs}` channels")
    return x.new_empty((n, outputs, *window.output((h, w))))


def linear_plain(x: Tensor, rows: Tensor, columns: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """The definition in PyTorch: by the dense weight."""
    return F.linear(x, expand(rows, columns, values, (rows.numel() - 1, x.shape[-1])), bias)


def linear_native(x: Tensor, rows: Tensor, columns: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """By the native core, for floats: a 1×1 convolution over the batch, which lies side by side when transposed."""
    native = core()
    if native is None or x.dtype != torch.float32:
        return linear_plain(x, rows, columns, values, bias)
    made = []
    for some in x.reshape(-1, x.shape[-1]).split(ROWS):
        out = x.new_empty((1, rows.numel() - 1, 1, some.shape[0]))
        if some.shape[0]:
            _run(native, some.t()[None, :, None], rows, columns, values, bias, Window((1, 1)), out)
        made.append(out[0, :, 0].t())
    return torch.cat(made).contiguous().view(*x.shape[:-1], rows.numel() - 1)


def linear_shape(x: Tensor, rows: Tensor, columns: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """An output of the right shape, not filled."""
    return x.new_empty((*x.shape[:-1], rows.numel() - 1))


def _run(native: Any, x: Tensor, rows: Tensor, columns: Tensor, values: Tensor, bias: Any, window: Window, out: Tensor) -> None:
    n, c, h, w = x.shape
    layer = planned((c, h, w, window), (values, rows, columns, bias), lambda: native.Sparse(
        window.numbers(c, rows.numel() - 1, (h, w)), array(rows), array(columns), array(values),
        array(bias), None))  # fmt: skip
    layer.floats(n, array(x), out.numpy(), torch.get_num_threads())


declare("sparse_conv2d", conv_plain, conv_native, conv_shape)
declare("sparse_linear", linear_plain, linear_native, linear_shape)
