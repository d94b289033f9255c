"""What takes part in a training beside its loss, as one object that any loop can call: `fit` does, and so can yours."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from lilliput.core.callback import Active, Callback
from lilliput.data import Task
from lilliput.data.scores import losses
from lilliput.distill import Distillation, Lesson, Scene
from lilliput.errors import ConfigError


class Guest:
    """Callbacks and a distillation in somebody's training: masks, schedules, clipping, penalties, a teacher.

        guest = Guest(model, steps=epochs * len(loader), callbacks=[prune.Gradual()], distill=distill.Hinton(), teacher=large)
        guest.join(optimizer)                                                  # before the first step
        loss = guest.loss(x, outputs, y, criterion(outputs, y))                # in place of your loss, each step
        guest.end()                                                            # after the last step

    `join` makes the optimizer call `before_step` and `after_step`; who steps in another way calls them. `loss` is called once
    a forward of the model in training mode, with the tensors of that batch.

    model      the network that is trained, on its device; nothing is added to its state dict
    steps      optimizer steps of the whole training, by which schedules go
    callbacks  the values that `Fit(callbacks=...)` takes
    distill    a loss with a teacher, such as `distill.hinton()`; `teacher` is copied, frozen, and put where the model is
    task       what losses of features look at before the first step: a `Task`, or a batch of inputs
    seed       of whatever is drawn: the same seed, model and batches give the same training

    `state` and `load_state` are for a checkpoint of yours: a training that goes on from there is bit-equal. `close` removes
    the hooks of a distillation. Raises `ConfigError` for options that can never work.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        steps: int,
        callbacks: Sequence[Callback] = (),
        distill: Distillation | None = None,
        teacher: nn.Module | None = None,
        task: Task | Tensor | None = None,
        seed: int = 0,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        _check(steps, callbacks, distill, teacher)
        self.model, self.steps, self.callbacks, self.seed = model, steps, tuple(callbacks), seed
        self.step, self.autocast = 0, autocast
        self.lesson: Lesson | None = None
        self._active: list[Active] | None = None
        self._joined: list[Any] = []
        if distill is not None and teacher is not None:
            place = next((p.device for p in model.parameters()), torch.device("cpu"))
            known = task if isinstance(task, Task) else cast(Task, _Elsewhere(task))
            scene = Scene(model, copy.deepcopy(teacher).to(place), known, seed)
            self.lesson = Lesson(distill, scene, steps=steps, autocast=autocast)

    def lasts(self, steps: int) -> None:
        """Say how many steps there are in all, where it is known only after the guest was made and before the first step."""
        self.steps = steps
        if self.lesson is not None:
            self.lesson.steps = steps

    def parameters(self) -> Iterator[nn.Parameter]:
        """What is learned beside the model: adapters, a peer. `join` gives them to the optimizer."""
        yield from self.lesson.parameters() if self.lesson else ()

    def begin(self) -> list[Active]:
        """The callbacks at work; they look at the model when this is first called, at the latest by the first `loss`."""
        if self._active is None:
            self._active = [callback.begin(self.model, self.steps, self.seed) for callback in self.callbacks]
            for active in self._active:
                active.autocast = self.autocast
        return self._active

    def loss(self, x: Tensor, outputs: Any, targets: Tensor, loss: Tensor, places: Tensor | None = None) -> Tensor:
        """The scalar to minimise, from that of the batch: the teacher's part and the penalties join it.

        `places` says which images of the task's training split these are, for a loss that remembers each image.
        """
        if self.lesson is not None:
            loss = self.lesson.total(x, outputs, targets, loss, places, self.step)
        for active in self.begin():
            more = active.loss(x, outputs, targets)
            loss = loss if more is None else loss + more
        return loss

    def before_step(self) -> None:
        """Gradients are there, and the optimizer has not stepped."""
        for active in self.begin():
            active.before_step(self.step)

    def after_step(self) -> None:
        """The optimizer has stepped."""
        for active in self.begin():
            active.after_step(self.step)
        self.step += 1

    def end(self) -> None:
        """The last step is done."""
        for active in self.begin():
            active.end()

    def join(self, optimizer: torch.optim.Optimizer) -> None:
        """Let every `optimizer.step()` call `before_step` and `after_step`, and let it train `parameters`, too.

        Raises `ConfigError` for a second optimizer, since a step is counted once; with several, call the two yourself.
        """
        if self._joined:
            raise ConfigError("a guest joins one optimizer; with several, call `before_step` and `after_step` around the last")
        if learned := list(self.parameters()):
            optimizer.add_param_group({"params": learned})
        self._joined = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(lambda *_: self.after_step()),
        ]

    def _before(self, optimizer: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        if any(callable(value) for value in (*given[1:], *named.values())):
            raise ConfigError("`step(closure)` begins without gradients: call `before_step` in the closure, instead of `join`")
        self.before_step()

    def state(self) -> dict[str, Any]:
        """Tensors and plain values from which a stopped training goes on bit-equal; what the model holds is kept by you."""
        kept = [active.state() for active in self.begin()]
        return {"step": self.step, "callbacks": kept, "lesson": self.lesson.state() if self.lesson else {}}

    def load_state(self, stored: dict[str, Any]) -> None:
        """Take over what `state` gave, after the model has its weights."""
        self.step = stored["step"]
        for active, kept in zip(self.begin(), stored["callbacks"], strict=True):
            active.load_state(kept)
        if self.lesson is not None:
            self.lesson.load_state(stored["lesson"])

    def close(self) -> None:
        """Remove every hook, from the optimizer and from the networks."""
        for handle in self._joined:
            handle.remove()
        if self.lesson is not None:
            self.lesson.close()


class _Elsewhere:
    """What is known of images that are no `Task`: a batch of them, and cross-entropy as their loss."""

    def __init__(self, images: Tensor | None) -> None:
        self.images, self.loss = images, losses["cross_entropy"]

    def example(self, batch: int = 1) -> Tensor:
        """The first images."""
        if self.images is None:
            raise ConfigError("a loss of features looks at the layers first: give `task`, a Task or a batch of inputs")
        return self.images[:batch]

    @property
    def train(self) -> Any:
        """There is no such split."""
        raise ConfigError(
            "this loss remembers each image of a training split: give `task`, a Task, and `places` with each batch"
        )


def _check(steps: int, callbacks: Sequence[Callback], distill: Distillation | None, teacher: nn.Module | None) -> None:
    if steps < 0:
        raise ConfigError(f"`steps` (={steps}) is the number of optimizer steps of the whole training")
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise ConfigError(f"`callbacks` holds a `{type(callback).__name__}`; what takes part is a lilliput callback")
        callback.check()
    if (distill is None) != (teacher is None):
        given, missing = ("distill", "teacher") if teacher is None else ("teacher", "distill")
        raise ConfigError(f"`{given}` without `{missing}`: a distillation is a loss and a teacher")
    if distill is not None:
        distill.check()
