"""3x3 convolutions whose weights live in the Winograd domain, where they can be pruned and still multiply less."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lilliput.config import config
from lilliput.core.edits import Edit, Swap
from lilliput.core.layers import Compressed, Mapped, swaps
from lilliput.core.method import Look, Method
from lilliput.core.watch import watch
from lilliput.errors import EditError

G = ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0))
B = ((1.0, 0.0, -1.0, 0.0), (0.0, 1.0, 1.0, 0.0), (0.0, -1.0, 1.0, 0.0), (0.0, 1.0, 0.0, -1.0))
A = ((1.0, 1.0, 1.0, 0.0), (0.0, 1.0, -1.0, -1.0))


@swaps.register("winograd")
class Winograd(Compressed):
    """A 3x3 convolution computed tile by tile as F(2x2, 3x3), with weights of the transformed kind as its parameters.

    Y = Aᵀ[U ⊙ V]A,  V = BᵀdB of every 4x4 tile d,  U = GgGᵀ for a dense filter g; with `relu`, V becomes max(V, 0)
    Tiles overlap by two and give 2x2 outputs: 4 multiply-adds an output and pair of channels instead of 9, times the
    density of U. U (out, in, 4, 4) is 16/9 as large as g, and has more freedom: trained or pruned, it stands for a filter
    that differs between the four outputs of a tile. It lies in `product`, an ordinary 1x1 convolution with one group for
    each of the 16 places, so that masks and quantizers stand on it like on any other ("layer.product").
    `relu` moves the ReLU before the layer into the domain, where zeros of V save work; it changes the function, so the
    network is trained afterwards.
    Lavin and Gray 2016, arXiv:1509.09308; Liu et al. 2018, "Efficient sparse-Winograd CNNs", arXiv:1802.06367.
    """

    name = "winograd"

    def __init__(self, layer: nn.Conv2d, padding: tuple[int, int], relu: bool) -> None:
        super().__init__()
        self.inputs, self.outputs, self.padding, self.relu = layer.in_channels, layer.out_channels, padding, relu
        self.product = nn.Conv2d(16 * self.inputs, 16 * self.outputs, 1, groups=16, bias=False, device="meta")
        self.product.weight = nn.Parameter(layer.weight.new_zeros(16 * self.outputs, self.inputs, 1, 1))
        self.bias = None if layer.bias is None else nn.Parameter(torch.zeros_like(layer.bias))

    @classmethod
    def like(cls, dense: nn.Module, relu: bool = False) -> Winograd:  # type: ignore[override] # its own spec
        """The same layer with weights of zero."""
        why = unfit(dense)
        if why is not None:
            raise EditError(f"no Winograd layer stands for it: {why}")
        layer: Any = dense
        padding = (1, 1) if layer.padding == "same" else (0, 0) if layer.padding == "valid" else layer.padding
        return cls(layer, padding, relu)

    @torch.no_grad()
    def absorb(self, dense: nn.Module) -> None:
        """Transform the filters: exact."""
        layer: Any = dense
        weight = layer.mapped_weight() if isinstance(layer, Mapped) else layer.weight
        g = torch.tensor(G, dtype=torch.double, device=weight.device)
        u = torch.einsum("ak,oikl,bl->aboi", g, weight.double(), g)  # (4, 4, out, in)
        self.product.weight.copy_(u.reshape(self.product.weight.shape))
        if self.bias is not None:
            self.bias.copy_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        tall, wide = x.shape[2] + 2 * self.padding[0] - 2, x.shape[3] + 2 * self.padding[1] - 2
        rows, cols = -(-tall // 2), -(-wide // 2)  # tiles
        (top, left), short = self.padding, (2 * rows - tall, 2 * cols - wide)
        x = F.pad(x, (left, left + short[1], top, top + short[0]))
        v = torch.cat(_apart(_apart_rows(x, rows), cols), 1)  # (n, 16·in, rows, cols)
        m = self.product(F.relu(v) if self.relu else v)
        y = _together(list(m.split(self.outputs, 1)))[:, :, :tall, :wide]
        return y if self.bias is None else y + self.bias.view(1, -1, 1, 1)

    def dense(self) -> nn.Module:
        """Ordinary layers that compute the same for inputs of even height and width: a 4x4 convolution of stride 2 that
        makes the four outputs of a tile as channels; with `relu` the transforms are convolutions of their own."""
        inner: Any = self.product
        weight = inner.mapped_weight() if isinstance(inner, Mapped) else inner.weight
        u = weight.detach().view(4, 4, self.outputs, self.inputs)
        a, b = (torch.tensor(t, dtype=u.dtype, device=u.device) for t in (A, B))
        pad = nn.ZeroPad2d((self.padding[1], self.padding[1], self.padding[0], self.padding[0]))
        bias = None if self.bias is None else self.bias.detach().repeat_interleave(4)
        if not self.relu:
            kernel = torch.einsum("pa,qb,aboi,ak,bl->opqikl", a, a, u, b, b)  # (out, 2, 2, in, 4, 4)
            return nn.Sequential(pad, _conv(kernel.reshape(-1, self.inputs, 4, 4), bias, 2, 1), nn.PixelShuffle(2))
        spread = torch.einsum("ak,bl->abkl", b, b).reshape(16, 1, 4, 4)
        to = _conv(spread.repeat(self.inputs, 1, 1, 1), None, 2, self.inputs)  # (in, 16) channels
        mix = torch.einsum("pa,qb,aboi->opqiab", a, a, u).reshape(4 * self.outputs, 16 * self.inputs, 1, 1)
        return nn.Sequential(pad, to, nn.ReLU(), _conv(mix, bias, 1, 1), nn.PixelShuffle(2))

    def extra_repr(self) -> str:
        return f"{self.inputs}, {self.outputs}, padding={self.padding}, relu={self.relu}"


@config("prune.winograd")
class WinogradDomain(Method):
    """Put the weights of 3x3 convolutions into the Winograd domain, where `prune.weights` then prunes them.

    Exact until something is pruned; 2.25 times fewer multiply-adds. Weights pruned before the transform would be zeros no
    longer, which is why pruning comes after. No runtime in common use multiplies sparsely in this domain.

    relu    take the ReLU before a layer into the domain where it is a module of its own that only this layer reads; train
            afterwards, since this changes what the network computes
    skip    patterns of layers that stay as they are
    Liu et al. 2018, arXiv:1802.06367.
    """

    identity: ClassVar[dict[str, Any]] = {"skip": ("*",)}

    relu: bool = False
    skip: tuple[str, ...] = ()

    def plan(self, model: nn.Module, look: Look) -> list[Edit]:
        """A swap for every 3x3 convolution of stride 1 without groups, in which no map stands."""
        sites = [s for s, layer in model.named_modules() if s and unfit(layer) is None and not self._skipped(s)]
        before = _relus(model, look, sites) if self.relu and sites else {}
        edits: list[Edit] = []
        for site in sites:
            if site in before:
                edits.append(Swap(before[site], "identity"))
            edits.append(Swap(site, "winograd", {"relu": True} if site in before else {}))
        return edits

    def _skipped(self, site: str) -> bool:
        return any(fnmatchcase(site, each) for each in self.skip)


def unfit(layer: nn.Module) -> str | None:
    """Why a layer has no Winograd form; None if it has one."""
    if not isinstance(layer, nn.Conv2d):
        return f"it is a `{type(layer).__name__}`"
    if isinstance(layer, Mapped) and (len(layer.weight_maps) or len(layer.input_maps)):
        return "maps stand on its weight or input; transform first, then prune or quantize"
    found = (layer.kernel_size, layer.stride, layer.dilation, layer.groups, layer.padding_mode)
    wanted = ((3, 3), (1, 1), (1, 1), 1, "zeros")
    names = ("kernel_size", "stride", "dilation", "groups", "padding_mode")
    return next((f"`{n}` (={f}) is not {w}" for n, f, w in zip(names, found, wanted, strict=True) if f != w), None)


def _relus(model: nn.Module, look: Look, sites: list[str]) -> dict[str, str]:
    """The ReLU module right before each layer, where nothing else reads what it makes."""
    graph = watch(model, look.example)
    found = {}
    for op in graph.ops:
        maker = graph.makers.get(op.inputs[0]) if op.site in sites and op.kind == "conv" else None
        if maker is None or maker.kind != "relu" or graph.only_reader(op.inputs[0]) is not op:
            continue
        if type(model.get_submodule(maker.site)) is nn.ReLU and graph.times_called[maker.site] == 1:
            found[op.site] = maker.site
    return found


def _apart_rows(x: Tensor, rows: int) -> list[Tensor]:
    """Bᵀd of every tile: four sums of rows, each (n, c, rows, w)."""
    d = [x[:, :, k : k + 2 * rows - 1 : 2] for k in range(4)]
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _apart(parts: list[Tensor], cols: int) -> list[Tensor]:
    """The same for columns: sixteen tensors, (n, c, rows, cols)."""
    found = []
    for part in parts:
        d = [part[:, :, :, k : k + 2 * cols - 1 : 2] for k in range(4)]
        found += [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]
    return found


def _together(m: list[Tensor]) -> Tensor:
    """AᵀMA of every tile, put side by side: (n, out, 2·rows, 2·cols)."""
    half = [[m[k] + m[4 + k] + m[8 + k], m[4 + k] - m[8 + k] - m[12 + k]] for k in range(4)]  # [column][output row]
    lines = []
    for p in range(2):
        c = [half[k][p] for k in range(4)]
        lines.append(torch.stack((c[0] + c[1] + c[2], c[1] - c[2] - c[3]), -1).flatten(3))  # (n, out, rows, 2·cols)
    return torch.stack(lines, 3).flatten(2, 3)


def _conv(kernel: Tensor, bias: Tensor | None, stride: int, groups: int) -> nn.Conv2d:
    """A convolution with these weights."""
    out, each, tall, _ = kernel.shape
    layer = nn.Conv2d(each * groups, out, tall, stride, groups=groups, bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(kernel.contiguous())
    if bias is not None:
        layer.bias = nn.Parameter(bias.clone())
    return layer
