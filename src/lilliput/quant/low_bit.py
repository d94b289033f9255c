"""Networks of few bits by the recipes of their papers: one method, a scheme by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import field
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lilliput.config import config
from lilliput.core.edits import Edit, Map, Swap
from lilliput.core.layers import HOSTS, Mapped
from lilliput.core.maps import Quantizer
from lilliput.core.method import Look, Method
from lilliput.errors import ConfigError, at
from lilliput.quant.clusters import line
from lilliput.quant.schemes import Scheme, schemes
from lilliput.quant.straight import thinned


@config("quant.low_bit")
class LowBit(Method):
    """Put a paper's quantizers on the weights of layers, and on their inputs where the paper has them.

    What each does, with its gradient and its cost, stands at its map: `lilliput.quant.binary`, `signs`, `bases`, `ternary`,
    `powers`, `codebook`, `frequency`. Training goes on through the maps. Nothing gets faster in the runtimes in common use,
    which compute with the floats that the levels stand for, but convolutions of signs by one magnitude a channel in an
    exported `.onnx` (`lilliput.kernels`); the file gets smaller.

    scheme       binaryconnect, bwn, xnor, birealnet, abcnet, horq, irnet, reactnet, twn, ttq, inq, lognet, apot, kmeans,
                 pq or cnnpack
    bits         width of the weights; the paper's by default. 32 leaves weights alone (the first step of two-step training)
    activations  width of the inputs; the paper's by default. 32 leaves inputs alone
    skip         layers that stay real: `first`, `last` (as they run), `shortcuts` (1x1 convolutions with shortcut or downsample
                 in their names), or names and patterns; the paper's choice by default
    options      more options of the weights' map, such as {"start": "density"} for kmeans
    across       kmeans: one codebook for all layers; `quant.centroids` keeps it one while training
    images       how many training images calibrate inputs, for lognet, apot and abcnet

    Layers whose weight (or input) has a quantizer already keep it.
    """

    identity: ClassVar[dict[str, Any]] = {"skip": ("*",)}

    scheme: str = "bwn"
    bits: int | None = None
    activations: int | None = None
    skip: tuple[str, ...] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    across: bool = False
    images: int = 256

    def check(self) -> None:
        """Raise `ConfigError` for options that can never work."""
        row = schemes[self.scheme]
        _check_width("bits", self.bits, (*row.widths, 32), self.scheme)
        _check_width("activations", self.activations, (*row.input_widths, 32), self.scheme)
        if self.across and self.scheme != "kmeans":
            raise ConfigError(f"`across` (=true) is a choice of kmeans, and `scheme` is {self.scheme}")
        if self.across and {"groups", "zero", "codebook"} & set(self.options):
            raise ConfigError("`across` (=true) has one codebook, so `groups`, `zero` and `codebook` are no options")
        if self.images < 1:
            raise ConfigError(f"`images` (={self.images}) must be at least 1")

    def plan(self, model: nn.Module, look: Look) -> list[Edit]:
        """Swaps where the scheme has a layer of its own, and maps."""
        with at(self.name):
            self.check()
            sites = self._sites(model, look)
            book = self._book(model, sites)
            return [edit for site, layer in sites.items() for edit in self._edits(site, layer, book)]

    def refit(self, before: nn.Module, after: nn.Module, look: Look) -> None:
        """Calibrate the maps on inputs whose levels depend on data."""
        found = {site: new for site in self._calibrated(before, after) if (new := _last_input(after, site)) is not None}
        if not found:
            return
        with at(self.name):
            seen = _inputs(before, list(found), look, self.images, f"`scheme` (={self.scheme})")
        for site, each in found.items():
            with at(site), torch.no_grad():
                each.absorb(seen[site])

    def explain(self, model: nn.Module, look: Look) -> dict[str, str]:
        """What stays as it is, each with the reason."""
        with at(self.name):
            real = self._real(model, look)
            taken = {site: "it has a quantizer already" for site, layer in _hosts(model) if not any(self._free(layer))}
            return {**taken, **{site: f"`skip` has `{word}`" for site, word in real.items()}}

    @property
    def _row(self) -> Scheme:
        return schemes[self.scheme]

    @property
    def _widths(self) -> tuple[int, int]:
        row = self._row
        bits = row.bits if self.bits is None else self.bits
        return bits, row.activations if self.activations is None else self.activations

    def _sites(self, model: nn.Module, look: Look) -> dict[str, nn.Module]:
        real = self._real(model, look)
        found = {site: layer for site, layer in _hosts(model) if site not in real and any(self._free(layer))}
        for site, layer in found.items():
            with at(site):
                self._serves(layer)
        return found

    def _free(self, layer: nn.Module) -> tuple[bool, bool]:
        """Whether this method has something to do for the weights of a layer, and for its inputs."""
        bits, activations = self._widths
        has = [any(isinstance(m, Quantizer) for m in getattr(layer, kind, ())) for kind in ("weight_maps", "input_maps")]
        return bits != 32 and not has[0], activations != 32 and not has[1]

    def _serves(self, layer: nn.Module) -> None:
        weight: Any = layer.weight
        if self._row.spatial and (weight.dim() != 4 or weight[0, 0].numel() == 1):
            raise ConfigError(
                f"{self.scheme} serves convolutions with kernels larger than 1x1, and this is a {type(layer).__name__} with a "
                f"weight of {tuple(weight.shape)}. Name it in `skip`"
            )
        if self._row.swap and self._swaps and isinstance(layer, nn.Conv2d) and layer.groups != 1:
            raise ConfigError(
                f"{self.scheme} serves convolutions without groups, and this has {layer.groups}. Name it in `skip`"
            )

    @property
    def _swaps(self) -> bool:
        return self._row.swap is not None and self._widths[1] != 32

    def _real(self, model: nn.Module, look: Look) -> dict[str, str]:
        """The layers that stay as they are, each with the word or pattern that says so."""
        words = self._row.skip if self.skip is None else self.skip
        sites = [site for site, _ in _hosts(model)]
        ran = _order(model, look.example) if {"first", "last"} & set(words) else []
        meant: dict[str, Callable[[str], bool]] = {
            "first": lambda site: site == ran[0],
            "last": lambda site: site == ran[-1],
            "shortcuts": lambda site: _is_shortcut(site, model.get_submodule(site)),
        }
        found: dict[str, str] = {}
        for word in words:
            matches = [s for s in sites if (meant[word](s) if word in meant else fnmatchcase(s, word))]
            if not matches and word not in meant:
                raise ConfigError(f"`skip`: `{word}` matches no layer with weights; they are {', '.join(sites)}")
            found |= {site: word for site in matches if site not in found}
        return found

    def _edits(self, site: str, layer: nn.Module, book: list[float] | None) -> list[Edit]:
        row, (bits, activations), (weights, inputs) = self._row, self._widths, self._free(layer)
        swap = [Swap(site, row.swap)] if self._swaps and inputs and row.swap else []
        place = f"{site}.layer" if swap else site
        edits: list[Edit] = list(swap)
        if weights:
            spec = {**row.spec(layer, bits), **self.options}
            spec |= {"codebook": book} if book is not None else {}
            spec |= {"zero": True} if self.scheme == "kmeans" and _is_masked(layer) and "zero" not in spec else {}
            edits.append(Map(place, "weight", row.weight, spec))
        if inputs and row.input:
            edits.append(Map(place, "input", row.input, row.input_spec(layer, activations)))
        return edits

    def _book(self, model: nn.Module, sites: dict[str, nn.Module]) -> list[float] | None:
        """The shared values of all layers."""
        if not self.across or not sites:
            return None
        with torch.no_grad():
            weights = torch.cat([_weight(layer).flatten() for layer in sites.values()])
        start = [self.options.get("start", "linear"), self.options.get("seed", 0)]
        return [float(value) for value in line(weights, 2 ** self._widths[0], *start)]

    def _calibrated(self, before: nn.Module, after: nn.Module) -> list[str]:
        """Where an input map came that reads its levels off the data."""
        if self._row.input not in ("lognet", "apot", "abcnet_input"):
            return []
        return [s for s, layer in _hosts(after) if _inputs_mapped(layer) > _inputs_mapped(before.get_submodule(s))]


def _check_width(option: str, bits: int | None, widths: tuple[int, ...], scheme: str) -> None:
    if bits is not None and bits not in widths:
        raise ConfigError(
            f"`{option}` (={bits}) is a width that {scheme} does not have; there are {', '.join(map(str, widths))}"
        )


def _hosts(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers that can hold maps."""
    return [(s, m) for s, m in model.named_modules() if s and (type(m) in HOSTS or isinstance(m, Mapped))]


