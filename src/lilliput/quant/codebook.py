"""Weights that share a few learned values, or vectors of values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lilliput.core.maps import Codes, maps, take
from lilliput.errors import EditError
from lilliput.quant.clusters import STARTS, line, nearest, vectors
from lilliput.quant.schemes import Scheme, schemes, wide
from lilliput.quant.straight import Coded, check_bits

WIDTHS = tuple(range(1, 9))
TRAINS = ("centroids", "both")


@maps.register("kmeans")
class KMeans(Coded):
    r"""Weights become the nearest of K = 2^b shared values.

    q(w) = c_k,   k = argmin |w − c_k|;   c: Lloyd's rounds from `start` (quant/clusters)
    ∂L/∂c_k = Σ_{i in cluster k} g_i;   ∂q/∂w = 0, or 1 where `train` is "both"
    costs b bits a weight plus 32·K for each codebook.
    start: linear, density or random, drawn by `seed`. groups: runs of output channels with a codebook each, 1 for the
    layer. zero: weights that are exactly 0, such as masked ones, stay 0 and take one of the K. codebook: the values
    themselves, as when layers share them. While only centroids learn, `quant.centroids` keeps every weight in its cluster.
    Han et al. 2016, "Deep compression", arXiv:1510.00149.
    """

    name = "kmeans"
    group: Tensor

    def __init__(self, codebook: Tensor, group: Tensor, zero: bool, train: str, start: tuple[str, int] | None) -> None:
        super().__init__()
        self.bits = float(math.log2(codebook.shape[1] + zero))
        self.zero, self.train_weights, self.start = zero, train == "both", start
        self.codebook = nn.Parameter(codebook)  # G K, or G (K − 1) beside zero
        self.register_buffer("group", group, persistent=len(codebook) > 1)

    @classmethod
    def like(  # type: ignore[override] # its own spec
        cls, tensor: Tensor, bits: int = 4, start: str = "linear", seed: int = 0, groups: int = 1, zero: bool = False,
        train: str = "centroids", codebook: Sequence[float] | None = None,
    ) -> KMeans:  # fmt: skip
        check_bits(bits, WIDTHS, "kmeans")
        _check(tensor, bits, start, groups, train)
        count = 2**bits - zero
        if codebook is not None and len(codebook) != count:
            raise EditError(f"`codebook` has {len(codebook)} values, and `bits` (={bits}) make {count}")
        group = torch.arange(len(tensor), dtype=torch.int32, device=tensor.device) * groups // len(tensor)
        given = tensor.new_zeros(count) if codebook is None else tensor.new_tensor(list(codebook))
        return cls(given.repeat(groups, 1), group, zero, train, None if codebook is not None else (start, seed))

    def absorb(self, tensor: Tensor) -> None:
        super().absorb(tensor)
        for group in range(len(self.codebook)) if self.start is not None else ():
            own = tensor[self.group == group]
            own = own[own != 0] if self.zero else own
            if own.numel():
                count = min(self.codebook.shape[1], own.numel())
                found = line(own, count, *(self.start or ()))
                self.codebook.data[group] = torch.cat([found, found[-1:].expand(self.codebook.shape[1] - count)])

    def encode(self, tensor: Tensor) -> Codes:
        w = tensor.detach()
        places = self._place(w, 0) if len(self.codebook) == 1 else self._each(w)
        return Codes(places.to(torch.uint8), 0, self._levels().shape[1] - 1, {"codebook": self.codebook})

    def decode(self, codes: Codes) -> Tensor:
        return self._look_up(codes.values, self._levels().detach())

    def soft(self, x: Tensor) -> Tensor:
        shared = self._look_up(self.encode(x).values, self._levels())
        return shared + x if self.train_weights else shared + 0 * x

    def resize(self, axis: str, keep: Sequence[int], dim: int) -> None:
        if dim == 0:
            self.group = take(self.group, 0, keep)

    def members(self, tensor: Tensor) -> Tensor:
        """The cluster of each weight, of the whole layer's."""
        return self.encode(tensor).values

    def _levels(self) -> Tensor:
        """The values of each group, G K."""
        book = self.codebook
        return torch.cat([book.new_zeros(len(book), 1), book], 1) if self.zero else book

    def _look_up(self, places: Tensor, levels: Tensor) -> Tensor:
        group = self.group.long().view(-1, *[1] * (places.dim() - 1)) if len(levels) > 1 else 0
        return levels[group, places.long()]

    def _each(self, w: Tensor) -> Tensor:
        places = torch.zeros(w.shape, dtype=torch.long, device=w.device)
        for group in range(len(self.codebook)):
            own = self.group == group
            places[own] = self._place(w[own], group)
        return places

    def _place(self, w: Tensor, group: int) -> Tensor:
        book, order = self.codebook.detach()[group].sort()
        # The middle of two neighbouring floats rounds to one of them; it must not be the upper one, which would be lost.
        middles = torch.minimum(book[:-1] + (book[1:] - book[:-1]) / 2, torch.nextafter(book[1:], book.new_tensor(-math.inf)))
        places = order[torch.bucketize(w.contiguous(), middles)]
        return torch.where(w == 0, 0, places + 1) if self.zero else places


