"""Biases as integer kernels add them: whole multiples of input scale × weight scale."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lilliput.core.layers import Compressed, Mapped, swaps
from lilliput.errors import EditError
from lilliput.quant.integer import Affine


@swaps.register("whole_bias")
class WholeBias(Compressed):
    """The same layer, its bias rounded to what a 32-bit accumulator holds, so that PyTorch and the runtime compute alike.

    b̂ = round(b / u)·u,   u = s_x·s_w·2^k     with s_x the input's scale, s_w the weight's (one an output channel)
    k is 0 for biases of full precision: |b̂ − b| ≤ s_x·s_w / 2, which is far below a level of the output; yet left to the
    export it changes about one value in a hundred by a level before a deep network ends. Beside weights that are rounded for a
    file (quant/rate), biases are whole multiples of a power of two B, and stay as coarse: k is the largest with u ≤ B / 2.
    Where the s_w are powers of two, u is one for the layer. Channels without weights, for which any unit would do, then take
    the finest of the others; they keep a bias of full precision.
    Jacob et al. 2018, arXiv:1712.05877, section 2.4.
    """

    name = "whole_bias"

    @classmethod
    def like(cls, dense: nn.Module, input: float) -> nn.Module:  # type: ignore[override] # its own spec
        """The layer as it is; so the edit stays replayable, as structure, once its integer weight is baked."""
        return dense

    @classmethod
    def absorb_into(  # type: ignore[override] # its own spec
        cls, layer: Any, model: nn.Module, dense: nn.Module, input: float
    ) -> None:
        """Round the bias."""
        quantizer = layer.weight_maps[-1] if isinstance(layer, Mapped) and len(layer.weight_maps) else None
        if not isinstance(quantizer, Affine) or layer.bias is None:
            raise EditError("only a layer with a bias and an integer weight has a unit for its bias")
        unit = (quantizer.scale * torch.tensor(input, device=layer.bias.device)).double().expand(len(layer.bias))
        coarser = torch.ones_like(unit)
        if any(getattr(m, "for_files", False) for m in layer.weight_maps):
            coarser = (coarseness(layer.bias) / 2 / unit).log2().floor().clamp(min=0).exp2()
        dead = (layer.mapped_weight().flatten(1) == 0).all(1)
        if not dead.all():
            unit = torch.where(dead, (unit * coarser)[~dead].min(), unit * coarser)
            whole = (layer.bias.double() / unit).round() * unit + 0.0  # a negative zero is no whole number to a file
            layer.bias.copy_(torch.where(dead & (coarser[~dead].max() == 1), layer.bias.double(), whole))


def coarseness(biases: Tensor) -> Tensor:
    """The greatest power of two that divides all of them."""
    mantissa, exponent = torch.frexp(biases[biases != 0].double())
    whole = (mantissa * 2**24).long()  # exact, as float32 has 24 bits
    return ((whole & -whole) * (exponent.double() - 24).exp2()).amin() if len(whole) else biases.new_tensor(1.0).double()
