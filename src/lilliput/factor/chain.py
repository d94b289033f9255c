"""The base of every factorization: ordinary convolutions that run one after the other where a dense layer stood."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lilliput.core.edits import Edit, Swap
from lilliput.core.layers import Compressed, Mapped, swaps
from lilliput.errors import EditError
from lilliput.factor.shape import Link, Pair, Shape, macs, shape, why_not
from lilliput.factor.vbmf import vbmf_rank

Ranks = tuple[int, ...]
NOT_FINITE = "its weight has numbers that are infinite or none at all (NaN), and no decomposition"


@dataclass(frozen=True)
class Mode:
    """One rank of a form: the energies it can keep, largest first, and the matrix they are measured on."""

    energies: Tensor
    rows: int
    columns: int


class Chain(Compressed):
    """A layer as a chain of ordinary convolutions (or linear layers), the bias in the last.

    A decomposition says which links it has (`links`), how large its ranks can be (`largest`), what each rank keeps
    (`modes`) and how the links get their weights (`factor`). The children are plain `nn.Conv2d` and `nn.Linear`, so that
    pruning, quantization, profile and export see nothing new.
    """

    only_reads = True
    rank_names: ClassVar[tuple[str, ...]] = ("rank",)
    options: ClassVar[dict[str, Any]] = {}
    whitens: ClassVar[bool] = True  # whether scaling inputs before and back after is of use

    def __init__(self, seen: Shape, links: Sequence[Link], options: dict[str, Any], dense: Any) -> None:
        super().__init__()
        self.seen, self.links_made, self.chosen = seen, tuple(links), options
        weight = tensor_of(dense)
        for link in links:
            bias = link is links[-1] and has_bias(dense)
            self.add_module(link.name, _child(seen, link, bias, weight))

    # --- what a decomposition says ----------------------------------------------------------------------------------

    @classmethod
    def refuses(cls, seen: Shape, **options: Any) -> str | None:
        """Why this form cannot stand in for a layer of that shape; None if it can."""
        return None

    @classmethod
    def largest(cls, seen: Shape, **options: Any) -> Ranks:
        """The largest ranks, at which nothing is lost."""
        raise NotImplementedError

    @classmethod
    def links(cls, seen: Shape, ranks: Ranks, **options: Any) -> list[Link]:
        """The chain, first link first."""
        raise NotImplementedError

    @classmethod
    def modes(cls, weight: Tensor, **options: Any) -> list[Mode]:
        """What each rank keeps of a weight (n, c, kh, kw)."""
        raise NotImplementedError

    @classmethod
    def standing_out(cls, weight: Tensor, modes: Sequence[Mode], **options: Any) -> list[int]:
        """The ranks that stand out of noise (factor/vbmf), one for each mode."""
        return [vbmf_rank(mode.energies, mode.rows, mode.columns) for mode in modes]

    @classmethod
    def price(cls, seen: Shape, ranks: Ranks, sizes: Sequence[Pair], **options: Any) -> tuple[int, int]:
        """Multiply-adds on inputs of these sizes, and weights."""
        links = cls.links(seen, ranks, **options)
        return macs(links, sizes), sum(link.params for link in links)

    @classmethod
    def edits(cls, site: str, spec: dict[str, Any]) -> list[Edit]:
        """What puts this form at a site."""
        return [Swap(site, cls.name, spec)]

    def factor(self, weight: Tensor) -> dict[str, Tensor]:
        """Weights of the links by name, from the dense weight (n, c, kh, kw) on the CPU."""
        raise NotImplementedError

    # --- what follows from it ---------------------------------------------------------------------------------------

    @classmethod
    def like(cls, dense: nn.Module, rank: int | Sequence[int] = 1, **spec: Any) -> nn.Module:
        """The chain for a dense layer, or for another chain, whose kernel is then decomposed anew.

        Raises `EditError` for a rank below 1 or above the largest, and for a layer the form cannot serve.
        """
        options = {**cls.options, **spec}
        for name in spec:
            if name not in cls.options:
                raise EditError(f"`{cls.name}` has no option `{name}`; it has {', '.join(('rank', *cls.options))}")
        seen = outside(dense)
        if (reason := cls.refuses(seen, **options)) is not None:
            raise EditError(f"`{cls.name}` cannot serve it: {reason}")
        ranks = cls.ranks(seen, rank, **options)
        made = cls(seen, cls.links(seen, ranks, **options), options, dense)
        made.ranks_made = ranks
        return made

    ranks_made: Ranks

    @classmethod
    def ranks(cls, seen: Shape, rank: int | Sequence[int], **options: Any) -> Ranks:
        """Checked ranks. Raises `EditError` that names the largest."""
        largest = cls.largest(seen, **options)
        given = (rank,) * len(largest) if isinstance(rank, int) and len(largest) == 1 else rank
        if not isinstance(given, list | tuple) or len(given) != len(largest) or any(type(r) is not int for r in given):
            raise EditError(f"`{cls.name}` has the ranks {', '.join(cls.rank_names)}; `{rank}` does not give them")
        for name, value, most in zip(cls.rank_names, given, largest, strict=True):
            if value < 1:
                raise EditError(f"`{name}` (={value}) must be at least 1; the largest for this layer is {most}")
            if value > most:
                raise EditError(f"`{name}` (={value}) exceeds the layer's largest rank (={most}). Take a number up to {most}.")
        return tuple(given)

    def absorb(self, dense: nn.Module) -> None:
        """The closest weights of this form; the bias moves to the last link."""
        self.fill(kernel(dense).detach().cpu())
        bias = dense.bias_now() if isinstance(dense, Chain) else dense.bias
        if bias is not None:
            with torch.no_grad():
                self.last.bias.copy_(bias)

    def fill(self, weight: Tensor) -> None:
        """Give the links the weights that approximate `weight`, (n, c, kh, kw). Raises `EditError` if that is not finite."""
        if not finite(weight):
            raise EditError(NOT_FINITE)
        with torch.no_grad():
            for name, value in self.factor(weight).items():
                target: Any = self.get_submodule(name).weight
                target.copy_(value.reshape(target.shape))

    @property
    def chain(self) -> list[Any]:
        """The convolutions or linear layers, first to last."""
        return [self.get_submodule(link.name) for link in self.links_made]

    @property
    def last(self) -> Any:
        """The link with the bias."""
        return self.chain[-1]

    def bias_now(self) -> Tensor | None:
        """The bias of the layer."""
        found: Tensor | None = self.last.bias
        return found

    def beside(self, x: Tensor) -> Tensor | None:
        """What is added to the last link's output, if the chain has a branch."""
        return None

    def forward(self, x: Tensor) -> Tensor:
        """One link after the other."""
        for link in self.links_made:
            x = self.get_submodule(link.name)(x)
        return x

    def kernel(self) -> Tensor:
        """The weight of the dense layer this chain computes, (n, c, kh, kw)."""
        made: Tensor | None = None
        for child in self.chain:
            weight = spread(child)
            made = weight if made is None else compose(weight, made)
        assert made is not None
        return made

    def dense(self) -> nn.Module:
        """The ordinary layer with the same function, on any device, "meta" included."""
        weight, bias, seen = self.kernel(), self.bias_now(), self.seen
        layer: Any
        if seen.linear:
            layer = _empty(nn.Linear, weight, weight.shape[1], weight.shape[0], bias is not None)
        else:
            layer = _empty(
                nn.Conv2d, weight, weight.shape[1], weight.shape[0], seen.kernel, seen.stride, seen.padding, seen.dilation, 1,
                bias is not None, seen.padding_mode,
            )  # fmt: skip
        with torch.no_grad():
            layer.weight.copy_(weight.reshape(layer.weight.shape))
            if bias is not None:
                layer.bias.copy_(bias)
        return layer.train(self.training)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """The ranks."""
        return ", ".join(f"{k}={v}" for k, v in [*zip(self.rank_names, self.ranks_made, strict=True), *self.chosen.items()])


