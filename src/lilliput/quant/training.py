"""What the papers on few bits do while training: callbacks of a `Fit`, and writers of recipes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lilliput.config import Config, config, configs
from lilliput.core.callback import Active, Callback
from lilliput.core.layers import Mapped, through
from lilliput.core.maps import Mapping
from lilliput.errors import ConfigError
from lilliput.quant.binary import Decaying
from lilliput.quant.codebook import KMeans, ProductCodebook
from lilliput.quant.low_bit import LowBit
from lilliput.quant.powers import Inq
from lilliput.quant.straight import Coded


@config("quant.clip")
class Clip(Callback):
    """Clip the latent weights behind quantizers to [−limit, limit] after each step, so that they stay where gradients reach.

    Courbariaux et al. 2015, arXiv:1511.00363.
    """

    limit: float = 1.0

    def check(self) -> None:
        """Raise `ConfigError` for a limit that clips everything."""
        if not self.limit > 0:
            raise ConfigError(f"`limit` (={self.limit}) must be above 0")

    def begin(self, model: nn.Module, steps: int, seed: int) -> Active:
        """Clip the layers whose weight is quantized."""
        self.check()
        return _Clipping([layer for layer, _ in _mapped(model, Coded, self.name)], self.limit)


class _Clipping(Active):
    """Latent weights within a limit."""

    def __init__(self, layers: list[Mapped], limit: float) -> None:
        self.layers, self.limit = layers, limit

    def after_step(self, step: int) -> None:
        """Clip."""
        for layer in self.layers:
            layer.weight.data.clamp_(-self.limit, self.limit)


@config("quant.error_decay")
class ErrorDecay(Callback):
    """Let the gradient of signs go from nearly that of the identity to nearly that of a step: IR-Net's estimator.

    g(x) = k·tanh(t·x),   t = low·(high/low)^(i/N) at step i of N,   k = max(1/t, 1)
    For `irnet` weights and `sign` inputs with `gradient="decay"`.       Qin et al. 2020, arXiv:1909.10788.
    """

    low: float = 0.1
    high: float = 10.0

    def check(self) -> None:
        """Raise `ConfigError` for ends in the wrong order."""
        if not 0 < self.low <= self.high:
            raise ConfigError(f"`low` (={self.low}) is above 0 and at most `high` (={self.high})")

    def begin(self, model: nn.Module, steps: int, seed: int) -> Active:
        """Move t in all maps that have one."""
        self.check()
        found = [m for m in model.modules() if isinstance(m, Decaying)]
        if not found:
            raise ConfigError(f"{self.name}: no map decays. Put `quant.low_bit(scheme=irnet)` before the training.")
        return _Decay(found, self.low, self.high, steps)


class _Decay(Active):
    """t as a function of the step."""

    def __init__(self, found: Sequence[Decaying], low: float, high: float, steps: int) -> None:
        self.found, self.low, self.high, self.steps = found, low, high, steps
        self.next = 0
        self._set()

    def after_step(self, step: int) -> None:
        """The slope of the step to come."""
        self.next = step + 1
        self._set()

    def state(self) -> dict[str, Any]:
        return {"next": self.next}

    def load_state(self, stored: dict[str, Any]) -> None:
        self.next = int(stored["next"])
        self._set()

    def _set(self) -> None:
        for each in self.found:
            each.t = self.low * (self.high / self.low) ** (self.next / max(self.steps, 1))


@config("quant.incremental")
class Incremental(Callback):
    """Quantize the weights behind `inq` in portions, the largest first; the rest learns to make up for them.

    Portion k of m comes into force at the share (k − 1)/m of the training. Quantized weights stay as they are. At the end
    everything is quantized, and what is left of the training moves norms and biases alone.
    portions: the shares of each layer that are quantized, rising to 1.       Zhou et al. 2017, arXiv:1702.03044.
    """

    portions: tuple[float, ...] = (0.5, 0.75, 0.875, 1.0)

    def check(self) -> None:
        """Raise `ConfigError` for portions that do not rise to 1."""
        rising = all(0 <= a < b for a, b in zip((-1.0, *self.portions)[1:], self.portions[1:], strict=False))
        if not self.portions or not rising or self.portions[-1] != 1 or not self.portions[0] > 0:
            raise ConfigError(f"`portions` (={self.portions}) rise from above 0 to 1")

    def begin(self, model: nn.Module, steps: int, seed: int) -> Active:
        """Take over the masks of what is quantized."""
        self.check()
        return _Portions(_mapped(model, Inq, self.name), self.portions, steps)


class _Portions(Active):
    """Which weights are quantized, and what they are."""

    def __init__(self, found: list[tuple[Mapped, Any]], portions: tuple[float, ...], steps: int) -> None:
        self.found = found
        self.due = {k * steps // len(portions): share for k, share in enumerate(portions)}
        self.held: list[Tensor] = []

    def after_step(self, step: int) -> None:
        """Quantize the next portion if it is due; momentum and decay must not move what is quantized."""
        if step in self.due:
            self._quantize(self.due[step])
        for (layer, each), held in zip(self.found, self.held, strict=True):
            layer.weight.data.copy_(torch.where(_done(each, held), held, layer.weight))

    def end(self) -> None:
        """A training of fewer steps than portions ends quantized all the same."""
        self._quantize(1.0)

    def state(self) -> dict[str, Any]:
        return {"done": [torch.ones(()) if each.done is None else each.done for _, each in self.found]}

    def load_state(self, stored: dict[str, Any]) -> None:
        for (layer, each), done in zip(self.found, stored["done"], strict=True):
            each.done = None if done.dim() == 0 else done.to(torch.bool).to(layer.weight.device)
        self.held = [layer.weight.detach().clone() for layer, _ in self.found]

    def _quantize(self, share: float) -> None:
        held = []
        for layer, each in self.found:
            done = each.done if self.held else None  # at first nothing, whatever the map says
            before = _before(layer, each)
            score = before.abs() if done is None else before.abs().masked_fill(done, float("inf"))
            count = round(share * score.numel())
            chosen = torch.zeros(score.numel(), dtype=torch.bool, device=score.device)
            chosen[score.flatten().argsort(descending=True, stable=True)[:count]] = True
            each.done = None if count == score.numel() else chosen.view(score.shape)
            held.append(torch.where(chosen.view(score.shape), each.hard(before), layer.weight.detach()))
        self.held = held


@config("quant.centroids")
class Centroids(Callback):
    """Keep every weight in its cluster while centroids learn, and centroids that layers share equal.

    After each step a weight becomes its moved centroid, so assignments are those of the start: Deep Compression's
    fine-tuning, for `kmeans` and `pq`. gradient: "sum", ∂L/∂c_k = Σ_{i in cluster k} g_i as in the paper, which wants a
    hundredth of the usual learning rate and leaves norms and biases behind; or "root", the sum over √(weights in cluster k),
    with which centroids learn about as fast as single weights do. `across`: the gradients of all layers' codebooks are summed,
    for a codebook that is one (`quant.low_bit(across=true)`).       Han et al. 2016, arXiv:1510.00149.
    """

    gradient: str = "root"
    across: bool = False

    def check(self) -> None:
        """Raise `ConfigError` for a gradient that there is not."""
        if self.gradient not in ("root", "sum"):
            raise ConfigError(f"`gradient` (={self.gradient}) is not one of root, sum")

    def begin(self, model: nn.Module, steps: int, seed: int) -> Active:
        """Note the cluster of every weight."""
        self.check()
        found = _mapped(model, (KMeans, ProductCodebook), self.name)
        if self.across and len({tuple(each.codebook.shape) for _, each in found}) > 1:
            raise ConfigError(f"{self.name}: `across` (=true) needs one codebook, and the layers' have several shapes")
        return _Shared(found, self.across, self.gradient == "root")


class _Shared(Active):
    """Clusters that hold."""

    def __init__(self, found: list[tuple[Mapped, Any]], across: bool, root: bool) -> None:
        self.found, self.across = found, across
        self.codes = [each.encode(_before(layer, each)) for layer, each in found]
        sizes = [_sizes(layer, each) if root else torch.ones_like(each.codebook) for layer, each in found]
        whole = torch.stack(sizes).sum(0) if across and root else None
        self.over = [(size if whole is None else whole).clamp(min=1).sqrt() for size in sizes]

    def before_step(self, step: int) -> None:
        """The gradients of centroids, over what they are divided by; one gradient for a codebook that is one."""
        books = [each.codebook for _, each in self.found]
        grads: list[Any] = [book.grad for book in books]
        if self.across and all(grad is not None for grad in grads):
            grads = [torch.stack(grads).sum(0)] * len(books)
        for book, grad, over in zip(books, grads, self.over, strict=True):
            book.grad = None if grad is None else grad / over

    def after_step(self, step: int) -> None:
        """Weights follow their centroids."""
        for (layer, each), codes in zip(self.found, self.codes, strict=True):
            layer.weight.data.copy_(each.decode(codes))

    def state(self) -> dict[str, Any]:
        return {"codes": [codes.values for codes in self.codes]}

    def load_state(self, stored: dict[str, Any]) -> None:
        both = zip(self.codes, stored["codes"], strict=True)
        self.codes = [dataclasses.replace(codes, values=kept.to(codes.values)) for codes, kept in both]


def two_step(low_bit: LowBit, fit: Config) -> list[Config]:
    """Inputs first with real weights, then weights too, each with a training of its own; ReActNet's order.

    >>> [step.name for step in two_step(LowBit("reactnet"), LowBit())]
    ['quant.low_bit', 'quant.low_bit', 'quant.low_bit', 'quant.low_bit']

    Martinez et al. 2020, arXiv:2003.11535; Liu et al. 2020, arXiv:2003.03488.
    """
    low_bit.check()
    return [dataclasses.replace(low_bit, bits=32), fit, dataclasses.replace(low_bit, activations=32), fit]


def descending(low_bit: LowBit, fit: Config, widths: tuple[int, ...] = (8, 6, 4)) -> list[Config]:
    """Gradual bit descent: train at each width of the weights, from the widest on; each begins from what the last computes.

    Zhuang et al. 2018, "Towards effective low-bitwidth convolutional neural networks", arXiv:1711.00205.
    """
    if list(widths) != sorted(set(widths), reverse=True) or not widths:
        raise ConfigError(f"`widths` (={widths}) fall")
    steps: list[Config] = []
    for width in widths:
        step = dataclasses.replace(low_bit, bits=width)
        step.check()
        steps += [*([configs["bake"]()] if steps else []), step, fit]
    return steps


def _mapped(model: nn.Module, kind: Any, who: str) -> list[tuple[Mapped, Any]]:
    """The layers whose last weight map is of a kind, with that map, or an error that names who asked."""
    layers = [m for m in model.modules() if isinstance(m, Mapped) and len(m.weight_maps)]
    found = [(layer, layer.weight_maps[-1]) for layer in layers if isinstance(layer.weight_maps[-1], kind)]
    if not found:
        raise ConfigError(f"{who}: no layer has a map that this is for. Put `quant.low_bit` before the training.")
    return found


def _before(layer: Mapped, each: Mapping) -> Tensor:
    """The weight as the last map sees it."""
    with torch.no_grad():
        return through(layer.weight_maps[:-1], layer.weight.detach()).detach()


def _sizes(layer: Mapped, each: KMeans | ProductCodebook) -> Tensor:
    """How many weights each number of a codebook stands for: the gradient of their sum."""
    with torch.enable_grad():
        total = each.soft(_before(layer, each)).sum()
    return torch.autograd.grad(total, each.codebook)[0]


def _done(each: Inq, held: Tensor) -> Tensor:
    return torch.ones_like(held, dtype=torch.bool) if each.done is None else each.done
