"""Single weights go, or small groups of them; the layers keep their shapes and hold zeros."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lilliput.config import config
from lilliput.core.edits import Edit, Map
from lilliput.core.layers import Mapped
from lilliput.core.method import Look, Method
from lilliput.errors import ConfigError, at
from lilliput.prune import obs
from lilliput.prune.masks import Mask, hosts, mask, masks, settle
from lilliput.prune.patterns import pattern
from lilliput.prune.rates import Part, groups_lost, shares
from lilliput.prune.saliency import draw, effective, gather, own_seed, saliencies


@config("prune.weights")
class Weights(Method):
    """Make zeros of the weights that matter least, behind masks that keep them zero through any training.

    w' = m(w), m zero where the criterion's score is among the lowest of the layer (prune/masks). How much each layer loses
    is decided by `allocate`, so that all layers together lose `rate`. Costs what the criterion costs: nothing for
    `magnitude`, a pass over `images` for `gradient`, `obd` and `obs`. The runtimes in common use multiply by zeros like by
    any other number: what shrinks is the stored file, and the latency of an `.onnx` where packing pays (`kernels.worth`).

    criterion  magnitude, l2, random, gradient, obd, or obs, which also moves the weights that stay (prune/saliency, obs)
    rate       share of weights that are zero afterwards, from 0 and below 1, pruned before or not; or rates by layer name
               pattern, `{"layer1.*": 0.5}`, others left as they are. 0 puts masks in place that keep everything
    allocate   uniform, global, erk, lamp or sensitivity (prune/rates)
    pattern    what goes together: weight, N:M, 1xN, kernel, position, filter (prune/patterns); N:M has its own rate
    images     how many training images the criterion or `sensitivity` sees
    skip       patterns of layers that stay as they are

    Applied again, the masks of the first time are narrowed; nothing comes back.
    LeCun et al. 1990; Han et al. 2015, "Learning both weights and connections", arXiv:1506.02626.
    """

    identity: ClassVar[dict[str, Any]] = {"rate": 0.0, "pattern": "weight"}

    criterion: str = "magnitude"
    rate: float | dict[str, float] = 0.5
    allocate: str = "uniform"
    pattern: str = "weight"
    images: int = 256
    skip: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise `ConfigError` for options that can never work."""
        saliencies[self.criterion], shares[self.allocate]
        for rate in self.rate.values() if isinstance(self.rate, dict) else (self.rate,):
            if not 0 <= rate < 1:
                raise ConfigError(f"`rate` (={rate}) is the share of weights that go, from 0 and below 1")
        own = pattern(self.pattern).rate
        if own is not None and (isinstance(self.rate, dict) or abs(self.rate - own) > 1e-9):
            raise ConfigError(f"`pattern` (={self.pattern}) removes {own:g} of a layer, not `rate` (={self.rate})")
        if self.images < 1:
            raise ConfigError(f"`images` (={self.images}) must be at least 1")

    def plan(self, model: nn.Module, look: Look) -> list[Edit]:
        """A mask for every layer that has none yet and is to lose weights."""
        with at(self.name):
            self.check()
            zeros = self._zeros(model, look)
        return [
            Map(s, "weight", "mask", self._spec(n, look, s)) for s, n in zeros.items() if mask(model.get_submodule(s)) is None
        ]

    def refit(self, before: nn.Module, after: nn.Module, look: Look) -> None:
        """Set the masks that an edit alone does not: by data, or where one stood before; then zeros behind all of them."""
        with at(self.name):
            zeros = self._decided(before, after, look)
            old = [site for site in zeros if mask(before.get_submodule(site)) is not None]
            if self.criterion == "obs":
                self._surgery(before, after, zeros, look)
            elif not self._criterion.replays or old:
                sites = old if self._criterion.replays else list(zeros)
                scores = self._scores(before, sites, look)
                for site in sites:
                    _narrow(before, after, site, pattern(self.pattern).mask(scores[site], zeros[site]))
        for site in zeros:
            layer: Any = after.get_submodule(site)
            settle(layer, mask(layer))  # type: ignore[arg-type]

    @property
    def _criterion(self) -> Any:
        return saliencies[self.criterion]

    def _sites(self, model: nn.Module) -> list[str]:
        """The layers this method looks at. Patterns that name none are errors."""
        every = [site for site, _ in hosts(model)]
        wanted = list(self.rate) if isinstance(self.rate, dict) else []
        for option, patterns in (("skip", self.skip), ("rate", wanted)):
            for each in patterns:
                if not any(fnmatchcase(site, each) for site in every):
                    raise ConfigError(f"`{option}`: `{each}` matches no layer with weights; they are {', '.join(every)}")
        chosen = [s for s in every if not any(fnmatchcase(s, p) for p in self.skip)]
        return [s for s in chosen if any(fnmatchcase(s, p) for p in wanted)] if isinstance(self.rate, dict) else chosen

    def _spec(self, zeros: int, look: Look, site: str) -> dict[str, Any]:
        """The mask's spec, defaults left out. What needs data gets its numbers later, and magnitude until then."""
        spec: dict[str, Any] = {"zeros": zeros}
        if self.pattern != "weight":
            spec["pattern"] = self.pattern
        if self._criterion.replays and self.criterion != "magnitude":
            spec["by"] = self.criterion
        if self._criterion.needs == "seed":
            spec["seed"] = own_seed(look.seed, site)
        return spec

    def _zeros(self, model: nn.Module, look: Look) -> dict[str, int]:
        """How many weights of each layer are zero afterwards."""
        sites, grain = self._sites(model), pattern(self.pattern)
        shapes = {site: tuple(effective(model.get_submodule(site)).shape) for site in sites}
        for site in sites:
            with at(site):
                grain.check(shapes[site])
        if not self.rate or grain.rate is not None:
            return {s: round((grain.rate or 0) * torch.Size(shapes[s]).numel()) for s in sites}
        scores = self._scores(model, sites, look)
        parts = [Part(s, grain.pool(scores[s]), grain.size(shapes[s]), shapes[s], self._criterion.power) for s in sites]
        trial = _Trial(self, model, look, scores)
        if isinstance(self.rate, dict):
            rates = [next(r for p, r in self.rate.items() if fnmatchcase(part.site, p)) for part in parts]
            lost = [n for part, r in zip(parts, rates, strict=True) for n in groups_lost("uniform", [part], r, trial)]
        else:
            lost = groups_lost(self.allocate, parts, self.rate, trial)
        return {part.site: n * part.size for part, n in zip(parts, lost, strict=True)}

    def _decided(self, before: nn.Module, after: nn.Module, look: Look) -> dict[str, int]:
        """What `plan` decided: read off the new masks, or decided again where there was a mask before."""
        sites = self._sites(before)
        if any(mask(before.get_submodule(site)) is not None for site in sites):
            return self._zeros(before, look)
        found = masks(after)
        return {site: found[site][1].zeros for site in sites if site in found}

    def _scores(self, model: nn.Module, sites: Sequence[str], look: Look) -> dict[str, Tensor]:
        """What every weight is worth; weights that are masked already are worth nothing."""
        criterion, weights = self._criterion, {site: effective(model.get_submodule(site)) for site in sites}
        if criterion.needs == "weight":
            evidence = weights
        elif criterion.needs == "seed":
            evidence = {s: draw(w.shape, own_seed(look.seed, s)).to(w.device) for s, w in weights.items()}
        elif criterion.needs == "inputs":
            h = obs.moments(model, sites, look, self.images, f"`criterion` (={self.criterion})")
            evidence = {s: obs.inverse_diagonal(h[s], w.shape).to(w.dtype) for s, w in weights.items()}
        else:
            who = f"`criterion` (={self.criterion})"
            evidence = gather(model, sites, look, criterion.needs, self.images, who)
        return {site: criterion.score(weight, evidence[site]) for site, weight in weights.items()}

    def _surgery(self, before: nn.Module, after: nn.Module, zeros: dict[str, int], look: Look) -> None:
        """Masks and moved weights by exact second order."""
        sites = [site for site, count in zeros.items() if count]
        h = obs.moments(before, sites, look, self.images, f"`criterion` (={self.criterion})") if sites else {}
        for site in sites:
            kept, moved = obs.compensated(effective(before.get_submodule(site)), h[site], zeros[site], pattern(self.pattern))
            _narrow(before, after, site, kept)
            with torch.no_grad():
                after.get_submodule(site).weight.copy_(moved)  # type: ignore[operator,union-attr]


