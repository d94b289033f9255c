"""What takes part in training beside the loss: penalties, masks that hold or regrow, clipping, a teacher.

A `Callback` is a frozen value in a `Fit`; `begin` makes the `Active` that one training has. Whoever trains in a loop of
their own calls the same four moments.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn

from lilliput.config import Config


class Active:
    """A callback in one training: holds the model, and does nothing at any moment unless a subclass says so.

    `autocast` is the precision of the training's forwards, for one that runs the model again.
    """

    autocast: Callable[[], AbstractContextManager[Any]] = staticmethod(nullcontext)

    def loss(self, x: Tensor, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """A scalar to add to the loss of the batch; none adds nothing."""
        return None

    def before_step(self, step: int) -> None:
        """Gradients are there and the optimizer has not stepped; `step` counts from 0 over the whole training."""

    def after_step(self, step: int) -> None:
        """The optimizer has stepped: weights may be masked, clipped, moved."""

    def end(self) -> None:
        """The last step is done."""

    def state(self) -> dict[str, Any]:
        """Tensors and plain values from which a stopped training goes on bit-equal; what the model holds is kept anyway."""
        return {}

    def load_state(self, stored: dict[str, Any]) -> None:
        """Take over what `state` gave."""


class Callback(Config):
    """Something that takes part in training, as a frozen value.

    Contract. `begin` is called once a process with the model that is trained, on its device, before the first step (and
    again where a stopped training goes on, followed by `load_state`); it changes nothing. The same model, seed and
    batches give the same training.
    """

    def begin(self, model: nn.Module, steps: int, seed: int) -> Active:
        """Take part in a training of `steps` steps in all."""
        raise NotImplementedError