def outside(layer: nn.Module) -> Shape:
    """What a dense layer or a chain looks like from outside. Raises `EditError` for anything else, with the reason."""
    if isinstance(layer, Chain):
        if any(isinstance(child, Mapped) for child in layer.chain):
            raise EditError("weights of its links pass through maps; bake the model first")
        first, last = layer.chain[0], layer.chain[-1]
        if isinstance(first, nn.Linear):
            return replace(layer.seen, inputs=first.in_features, outputs=last.out_features)
        return replace(layer.seen, inputs=first.in_channels, outputs=last.out_channels)
    if (reason := why_not(layer)) is not None:
        raise EditError(reason)
    return shape(layer)


def kernel(layer: Any) -> Tensor:
    """The weight of a dense layer or of a chain as (n, c, kh, kw)."""
    weight: Tensor = layer.kernel() if isinstance(layer, Chain) else layer.weight
    return weight.reshape(*weight.shape[:2], *(weight.shape[2:] or (1, 1)))


def finite(weight: Tensor) -> bool:
    """Whether all numbers are: their sum is not if one of them is not."""
    return math.isfinite(float(weight.sum()))


def tensor_of(layer: Any) -> Tensor:
    """A weight that tells type, device and whether it is trained."""
    found: Tensor = layer.chain[0].weight if isinstance(layer, Chain) else layer.weight
    return found


