"""Post-training quantization to integers that runtimes compute with."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lilliput.config import config
from lilliput.core.edits import Edit, Map, Swap
from lilliput.core.fold import fold, unfolded
from lilliput.core.method import Batch, Look, Method
from lilliput.core.perform import perform
from lilliput.core.watch import watch
from lilliput.errors import ConfigError, DataError, at
from lilliput.quant.integer import WIDTHS
from lilliput.quant.place import Placement, Spot, place
from lilliput.quant.ranges import Seen, ranges


@config("quant.quantize")
class Quantize(Method):
    """Weights and activations in integers: norms folded, weights per output channel, activations by calibrated ranges, and
    biases in the units of integer kernels, so that runtimes compute what PyTorch shows.

    ŵ = clamp(round(w/s_c))·s_c,   x̂ = (clamp(round(x/s) + z) − z)·s     (quant/integer; places: quant/place)
    bits, activations: widths of weights and activations: 2 to 8, 16, or 32, which leaves them alone. Above 8 nothing runs as
    integers. range: the rule for activations (quant/ranges); weights: "mse" or "max". images: how many calibrate.
    skip: layers that stay in floats, by name or pattern ("layer1.*"). saturation_free: keep 8-bit weights to scales at which
    x86 without VNNI computes exactly (quant/scales); costs at most one bit, in the filters that need it.
    Jacob et al. 2018, arXiv:1712.05877; Krishnamoorthi 2018, arXiv:1806.08342.
    """

    identity: ClassVar[dict[str, Any]] = {"bits": 32, "activations": 32}

    bits: int = 8
    activations: int = 8
    range: str = "mse"
    weights: str = "mse"
    images: int = 256
    skip: tuple[str, ...] = ()
    saturation_free: bool = True

    def check(self) -> None:
        """Widths, rules and numbers that exist."""
        for option, bits in (("bits", self.bits), ("activations", self.activations)):
            if bits not in (*WIDTHS, 32):
                raise ConfigError(f"`{option}` (={bits}) is not a width; there are 2 to 8, 16 and 32 (floats)")
        ranges[self.range]
        if self.weights not in ("max", "mse"):
            raise ConfigError(f"`weights` (={self.weights}) is `max` or `mse`")
        if self.images < 1:
            raise ConfigError(f"`images` (={self.images}) must be at least 1")

    def plan(self, model: nn.Module, look: Look) -> list[Edit]:
        """Folds, weight maps, whole biases, activation maps."""
        with at(self.name):
            self.check()
            if self.bits == 32 and self.activations == 32:
                return []
            folds = fold(model, look.example)
            folded = perform(model, folds)
            found = self._place(folded, look.example)
            if not found.layers:
                return []
            weights = self._weights(folded, found)
            if self.activations == 32:
                return [*folds, *weights]
            seen = self._calibrate(folded, found, look)
            grids = [self._grid([seen[spot] for spot in spots]) for spots in found.spots]
            maps = [Map(s.site, s.tensor, "affine", g) for g, spots in zip(grids, found.spots, strict=True) for s in spots]
            return [*folds, *weights, *self._biases(folded, found, grids), *maps]

    def explain(self, model: nn.Module, look: Look) -> dict[str, str]:
        """What stays in floats, each with the reason."""
        folded = perform(model, fold(model, look.example))
        stays = {site: f"its batch norm stays: {why}" for site, why in unfolded(model, look.example).items()}
        return {**self._place(folded, look.example).floats, **stays}

    def _place(self, folded: nn.Module, example: Tensor) -> Placement:
        sites = [name for name, _ in folded.named_modules()]
        for pattern in self.skip:
            if not any(fnmatchcase(site, pattern) for site in sites):
                raise ConfigError(f"`skip`: no layer is called `{pattern}`")
        return place(folded, watch(folded, example), lambda site: any(fnmatchcase(site, p) for p in self.skip))

    def _weights(self, folded: nn.Module, found: Placement) -> list[Edit]:
        if self.bits == 32:
            return []
        spec: dict[str, Any] = {"bits": self.bits, "axis": 0, "range": self.weights}
        risky = self.saturation_free and self.bits == 8 and self.activations == 8
        pairs = {site: risky and not _is_depthwise(folded.get_submodule(site)) for site in found.layers}
        return [Map(s, "weight", "affine", {**spec, "pairs": True} if pairs[s] else spec) for s in found.layers]

    def _biases(self, folded: nn.Module, found: Placement, grids: list[dict[str, Any]]) -> list[Edit]:
        """Whole biases where weights and inputs are integers that kernels multiply."""
        if max(self.bits, self.activations) > 8:
            return []
        biased = [s for s in found.inputs if s in found.layers and folded.get_submodule(s).bias is not None]
        return [Swap(site, "whole_bias", {"input": grids[found.inputs[site]]["scale"]}) for site in biased]

    def _grid(self, seen: list[Seen]) -> dict[str, Any]:
        """One grid for all of these."""
        spans = [ranges[self.range](each, 2**self.activations) for each in seen]
        return grid(min(low for low, _ in spans), max(high for _, high in spans), self.activations)

    def _calibrate(self, folded: nn.Module, found: Placement, look: Look) -> dict[Spot, Seen]:
        """One pass over the calibration images."""
        seen = {spot: Seen() for spots in found.spots for spot in spots}
        folded.eval()
        for spot, stats in seen.items():
            layer = folded.get_submodule(spot.site)
            if spot.tensor == "input":
                layer.register_forward_pre_hook(lambda _, args, spot=spot, stats=stats: _see(stats, spot, args[0]))
            else:
                layer.register_forward_hook(lambda _, __, out, spot=spot, stats=stats: _see(stats, spot, out))
        device = next(folded.parameters()).device
        with torch.no_grad():
            for x in _first(look.need_batches(self.name), self.images):
                folded(x.to(device))
        return seen


def grid(low: float, high: float, bits: int) -> dict[str, Any]:
    """The spec of an unsigned quantizer that covers low..high and has a level at 0.

    >>> grid(0.0, 25.5, 8)
    {'bits': 8, 'signed': False, 'scale': 0.1, 'zero': 0}
    """
    low, high, last = min(low, 0.0), max(high, 0.0), 2**bits - 1
    scale = torch.tensor((high - low) / last if high > low else 1 / last, dtype=torch.float32).clamp(min=1e-30)
    short = float(str(scale.numpy()))  # the shortest text that names this float32
    return {"bits": bits, "signed": False, "scale": short, "zero": min(last, round(-low / short))}


def _see(stats: Seen, spot: Spot, x: Tensor) -> None:
    with at(spot.site):
        stats.see(spot.seen(x))


def _first(batches: Iterable[Batch], images: int) -> Iterable[Tensor]:
    """As many images, batch by batch. Raises `DataError` if there are none at all."""
    left = images
    for x, _ in batches:
        yield x[:left]
        left -= len(x)
        if left <= 0:
            return
    if left == images:
        raise DataError("no calibration image was given; ranges need at least one")


def _is_depthwise(layer: nn.Module) -> bool:
    """Depthwise convolutions run in a kernel that cannot saturate."""
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels == layer.out_channels