def _weight(layer: nn.Module) -> Tensor:
    return layer.mapped_weight() if isinstance(layer, Mapped) else layer.weight  # type: ignore[return-value]


def _is_masked(layer: nn.Module) -> bool:
    return any(getattr(each, "name", "") == "mask" for each in getattr(layer, "weight_maps", ()))


def _is_shortcut(site: str, layer: nn.Module) -> bool:
    named = any(word in site for word in ("shortcut", "downsample"))
    return named and isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)


def _inputs_mapped(layer: nn.Module) -> int:
    return len(layer.input_maps) if isinstance(layer, Mapped) else 0


def _last_input(model: nn.Module, site: str) -> Any:
    layer: Any = model.get_submodule(site)
    return layer.input_maps[-1] if len(layer.input_maps) else None


def _order(model: nn.Module, example: Tensor) -> list[str]:
    """The layers that can hold maps, in the order in which they first run."""
    ran: dict[str, None] = {}
    probe = copy.deepcopy(model).eval()
    for site, layer in _hosts(probe):
        layer.register_forward_pre_hook(lambda *_, site=site: ran.setdefault(site))
    with torch.no_grad():
        probe(example)
    if not ran:
        raise ConfigError("no convolution or linear layer runs on the example, so none is first or last")
    return list(ran)


def _inputs(model: nn.Module, sites: list[str], look: Look, images: int, who: str) -> dict[str, Tensor]:
    """What layers see of the calibration images, batch by batch; of large ones some."""
    seen: dict[str, list[Tensor]] = {site: [] for site in sites}
    probe = copy.deepcopy(model).eval()
    for site in sites:
        probe.get_submodule(site).register_forward_pre_hook(lambda _, args, site=site: seen[site].append(thinned(args[0])))
    device = next(probe.parameters()).device
    with torch.no_grad():
        for x, _ in look.need_batches(who, images):
            probe(x.to(device))
    return {site: torch.cat(parts) for site, parts in seen.items()}