class _Trial:
    """Prune one layer alone and look at the loss."""

    def __init__(self, method: Weights, model: nn.Module, look: Look, scores: dict[str, Tensor]) -> None:
        self.method, self.look, self.scores = method, look, scores
        self.model = model

    def __call__(self, part: Part, groups: int) -> float:
        """The loss of the model when a layer loses so many groups."""
        probe = copy.deepcopy(self.model).eval()
        layer: Any = probe.get_submodule(part.site)
        kept = pattern(self.method.pattern).mask(self.scores[part.site], groups * part.size)
        with torch.no_grad():
            layer.weight.masked_fill_(~kept, 0)
            return mean_loss(probe, self.look, self.method.images, f"`allocate` (={self.method.allocate})")


def mean_loss(model: nn.Module, look: Look, images: int, who: str) -> float:
    """The loss over so many images."""
    loss, total, count = look.need_loss(who), 0.0, 0
    for x, y in look.need_batches(who, images):
        total += float(loss(model(x), y)) * len(x)
        count += len(x)
    return total / max(count, 1)


def _narrow(before: nn.Module, after: nn.Module, site: str, kept: Tensor) -> None:
    """Give a layer its mask, within the one it had."""
    layer: Mapped = after.get_submodule(site)  # type: ignore[assignment]
    found: Mask = mask(layer)  # type: ignore[assignment]
    earlier = mask(before.get_submodule(site))
    found.kept = (kept if earlier is None else kept & earlier.kept).to(found.kept.device)
