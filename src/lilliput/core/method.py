"""Methods decide; they look at a model and write edits. `perform` does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from lilliput.config import Config
from lilliput.core.edits import Edit
from lilliput.core.perform import perform
from lilliput.errors import ConfigError

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class First:
    """The first so many images of batches, every time it is read."""

    batches: Iterable[Batch]
    images: int

    def __iter__(self) -> Iterator[Batch]:
        left = self.images
        for x, y in self.batches if left > 0 else ():
            yield x[:left], y[:left]
            left -= len(x)
            if left <= 0:
                return


@dataclass(frozen=True)
class Look:
    """What a method may see beside the model.

    `example`: one input batch, (n, c, h, w). `batches`: labelled batches of the training split, without augmentation, in
    one fixed order, that can be read more than once; they may be read only when they are asked for. `loss`: (outputs,
    targets) to a scalar. `clock`: a model to its milliseconds on the target runtime. A method that needs what is absent
    says so.
    """

    example: Tensor
    batches: Iterable[Batch] | None = None
    loss: Callable[[Tensor, Tensor], Tensor] | None = None
    seed: int = 0
    clock: Callable[[nn.Module], float] | None = None

    def need_batches(self, who: str, images: int | None = None) -> Iterable[Batch]:
        """The batches, or an error that names who asked; with `images`, the first so many, to be read more than once."""
        if self.batches is None:
            raise ConfigError(f"{who} needs labelled images, and this look has no `batches`. Pass a task or `--data`.")
        return self.batches if images is None else First(self.batches, images)

    def need_loss(self, who: str) -> Callable[[Tensor, Tensor], Tensor]:
        """The loss, or an error that names who asked."""
        if self.loss is None:
            raise ConfigError(f"{who} needs the loss of the task, and this look has no `loss`. Pass a task or `--data`.")
        return self.loss

    def need_clock(self, who: str) -> Callable[[nn.Module], float]:
        """The clock, or an error that names who asked."""
        if self.clock is None:
            raise ConfigError(f"{who} chooses by measured time, and this look has no `clock`.")
        return self.clock


class Method(Config):
    """A way to compress, as a frozen value.

    Contract. `plan` changes nothing: not the model, not its mode, not the global random state. The same model, look and
    seed give the same edits. Edits survive JSON, and replaying them on a fresh model gives the same network, up to the
    numbers that `refit` sets: those live in the state dict, and the same model, look and seed give the same. At strength
    zero (keep everything, all bits) the network computes what it did; `identity` names the options of strength zero.
    """

    identity: ClassVar[dict[str, Any]] = {}

    def plan(self, model: nn.Module, look: Look) -> list[Edit]:
        """The edits this method proposes."""
        raise NotImplementedError

    def refit(self, before: nn.Module, after: nn.Module, look: Look) -> None:
        """Set numbers in `after`, the edited network, by what `before` computes: the only place where a method may.

        Nothing by default. `before` stays as it is, and so does the structure of `after`.
        """

    def __call__(self, model: nn.Module, look: Look) -> nn.Module:
        """A new model with the proposed edits performed."""
        after = perform(model, self.plan(model, look))
        self.refit(model, after, look)
        return after
