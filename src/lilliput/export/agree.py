"""Whether what was written computes what the network computes."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lilliput.core.maps import Quantizer
from lilliput.errors import ExportError
from lilliput.export.targets import distance
from lilliput.kernels import BinaryConv2d, BinaryConvBits, Int4Conv2d
from lilliput.kernels.signs import unpack
from lilliput.measure.latency import evaluating


def agree(model: nn.Module, example: Tensor, found: Sequence[Tensor], what: str = "read back") -> float:
    """The largest difference from what a network computes, over the largest output. Raises `ExportError` if they disagree.

    Without rounding two libraries agree within 1e-4. Where activations are rounded, float sums that end near the middle of two
    levels fall to different sides in different libraries, and in a deep network one such value moves others. That is less than
    rounding itself does, so the outputs may differ by 0.05 and twice what all quantizers of activations change together.
    """
    wanted = outputs(model, example)
    for want, have in zip(wanted, found, strict=True):
        if want.shape != have.shape:
            raise ExportError(f"{what}, an output has the shape {tuple(have.shape)} and not {tuple(want.shape)}")
    plain = unrounded(model)
    limit = 1e-4 if plain is None else 0.05 + 2 * distance(wanted, outputs(plain, example))
    error = distance(wanted, found)
    if not error <= limit:
        raise ExportError(f"{what}, outputs differ by `{error:.3g}` of the largest, and `{limit:.3g}` is allowed")
    return error


def outputs(model: nn.Module, example: Tensor) -> list[Tensor]:
    """What a network computes, in eval mode."""
    with torch.no_grad(), evaluating([model]):
        return [t.detach().cpu() for t in tree_leaves(model(example)) if isinstance(t, Tensor)]


def unrounded(model: nn.Module) -> nn.Module | None:
    """A copy in which activations pass unrounded; None where nothing rounds them."""
    new = copy.deepcopy(model)
    found = [maps for maps in _activation_maps(new) if any(isinstance(each, Quantizer) for each in maps)]
    for maps in found:
        for name, each in list(maps._modules.items()):
            maps._modules[name] = nn.Identity() if isinstance(each, Quantizer) else each
    packed = [(name, m) for name, m in new.named_modules() if isinstance(m, BinaryConv2d | BinaryConvBits | Int4Conv2d)]
    for name, layer in packed:
        if not name:
            return _Unrounded(layer)
        parent, _, child = name.rpartition(".")
        setattr(new.get_submodule(parent), child, _Unrounded(layer))
    return new if found or packed else None


class _Unrounded(nn.Module):
    """A packed convolution of what its signs or bytes are taken from."""

    def __init__(self, layer: BinaryConv2d | BinaryConvBits | Int4Conv2d) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        layer, w = self.layer, self.layer.window
        sums = F.conv2d(self._floats(x), self._weight(), None, w.stride, w.padding, w.dilation, w.groups)
        if isinstance(layer, BinaryConvBits):
            return (sums - layer.least.view(-1, 1, 1)) * (1 - 2 * layer.flip.view(-1, 1, 1).float())
        bias = torch.zeros(()) if layer.bias is None else layer.bias.view(-1, 1, 1)
        return sums * layer.scale.view(-1, 1, 1) + bias

    def _floats(self, x: Tensor) -> Tensor:
        if isinstance(self.layer, Int4Conv2d):
            return x.float() - self.layer.zero if x.dtype == torch.uint8 else x / self.layer.step
        return unpack(x, self.layer.channels) if x.dtype == torch.uint8 else x

    def _weight(self) -> Tensor:
        layer = self.layer
        if isinstance(layer, Int4Conv2d):
            return layer.levels()
        if isinstance(layer, BinaryConv2d):
            return layer.signs()
        inputs = layer.channels // layer.window.groups
        signs = unpack(layer.weight, inputs)
        return signs if layer.mask is None else signs.where(unpack(layer.mask, inputs) > 0, 0)


def _activation_maps(model: nn.Module) -> list[nn.ModuleList]:
    kinds = ("input_maps", "output_maps")
    found = [layer._modules.get(kind) for layer in model.modules() for kind in kinds]
    return [maps for maps in found if isinstance(maps, nn.ModuleList)]
