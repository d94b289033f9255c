"""Short floats: half precision and bfloat16 as maps. Half the bytes, no calibration."""

from __future__ import annotations

import torch
from torch import Tensor

from lilliput.core.maps import Codes, Quantizer, maps
from lilliput.errors import EditError, UnknownName
from lilliput.quant.straight import straight

KINDS = {"fp16": torch.float16, "bf16": torch.bfloat16}


@maps.register("float")
class Short(Quantizer):
    """Numbers with 16 bits of their own: IEEE half precision, or bfloat16.

    x̂ = the nearest such number (halves to even), at most the largest finite one        ∂x̂/∂x = 1
    costs 16 bits an element and no side information. fp16: 11 significant bits, up to 65,504; bf16: 8, up to 3.4e38.
    Micikevicius et al. 2018, arXiv:1710.03740; Kalamkar et al. 2019, arXiv:1905.12322.
    """

    name = "float"
    bits = 16

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.dtype = kind, KINDS[kind]

    @classmethod
    def like(cls, tensor: Tensor, kind: str = "fp16") -> Short:  # type: ignore[override] # its own spec
        """The map; no number depends on the tensor."""
        if kind not in KINDS:
            raise EditError(str(UnknownName("short float", kind, KINDS)))
        return cls(kind)

    def absorb(self, tensor: Tensor) -> None:
        """Nothing to compute; NaN and infinity are refused."""
        if not torch.isfinite(tensor).all():
            raise EditError("the weight holds NaN or infinity, which no quantizer keeps")

    def forward(self, x: Tensor) -> Tensor:
        return straight(self._short(x.detach()).to(x.dtype), x)

    def encode(self, tensor: Tensor) -> Codes:
        """The numbers' own bits, as 16-bit integers."""
        return Codes(self._short(tensor.detach()).contiguous().view(torch.int16), -(2**15), 2**15 - 1)

    def decode(self, codes: Codes) -> Tensor:
        return codes.values.to(torch.int16).contiguous().view(self.dtype).float()

    def extra_repr(self) -> str:
        return f"kind={self.kind}"

    def _short(self, x: Tensor) -> Tensor:
        largest = torch.finfo(self.dtype).max
        return x.clamp(-largest, largest).to(self.dtype)