def has_bias(layer: Any) -> bool:
    """Whether a dense layer or a chain adds a bias."""
    return (layer.bias_now() if isinstance(layer, Chain) else layer.bias) is not None


def spread(child: Any) -> Tensor:
    """The weight of a link as that of an ungrouped convolution, (out, in, kh, kw)."""
    weight: Tensor = child.mapped_weight() if isinstance(child, Mapped) else child.weight
    if weight.dim() == 2:
        return weight[:, :, None, None]
    if child.groups == 1:
        return weight
    outputs, inputs = len(weight) // child.groups, weight.shape[1]
    whole = weight.new_zeros(len(weight), inputs * child.groups, *weight.shape[2:])
    for g in range(child.groups):
        whole[g * outputs : (g + 1) * outputs, g * inputs : (g + 1) * inputs] = weight[g * outputs : (g + 1) * outputs]
    return whole


def compose(second: Tensor, first: Tensor) -> Tensor:
    """The kernel of `second` after `first`, where in each direction at most one of them is wider than 1."""
    made = torch.einsum("nryx,rcvu->ncyvxu", second, first)
    n, c, *sides = made.shape
    return made.reshape(n, c, sides[0] * sides[1], sides[2] * sides[3])


def _child(seen: Shape, link: Link, bias: bool, weight: Tensor) -> nn.Module:
    """An empty layer for a link, of the dense layer's type, device and readiness to be trained."""
    if seen.linear:
        return _empty(nn.Linear, weight, link.inputs, link.outputs, bias)
    return _empty(
        nn.Conv2d, weight, link.inputs, link.outputs, link.kernel, link.stride, link.padding, link.dilation, link.groups,
        bias, seen.padding_mode,
    )  # fmt: skip


def _empty(kind: type[nn.Module], weight: Tensor, *options: Any) -> nn.Module:
    """Made on the meta device first, so that no random number is drawn; then zeros."""
    layer = kind(*options, device="meta", dtype=weight.dtype)
    if not weight.is_meta:
        layer = layer.to_empty(device=weight.device)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.zero_()
    return layer.requires_grad_(weight.requires_grad)


forms: dict[str, type[Chain]] = {}
"""Decompositions by name: those of the swaps that `lilliput.factor` may choose from."""


def form(cls: type[Chain]) -> type[Chain]:
    """Register a decomposition as a swap and as a choice of `factor.factorize`."""
    forms[cls.name] = cls
    swaps.add(cls.name, cls)
    return cls


def spec_of(ranks: Ranks, options: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The spec of a swap: one number or a list, and the options that differ from their defaults."""
    rank: int | list[int] = ranks[0] if len(ranks) == 1 else list(ranks)
    return {"rank": rank, **{k: v for k, v in options.items() if v != defaults[k]}}
