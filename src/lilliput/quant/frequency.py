"""Kernels in the frequency domain: a shared part for each cluster of kernels, and what is left of each, in few bits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lilliput.core.maps import Codes, maps, take
from lilliput.errors import EditError
from lilliput.quant.clusters import nearest, vectors
from lilliput.quant.schemes import Scheme, schemes, wide
from lilliput.quant.straight import Coded, check_bits

WIDTHS = tuple(range(2, 9))


@maps.register("cnnpack")
class CnnPack(Coded):
    r"""Kernels become a shared and an own part, both whole numbers of steps in the discrete cosine transform.

    q(w) = DCT⁻¹((c_k + r)·s),   r = clip(round(DCT(w)/s) − c_k, −m, m), 0 where |r| < `dead`,   m = 2^(b−1) − 1
    c: K-means of the kernels' transforms, rounded to steps;   s: the largest |DCT(w) − c_k·s| over m
    ∂q/∂w = 1          (straight-through)
    costs b bits a weight (less in a file: most r are 0), log2(K) a kernel and 16 for each number of a center.
    centers: K; less than 256, and than the kernels. dead: 1 drops only what rounds to 0.
    Wang et al. 2016, "CNNpack: packing convolutional neural networks in the frequency domain".
    """

    name = "cnnpack"
    step: Tensor
    centers: Tensor
    index: Tensor

    def __init__(self, bits: int, dead: int, seed: int, centers: Tensor, index: Tensor, step: Tensor) -> None:
        super().__init__()
        self.width, self.dead, self.seed, self.high = bits, dead, seed, 2 ** (bits - 1) - 1
        self.register_buffer("centers", centers)  # K kh kw, in steps
        self.register_buffer("index", index)  # out in: the cluster of each kernel
        self.register_buffer("step", step)

    @classmethod
    def like(  # type: ignore[override] # its own spec
        cls, tensor: Tensor, bits: int = 5, centers: int = 16, dead: int = 1, seed: int = 0
    ) -> CnnPack:
        check_bits(bits, WIDTHS, "cnnpack")
        if tensor.dim() != 4 or tensor[0, 0].numel() == 1:
            raise EditError(
                f"a weight of shape {tuple(tensor.shape)} has no kernels to transform; cnnpack serves larger than 1x1"
            )
        kernels = tensor.shape[0] * tensor.shape[1]
        if not 1 <= centers <= min(kernels, 255):
            raise EditError(f"`centers` (={centers}) is from 1 to {min(kernels, 255)}, for the {kernels} kernels of the layer")
        if not 1 <= dead <= 2 ** (bits - 1) - 1:
            raise EditError(f"`dead` (={dead}) is from 1 to {2 ** (bits - 1) - 1}")
        shared = torch.zeros(centers, *tensor.shape[2:], dtype=torch.int16, device=tensor.device)
        index = torch.zeros(tensor.shape[:2], dtype=torch.uint8, device=tensor.device)
        return cls(bits, dead, seed, shared, index, tensor.new_ones(()))

    @property
    def bits(self) -> float:  # type: ignore[override] # both parts
        """Of one weight, with its share of the kernel's index."""
        return self.width + math.log2(len(self.centers)) / math.prod(self.centers.shape[1:])

    def absorb(self, tensor: Tensor) -> None:
        super().absorb(tensor)
        spectrum = transform(tensor)  # out in kh kw
        points = spectrum.flatten(0, 1).flatten(1)
        centers = vectors(points, len(self.centers), self.seed)
        index = nearest(points, centers)
        largest = float((points - centers[index]).abs().max())
        # Centers round to steps, which moves what is left by up to half of one; and they must fit their 16 bits.
        step = max(largest / max(self.high - 0.5, 1), float(centers.abs().max()) / 32000, 1e-20)
        self.step.fill_(step)
        self.centers = (centers / float(self.step)).round().to(torch.int16).view(self.centers.shape)
        self.index = index.to(torch.uint8).view(self.index.shape)

    def encode(self, tensor: Tensor) -> Codes:
        whole = (transform(tensor.detach()) / self.step.double()).round() - self._shared()
        rest = whole.clamp(-self.high, self.high)
        rest = rest.masked_fill(rest.abs() < self.dead, 0)
        side = {"step": self.step, "centers": self.centers, "index": self.index}
        return Codes(rest.to(torch.int16), -self.high, self.high, side)

    def decode(self, codes: Codes) -> Tensor:
        spectrum = (codes.values.double() + self._shared()) * self.step.double()
        return transform(spectrum, inverse=True).to(self.step.dtype)

    def resize(self, axis: str, keep: Sequence[int], dim: int) -> None:
        self.index = take(self.index, dim, keep)

    def ratio(self, tensor: Tensor) -> float:
        """32 bits a weight over what the paper counts: entropy-coded residuals, an index a kernel, the centers."""
        values = self.encode(tensor).values
        counts = torch.unique(values, return_counts=True)[1].double()
        residuals = float((counts * torch.log2(values.numel() / counts)).sum())
        indices = self.index.numel() * math.log2(len(self.centers))
        return 32 * values.numel() / (residuals + indices + 16 * self.centers.numel() + 32)

    def _shared(self) -> Tensor:
        return self.centers[self.index.long()].double()  # out in kh kw


def transform(kernels: Tensor, inverse: bool = False) -> Tensor:
    """The orthonormal cosine transform of the last two dimensions, in float64: D_h·K·D_wᵀ; its inverse is the transpose."""
    height, width = (_cosines(n).to(kernels.device) for n in kernels.shape[-2:])
    if inverse:
        height, width = height.T, width.T
    return height @ kernels.double() @ width.T


def _cosines(size: int) -> Tensor:
    """D[k, i] = √(2/n)·cos(π(2i + 1)k / 2n), the first row over √2."""
    k, i = torch.arange(size, dtype=torch.float64)[:, None], torch.arange(size, dtype=torch.float64)
    rows = (2 / size) ** 0.5 * torch.cos(math.pi * (2 * i + 1) * k / (2 * size))
    rows[0] /= 2**0.5
    return rows


schemes.add("cnnpack", Scheme("cnnpack", wide, WIDTHS, 5, skip=(), spatial=True))
