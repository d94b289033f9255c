"""Quantization of a whole network: to integers that runtimes compute with, by calibration or as a start for training."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import field
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lilliput.config import config
from lilliput.core.edits import Edit, Map, Swap
from lilliput.core.fold import fold, unfolded
from lilliput.core.method import Look, Method
from lilliput.core.perform import perform
from lilliput.core.record import edits
from lilliput.core.watch import watch
from lilliput.errors import ConfigError, at
from lilliput.quant.blocks import blocks, reconstruct_blocks
from lilliput.quant.calibrate import calibrate, first, together
from lilliput.quant.floats import KINDS
from lilliput.quant.integer import WIDTHS
from lilliput.quant.place import Placement, Spot, place
from lilliput.quant.ranges import Seen, ranges
from lilliput.quant.reconstruct import reconstruct
from lilliput.quant.rounding import roundings
from lilliput.quant.synthesize import synthesize

GRADIENTS = range(2, 9)
BRIEF = 10  # binary digits of an activation's scale where files are to be small: biases stay whole numbers of a few bits
FORMS = {
    "none": ("affine", "affine"), "lsq": ("lsq", "lsq"), "lsq+": ("lsq", "lsq+"), "pact": ("dorefa", "pact"),
    "syq": ("syq", "lsq"), "dorefa": ("dorefa", "dorefa_clip"),
}  # fmt: skip
"""The maps of weights and of activations, by what is to be learned."""


@config("quant.quantize")
class Quantize(Method):
    """Weights and activations in integers: norms folded, weights per output channel, activations by calibrated ranges, and
    biases in the units of integer kernels, so that runtimes compute what PyTorch shows.

    ŵ = clamp(round(w/s_c))·s_c,   x̂ = (clamp(round(x/s) + z) − z)·s     (quant/integer; places: quant/place)
    bits, activations: widths of weights and activations: 2 to 8, 16, or 32, which leaves them alone; or fp16 and bf16.
    Above 8 nothing runs as integers. widths, input_widths: other widths of the weights and inputs of some layers, by pattern;
    sums: the width of what additions and means read, where it is another than `activations`: layers then quantize it once more.
    range: the rule for activations (quant/ranges); weights: "mse", "max" or "power", for small files (biases too
    then stay whole numbers of few bits); scales: one a "channel" or one a "tensor".
    round: "nearest", "descent", "adaround" (quant/rounding) or "block" (quant/blocks); correct: biases by what the float
    network says (quant/reconstruct). images: how many calibrate; source: "data", or "norms", which needs none (synthesize).
    learn: quantizers that training goes on with: "lsq", "lsq+", "pact", "syq", "dorefa"; gradients: the width of gradients in
    training; rounding: "stochastic" rounds weights by chance in training; norms: "fold", or "keep" until `quant.Fold`.
    skip: layers that stay in floats, by name or pattern ("layer1.*"). saturation_free: keep 8-bit weights to scales at which
    x86 without VNNI computes exactly (quant/scales); costs at most one bit, in the filters that need it.
    Jacob et al. 2018, arXiv:1712.05877; Krishnamoorthi 2018, arXiv:1806.08342.
    """

    identity: ClassVar[dict[str, Any]] = {"bits": 32, "activations": 32, "gradients": 32, "widths": {}, "input_widths": {}}

    bits: int | str = 8
    activations: int | str = 8
    range: str = "mse"
    weights: str = "mse"
    images: int = 256
    skip: tuple[str, ...] = ()
    saturation_free: bool = True
    scales: str = "channel"
    round: str = "nearest"
    correct: bool = False
    source: str = "data"
    learn: str = "none"
    gradients: int = 32
    rounding: str = "nearest"
    norms: str = "fold"
    widths: dict[str, int] = field(default_factory=dict)
    input_widths: dict[str, int] = field(default_factory=dict)
    sums: int = 0

    def check(self) -> None:
        """Widths, rules and numbers that exist."""
        self._check_widths()
        ranges[self.range]
        known = {"weights": ("max", "mse", "power"), "scales": ("channel", "tensor"), "round": ("nearest", *roundings, "block"),
                 "source": ("data", "norms"), "learn": tuple(FORMS), "rounding": ("nearest", "stochastic"),
                 "norms": ("fold", "keep")}  # fmt: skip
        for option, words in known.items():
            if (word := getattr(self, option)) not in words:
                raise ConfigError(f"`{option}` (={word}) is one of {', '.join(words)}")
        if self.images < 1:
            raise ConfigError(f"`images` (={self.images}) must be at least 1")
        if self.round != "nearest" and self.learn != "none":
            raise ConfigError(
                f"`round` (={self.round}) chooses codes for good, and `learn` (={self.learn}) learns them; use one"
            )

    def _check_widths(self) -> None:
        lowest = 1 if self.learn == "dorefa" else 2
        for option, bits in (("bits", self.bits), ("activations", self.activations)):
            if bits not in (*WIDTHS, 32, *KINDS) and not (option == "bits" and bits == lowest):
                raise ConfigError(f"`{option}` (={bits}) is not a width; there are 2 to 8, 16, 32 (floats), fp16 and bf16")
        for option, given in (("widths", self.widths), ("input_widths", self.input_widths)):
            for pattern, bits in given.items():
                if bits not in (*WIDTHS, 32):
                    raise ConfigError(f"`{option}`: `{pattern}` (={bits}) is not a width; there are 2 to 8, 16 and 32 (floats)")
        if self.sums not in (0, *WIDTHS, 32):
            raise ConfigError(
                f"`sums` (={self.sums}) is not a width; there are 2 to 8, 16 and 32 (floats), and 0 for `activations`"
            )
        if self.gradients not in (*GRADIENTS, 32):
            raise ConfigError(f"`gradients` (={self.gradients}) is not a width; there are 2 to 8 and 32 (floats)")

    def plan(self, model: nn.Module, look: Look) -> list[Edit]:
        """Folds, weight maps, whole biases, activation maps."""
        with at(self.name):
            self.check()
            if self.bits == self.activations == self.gradients == 32 and not (self.widths or self.input_widths):
                return []
            folds = fold(model, look.example)
            folded = perform(model, folds)
            found = self._place(folded, look.example)
            if not found.layers:
                return []
            if self.norms == "keep":
                folded, found, folds = perform(model, ()), _behind_norms(found, folds), []
            weights = [*self._weights(folded, found), *self._gradients(found)]
            widths = self._input_widths(found)
            if all(bits == 32 for bits in widths):
                return [*folds, *weights]
            images = partial(self._images, model, look)
            grids = self._grids(folded, found, widths, images)
            maps = [Map(s.site, s.tensor, *g) for g, spots in zip(grids, found.spots, strict=True) if g for s in spots]
            return [*folds, *weights, *self._biases(folded, found, grids), *maps]

    def refit(self, before: nn.Module, after: nn.Module, look: Look) -> None:
        """Choose roundings and correct biases, where that is asked for."""
        new = edits(after)[len(edits(before)) :]
        weights = [e.site for e in new if isinstance(e, Map) and e.tensor == "weight" and e.map == "affine"]
        if not weights or (self.round == "nearest" and not self.correct):
            return
        steps = {e.site: e.spec["input"] for e in new if isinstance(e, Swap) and e.layer == "whole_bias"}
        folds = [e for e in new if isinstance(e, Swap) and e.layer in ("folded", "identity")]
        with at(self.name):
            reference = perform(before, folds)
            images = together(self._images(before, look), next(after.parameters()).device)
            was, rest = after.training, {site: steps.get(site) for site in weights}
            if self.round == "block":
                found = blocks(after, look.example, weights)
                rest = {s: step for s, step in rest.items() if not any(s in sites for sites in found.values())}
            reconstruct(reference, after, rest, images, round={"block": "adaround"}.get(self.round, self.round), seed=look.seed)
            if self.round == "block":
                reconstruct_blocks(reference, after, found, images, look.seed)
            after.train(was)

    def explain(self, model: nn.Module, look: Look) -> dict[str, str]:
        """What stays in floats, each with the reason."""
        folded = perform(model, fold(model, look.example))
        stays = {site: f"its batch norm stays: {why}" for site, why in unfolded(model, look.example).items()}
        return {**self._place(folded, look.example).floats, **stays}

    def _place(self, folded: nn.Module, example: Tensor) -> Placement:
        sites = [name for name, _ in folded.named_modules()]
        for option in ("skip", "widths", "input_widths"):
            for pattern in getattr(self, option):
                if not any(fnmatchcase(site, pattern) for site in sites):
                    raise ConfigError(f"`{option}`: no layer is called `{pattern}`")
        apart = self.sums not in (0, self.activations)
        return place(folded, watch(folded, example), lambda site: any(fnmatchcase(site, p) for p in self.skip), apart)

    def _images(self, model: nn.Module, look: Look) -> list[Tensor]:
        if self.source == "norms":
            return synthesize(model, look.example, self.images, look.seed)
        return list(first(look.need_batches(self.name), self.images))

    def _weights(self, folded: nn.Module, found: Placement) -> list[Edit]:
        made: list[Edit] = []
        for site in found.layers:
            bits = _width(self.widths, site, self.bits)
            if bits in KINDS:
                made.append(Map(site, "weight", "float", {"kind": bits}))
            elif bits != 32:
                made.append(Map(site, "weight", FORMS[self.learn][0], self._spec(folded.get_submodule(site), bits)))
        return made

    def _spec(self, layer: nn.Module, bits: int | str) -> dict[str, Any]:
        """The spec of a weight's quantizer."""
        form = FORMS[self.learn][0]
        if form in ("dorefa", "syq"):
            return {"bits": bits}
        spec = {"bits": bits, "axis": 0 if self.scales == "channel" else None, "range": self.weights}
        if form == "affine" and self.rounding == "stochastic":
            spec["rounding"] = self.rounding
        risky = form == "affine" and self.saturation_free and bits == self.activations == 8 and not _is_depthwise(layer)
        return {**spec, "pairs": True} if risky else spec

    def _gradients(self, found: Placement) -> list[Edit]:
        if self.gradients == 32:
            return []
        return [Map(site, "output", "dorefa_gradient", {"bits": self.gradients}) for site in found.layers]

    def _input_widths(self, found: Placement) -> list[int | str]:
        """The width of each grid: that of its readers where all of them have one of their own."""
        readers: dict[int, list[str]] = {}
        for site, number in found.inputs.items():
            readers.setdefault(number, []).append(site)
        made: list[int | str] = []
        for number, _ in enumerate(found.spots):
            if number in found.sums:
                made.append(self.sums)
                continue
            own = [_width(self.input_widths, site, "") for site in readers.get(number, [])]
            made.append(max(w for w in own if isinstance(w, int)) if own and all(own) else self.activations)
        return made

    def _grids(
        self, folded: nn.Module, found: Placement, widths: list[int | str], images: Callable[[], list[Tensor]]
    ) -> list[tuple[str, dict[str, Any]] | None]:
        """The map and the spec of each grid."""
        wanted = [spot for spots, bits in zip(found.spots, widths, strict=True) if isinstance(bits, int) for spot in spots]
        seen = calibrate(folded, wanted, images()) if wanted else {}
        return [
            self._grid([seen[s] for s in spots if s in seen], bits) for spots, bits in zip(found.spots, widths, strict=True)
        ]

    def _grid(self, seen: list[Seen], bits: int | str) -> tuple[str, dict[str, Any]] | None:
        """One grid for all of these."""
        if not isinstance(bits, int):
            return "float", {"kind": bits}
        if bits == 32:
            return None
        spans = [ranges[self.range](each, 2**bits) for each in seen]
        digits = BRIEF if self.weights == "power" else 24
        return FORMS[self.learn][1], grid(min(low for low, _ in spans), max(high for _, high in spans), bits, digits)

    def _biases(self, folded: nn.Module, found: Placement, grids: list[Any]) -> list[Edit]:
        """Whole biases where weights and inputs are integers that kernels multiply."""
        if self.norms == "keep" or self.learn != "none":
            return []
        made: list[Edit] = []
        for site, number in found.inputs.items():
            spec = grids[number][1] if grids[number] else {}
            whole = [_width(self.widths, site, self.bits), spec.get("bits", 32)]
            if site in found.layers and all(isinstance(b, int) and b <= 8 for b in whole):
                if folded.get_submodule(site).bias is not None:
                    made.append(Swap(site, "whole_bias", {"input": spec["scale"]}))
        return made


