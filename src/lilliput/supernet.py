"""Supernets in recipes: all widths of a slimmable network learn together, and one of them is taken."""

from __future__ import annotations

from torch import Tensor, nn

from lilliput.config import Config, config
from lilliput.core.callback import Active, Callback
from lilliput.distill.response import divergence
from lilliput.errors import ConfigError, ModelError
from lilliput.zoo.slimmable import Slimmable


@config("widths")
class Widths(Callback):
    """Every width of a slimmable network learns in every step, the narrower ones from the widest.

    L = weight · Σ_w KL(softmax(y_W) ‖ softmax(y_w)) over the widths w below the widest W, added to the loss of the widest
    ∂L/∂y_w = weight · (softmax(y_w) - softmax(y_W)) / n; y_W has no gradient from it
    y (n, classes) raw outputs; nats, averaged over the batch. Costs a forward and a backward of every width a step. Raises
    `ConfigError` for a network that has one width.
    In-place distillation of Yu and Huang 2019, "Universally Slimmable Networks", arXiv:1903.05134; all widths take part in
    every step, as in Yu et al. 2018, arXiv:1812.08928.
    """

    weight: float = 1.0

    def check(self) -> None:
        """Raise `ConfigError` for options that can never work."""
        if not self.weight > 0:
            raise ConfigError(f"`weight` (={self.weight}) is above 0")

    def begin(self, model: nn.Module, steps: int, seed: int) -> Active:
        """Take part in a training."""
        if not isinstance(model, Slimmable):
            raise ConfigError(f"`widths` trains a slimmable network, and this is a `{type(model).__name__}`")
        return _AllWidths(model, self.weight)


class _AllWidths(Active):
    def __init__(self, model: Slimmable, weight: float) -> None:
        self.model, self.weight = model, weight

    def loss(self, x: Tensor, outputs: Tensor, targets: Tensor) -> Tensor | None:
        told, whole = outputs.detach(), self.model.width
        found = None
        try:
            for width in self.model.widths:
                if width != whole:
                    self.model.switch(width)
                    with self.autocast():
                        made = self.model(x)
                    one = self.weight * divergence(made.float(), told.float(), 1.0)
                    found = one if found is None else found + one
        finally:
            self.model.switch(whole)
        return found


@config("slim")
class Slim(Config):
    """Go on with one of the networks that a slimmable one holds: an ordinary network, which every method can change.

    width   one of the widths of the slimmable network

    Raises `ConfigError` for a width that it does not have, and `ModelError` for a network that is not slimmable.
    """

    width: float = 1.0

    def check(self) -> None:
        """Raise `ConfigError` for what is no width."""
        if not self.width > 0:
            raise ConfigError(f"`width` (={self.width}) is above 0")

    def __call__(self, model: nn.Module) -> nn.Module:
        """The network of that width."""
        self.check()
        if not isinstance(model, Slimmable):
            raise ModelError(f"`slim` takes a width out of a slimmable network, and this is a `{type(model).__name__}`")
        return model.slim(self.width)