@maps.register("pq")
class ProductCodebook(Coded):
    r"""Runs of d weights of a filter become the nearest of K shared vectors: product quantization.

    q(v) = c_k,   k = argmin ‖v − c_k‖,   v: d consecutive weights; a whole kernel where d = kh·kw
    ∂L/∂c_k = Σ_{v in cluster k} g_v;   ∂q/∂w = 0, or 1 where `train` is "both"
    costs log2(K)/d bits a weight plus 32·K·d for the codebook. The code of a vector is its index in digits of as many bits
    as are needed, one a weight, so that codes have the shape of the weight.
    size: d, by default the kernel, and 4 for 1x1 kernels and linear layers. centroids: K, a power of two.
    Gong et al. 2014, arXiv:1412.6115; Wu et al. 2016, arXiv:1512.06473.
    """

    name = "pq"

    def __init__(self, codebook: Tensor, train: str, seed: int) -> None:
        super().__init__()
        count, self.size = codebook.shape
        self.bits = math.log2(count) / self.size
        self.digit = math.ceil(math.log2(count) / self.size)
        self.train_weights, self.seed = train == "both", seed
        self.codebook = nn.Parameter(codebook)

    @classmethod
    def like(  # type: ignore[override] # its own spec
        cls, tensor: Tensor, size: int | None = None, centroids: int = 64, seed: int = 0, train: str = "centroids"
    ) -> ProductCodebook:
        filter = tensor[0].numel()
        size = vector_size(tensor.shape) if size is None else size
        if size < 1 or filter % size:
            fits = [d for d in range(1, filter + 1) if filter % d == 0]
            raise EditError(f"`size` (={size}) does not divide the {filter} weights of a filter; {_few(fits)} do")
        if centroids < 2 or centroids & (centroids - 1):
            raise EditError(f"`centroids` (={centroids}) is a power of two from 2 on")
        if centroids * size > tensor.numel():
            most = 2 ** int(math.log2(max(tensor.numel() // size, 2)))
            raise EditError(
                f"`centroids` (={centroids}) are more than the {tensor.numel() // size} vectors of the layer; take {most}"
            )
        _check_train(train)
        return cls(tensor.new_zeros(centroids, size), train, seed)

    def absorb(self, tensor: Tensor) -> None:
        super().absorb(tensor)
        self.codebook.data = vectors(tensor.reshape(-1, self.size), len(self.codebook), self.seed).to(tensor.dtype)

    def encode(self, tensor: Tensor) -> Codes:
        index = self.members(tensor)[:, None]  # n/d 1
        digits = (index >> self._shifts(index.device)) & (2**self.digit - 1)  # n/d d
        return Codes(digits.reshape(tensor.shape).to(torch.int16), 0, 2**self.digit - 1, {"codebook": self.codebook})

    def decode(self, codes: Codes) -> Tensor:
        digits = codes.values.long().reshape(-1, self.size)
        index = (digits << self._shifts(digits.device)).sum(1).clamp(0, len(self.codebook) - 1)
        return self.codebook.detach()[index].reshape(codes.values.shape)

    def soft(self, x: Tensor) -> Tensor:
        shared = self.codebook[self.members(x)].reshape(x.shape)
        return shared + x if self.train_weights else shared + 0 * x

    def members(self, tensor: Tensor) -> Tensor:
        """The cluster of each vector."""
        return nearest(tensor.detach().reshape(-1, self.size), self.codebook.detach())

    def _shifts(self, device: torch.device) -> Tensor:
        """How far each digit lies from the lowest; beyond an index's bits there is only 0."""
        return (self.digit * torch.arange(self.size, device=device)).clamp(max=31)


def vector_size(shape: Sequence[int]) -> int:
    """The kernel of a convolution; 4 weights, or what divides a filter, elsewhere.

    >>> vector_size((64, 32, 3, 3)), vector_size((10, 64)), vector_size((10, 6))
    (9, 4, 2)
    """
    kernel = math.prod(shape[2:])
    return kernel if kernel > 1 else math.gcd(4, math.prod(shape[1:]))


def _check(tensor: Tensor, bits: int, start: str, groups: int, train: str) -> None:
    if start not in STARTS:
        raise EditError(f"`start` (={start}) is one of {', '.join(STARTS)}")
    _check_train(train)
    if not 1 <= groups <= len(tensor):
        raise EditError(f"`groups` (={groups}) is from 1 to the {len(tensor)} output channels of the layer")
    smallest = len(tensor) // groups * tensor[0].numel()
    if 2**bits > smallest:
        most = int(math.log2(smallest))
        raise EditError(f"`bits` (={bits}) make {2**bits} values for the {smallest} weights of a group; take at most {most}")


def _check_train(train: str) -> None:
    if train not in TRAINS:
        raise EditError(f"`train` (={train}) is one of {', '.join(TRAINS)}")


def _few(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:8]))


def _vector_spec(layer: nn.Module, bits: int) -> dict[str, Any]:
    """As many vectors as the layer can share eight ways each, at most 256."""
    weight: Any = layer.weight
    count = weight.numel() // vector_size(weight.shape)
    return {"centroids": 2 ** max(1, min(8, int(math.log2(max(count / 8, 2)))))}


schemes.add("kmeans", Scheme("kmeans", wide, WIDTHS, 4, skip=()))
schemes.add("pq", Scheme("pq", _vector_spec, (), 0, skip=()))