def grid(low: float, high: float, bits: int, digits: int = 24) -> dict[str, Any]:
    """The spec of an unsigned quantizer that covers low..high and has a level at 0, its scale of so many binary digits.

    >>> grid(0.0, 25.5, 8)
    {'bits': 8, 'signed': False, 'scale': 0.1, 'zero': 0}
    """
    low, high, last = min(low, 0.0), max(high, 0.0), 2**bits - 1
    mantissa, exponent = math.frexp(max((high - low) / last if high > low else 1 / last, 1e-30))
    if digits < 24:  # rounded up, so that the range is still covered
        mantissa = math.ceil(math.ldexp(mantissa, digits)) / 2**digits
    scale = torch.tensor(math.ldexp(mantissa, exponent), dtype=torch.float32)
    short = float(str(scale.numpy()))  # the shortest text that names this float32
    return {"bits": bits, "signed": False, "scale": short, "zero": min(last, round(-low / short))}


def _width(given: dict[str, int], site: str, otherwise: int | str) -> int | str:
    """The width a pattern gives a layer; the last one that fits."""
    found = [bits for pattern, bits in given.items() if fnmatchcase(site, pattern)]
    return found[-1] if found else otherwise


def _behind_norms(found: Placement, folds: list[Edit]) -> Placement:
    """The same places in the network with its norms: what stood on a layer's output stands behind its norm."""
    norms = {e.site: e.spec["norm"] for e in folds if isinstance(e, Swap) and e.layer == "folded"}
    moved = [
        tuple(Spot(norms.get(s.site, s.site) if s.tensor == "output" else s.site, s.tensor, s.limit) for s in spots)
        for spots in found.spots
    ]
    return Placement(found.layers, moved, found.inputs, found.sums, found.floats)


def _is_depthwise(layer: nn.Module) -> bool:
    """Depthwise convolutions run in a kernel that cannot saturate."""
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels == layer.out_channels
