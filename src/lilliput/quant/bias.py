"""Biases as integer kernels add them: whole multiples of input scale × weight scale."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lilliput.core.layers import Compressed, Mapped, swaps
from lilliput.errors import EditError
from lilliput.quant.integer import Affine


@swaps.register("whole_bias")
class WholeBias(Compressed):
    """The same layer, its bias rounded to what a 32-bit accumulator holds, so that PyTorch and the runtime compute alike.

    b̂ = round(b / (s_x·s_w))·s_x·s_w          with s_x the input's scale, s_w the weight's (one an output channel)
    |b̂ − b| ≤ s_x·s_w / 2, which is far below a level of the output; yet left to the export it changes about one value in
    a hundred by a level before a deep network ends. Channels without weights keep their bias: any unit would do for them.
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
        unit = (quantizer.scale * torch.tensor(input, device=layer.bias.device)).double()
        dead = (layer.mapped_weight().flatten(1) == 0).all(1)
        whole = (layer.bias.double() / unit).round() * unit
        layer.bias.copy_(torch.where(dead, layer.bias.double(), whole))
