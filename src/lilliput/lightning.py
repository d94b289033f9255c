"""A guest in Lightning's Trainer: what takes part in a `Fit`, as one of the Trainer's callbacks."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lilliput.core.callback import Callback
from lilliput.data import Task
from lilliput.distill import Distillation
from lilliput.errors import ConfigError, TrainError, UsageError
from lilliput.guest import Guest

LIBRARIES = ("lightning.pytorch", "pytorch_lightning")
BESIDE = "lilliput_guest"  # the child of the LightningModule that holds adapters while it trains


def guest(
    network: str,
    *,
    callbacks: Sequence[Callback] = (),
    distill: Distillation | None = None,
    teacher: nn.Module | None = None,
    task: Task | Tensor | None = None,
    seed: int = 0,
    targets: Callable[[Any], Tensor] | None = None,
) -> Any:
    """A callback for `Trainer(callbacks=[...])` that brings lilliput's callbacks and a distillation into its training.

    network    the attribute of the LightningModule that holds the network, such as `net`; "" is the module itself
    targets    a function from a batch to its classes; without one, a batch is a pair (x, y), or has `label` or `labels`

    The others are those of `Guest`. The penalties and the teacher's part join what `training_step` returns, so it must return
    a loss (or a dict with one) and run the network once. Adapters are trained with `self.parameters()`, as whose part they
    count during the fit; they are in no state dict but this callback's, from which `ckpt_path` goes on.
    Raises `UsageError` where Lightning is not installed; the fit raises `ConfigError` for manual optimization, for an
    optimizer that leaves the adapters out, and for a training of unknown length.
    """
    made: Any = type("LilliputGuest", (_Hooks, _library().Callback), {})()
    made.network, made.targets = network, targets or _classes
    made.options = {"callbacks": callbacks, "distill": distill, "teacher": teacher, "task": task, "seed": seed}
    return made


def _library() -> Any:
    """The Lightning that the user's own Trainer comes from, or else the one that is installed."""
    loaded = [name for name in LIBRARIES if name in sys.modules]
    for name in [*loaded, *LIBRARIES]:
        if importlib.util.find_spec(name.split(".")[0]) is not None:
            return importlib.import_module(name)
    raise UsageError("a callback for its Trainer needs Lightning: pip install lightning")


class _Hooks:
    """The Trainer's moments. The class that users get also has Lightning's own `Callback` below it."""

    network: str
    targets: Callable[[Any], Tensor]
    options: dict[str, Any]
    guest: Guest | None = None
    stored: dict[str, Any] | None = None
    seen: tuple[Tensor, Any] | None = None
    ended = False

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Before the optimizers are made: the guest, its adapters as a part of the module, and a wider `training_step`."""
        if stage != "fit":
            return
        if not pl_module.automatic_optimization:
            raise ConfigError("this LightningModule optimizes by hand: use `lilliput.train.Guest` in its `training_step`")
        student = pl_module.get_submodule(self.network)
        self.guest, self.ended = Guest(student, steps=0, **self.options), False
        self.handles = [student.register_forward_hook(self._saw)]
        if self.guest.lesson is not None:
            _lend(pl_module, nn.ModuleList(self.guest.lesson.modules()), self.handles)
        self._widen(pl_module)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """The module is on its device and has its weights: begin, or go on from a checkpoint."""
        assert self.guest is not None
        steps = trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            raise ConfigError("nothing says how long this training is, and schedules go by that: give the Trainer `max_steps`")
        self.guest.lasts(int(steps))
        if self.guest.lesson is not None:
            self.guest.lesson.teacher.to(pl_module.device)
        (optimizer,) = trainer.optimizers
        _check_learned(self.guest, optimizer)
        self.guest.begin()
        if self.stored is not None:
            self.guest.load_state(self.stored)
            self.stored = None
        self.handles.append(optimizer.register_step_post_hook(self._stepped))

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Gradients are there."""
        assert self.guest is not None
        self.guest.before_step()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """The training is over, perhaps earlier than planned."""
        self._end()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Leave the module as it was."""
        if self.guest is None:
            return
        for handle in self.handles:
            handle.remove()
        self.guest.close()
        pl_module._modules.pop(BESIDE, None)
        vars(pl_module).pop("training_step", None)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """The same, since nothing is torn down where a fit is interrupted; a later `fit` begins with a module as it was."""
        self.teardown(trainer, pl_module, "fit")

    def state_dict(self) -> dict[str, Any]:
        """For the Trainer's checkpoint."""
        return self.guest.state() if self.guest is not None else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep what a checkpoint holds until the model is in place."""
        self.stored = state_dict or None

    def _saw(self, module: nn.Module, given: tuple[Any, ...], outputs: Any) -> None:
        if torch.is_grad_enabled() and module.training and given:
            self.seen = (given[0], outputs)

    def _widen(self, pl_module: Any) -> None:
        """Let `training_step` return the whole loss; an attribute of this one module stands before that of its class."""
        own = pl_module.training_step

        def training_step(batch: Any, *rest: Any, **named: Any) -> Any:
            self.seen = None
            found = own(batch, *rest, **named)
            if found is None:  # the user's way to leave a batch out
                return None
            if isinstance(found, Mapping):
                return {**found, "loss": self._whole(found["loss"], batch)}
            return self._whole(found, batch)

        pl_module.training_step = training_step

    def _whole(self, loss: Tensor, batch: Any) -> Tensor:
        if self.guest is None or self.seen is None:
            raise TrainError(f"`training_step` did not run the network `{self.network}`, so nothing can be added to its loss")
        (x, outputs), self.seen = self.seen, None
        return self.guest.loss(x, outputs, self.targets(batch), loss)

    def _stepped(self, *_: Any) -> None:
        assert self.guest is not None
        self.guest.after_step()
        if self.guest.step >= self.guest.steps:  # before a checkpoint of the last epoch is written
            self._end()

    def _end(self) -> None:
        if self.guest is not None and not self.ended:
            self.ended = True
            self.guest.end()


def _lend(module: Any, beside: nn.ModuleList, handles: list[Any]) -> None:
    """Let what learns beside the network be trained, moved and averaged with the module, and leave it out of its state dict."""
    module.add_module(BESIDE, beside)

    def hide(_: Any, state: dict[str, Any], prefix: str, __: Any) -> None:
        for name in [name for name in state if name.startswith(f"{prefix}{BESIDE}.")]:
            del state[name]

    def excuse(_: Any, keys: Any) -> None:
        keys.missing_keys[:] = [name for name in keys.missing_keys if f"{BESIDE}." not in name]

    handles += [module.register_state_dict_post_hook(hide), module.register_load_state_dict_post_hook(excuse)]


def _check_learned(guest: Guest, optimizer: Any) -> None:
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if any(id(p) not in trained for p in guest.parameters()):
        raise ConfigError("the optimizer leaves out what this distillation learns: give it `self.parameters()`")


def _classes(batch: Any) -> Tensor:
    """The classes of a batch of the usual forms."""
    if isinstance(batch, Sequence) and len(batch) == 2 and isinstance(batch[1], Tensor):
        return batch[1]
    for name in ("label", "labels"):
        if isinstance(batch, Mapping) and isinstance(batch.get(name), Tensor):
            return batch[name]  # type: ignore[no-any-return]
    raise ConfigError(f"a batch is a `{type(batch).__name__}`, not a pair (x, y): say where its classes are by `targets=`")
