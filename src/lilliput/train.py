"""Training between the steps of a recipe: one loop on Lightning Fabric, resumable at every epoch, with its own optimizer.

Randomness is a function of (seed, epoch, position): the order of the images, their augmentation and dropout are seeded
anew each epoch, so that a run that was stopped ends bit-equal to one that was not.
"""

from __future__ import annotations

import copy
import hashlib
import math
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from lilliput.batchnorm import BatchNorm, reestimate
from lilliput.config import Config, config
from lilliput.core import state
from lilliput.core.callback import Callback
from lilliput.core.identity import identity
from lilliput.data import Task
from lilliput.distill import Distillation
from lilliput.distill.answers import Answers
from lilliput.distill.ensemble import Ensemble
from lilliput.distill.lesson import places_of
from lilliput.errors import ConfigError, TrainError
from lilliput.guest import Guest
from lilliput.measure.accuracy import accuracy

__all__ = ["BatchNorm", "Event", "Fit", "Fitted", "Machine", "Watch", "fabric_of", "fit", "reestimate"]

Event = dict[str, Any]
SCHEDULES = ("one_cycle", "cosine", "constant")


@config("fit")
class Fit(Config):
    """Train for some epochs with SGD, optionally learning from a teacher.

    epochs        passes over the training split
    lr            the highest learning rate of the schedule, for a batch of `batch_size`
    batch_size    images a step, over all processes together
    schedule      one_cycle (a quarter up from a tenth, then cosine down), cosine, or constant
    distill       a loss with a teacher, such as `distill.hinton(temperature=4)`
    taught_by     start: what the recipe started from, the uncompressed network; previous: the network as this step got it
    cache_teacher whether what the teacher says is kept, by image and augmentation: without augmentation it is asked in the
                  first epoch alone, with it no more than once by all trainings of a seed that share a folder (`answers`)
    precision     32, bf16-mixed or 16-mixed
    augment       whether the task's augmentation is used
    callbacks     what else takes part: penalties, masks, clipping (`core.callback`)
    """

    epochs: int = 10
    lr: float = 0.05
    batch_size: int = 128
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "one_cycle"
    distill: Distillation | None = None
    taught_by: Literal["start", "previous"] = "start"
    cache_teacher: bool = False
    precision: str = "32"
    augment: bool = True
    callbacks: tuple[Callback, ...] = ()

    def check(self) -> None:
        """Raise `ConfigError` for options that can never work."""
        if self.epochs < 0 or self.batch_size < 1 or not self.lr > 0:
            raise ConfigError(
                f"`epochs` (={self.epochs}) from 0, `batch_size` (={self.batch_size}) from 1, `lr` (={self.lr}) above 0"
            )
        if not (0 <= self.momentum < 1 and self.weight_decay >= 0 and math.isfinite(self.lr)):
            raise ConfigError(
                f"`momentum` (={self.momentum}) is from 0 and below 1, `weight_decay` (={self.weight_decay}) from 0, "
                f"`lr` (={self.lr}) finite"
            )
        if self.schedule not in SCHEDULES:
            raise ConfigError(f"`schedule` (={self.schedule}) is one of {', '.join(SCHEDULES)}")
        if self.precision not in ("32", "bf16-mixed", "16-mixed"):
            raise ConfigError(f"`precision` (={self.precision}) is 32, bf16-mixed or 16-mixed")
        if self.taught_by not in ("start", "previous"):
            raise ConfigError(f"`taught_by` (={self.taught_by}) is start or previous")
        if self.distill is not None:
            self.distill.check()
        elif self.cache_teacher:
            raise ConfigError("`cache_teacher` (=true) needs `distill`")
        for callback in self.callbacks:
            callback.check()

    def rate(self, done: float) -> float:
        """The learning rate when the share `done` of all steps is behind."""
        if self.schedule == "constant":
            return self.lr
        rise = 0.25 if self.schedule == "one_cycle" else 0.0
        if done < rise:
            return self.lr * (0.1 + 0.9 * done / rise)
        return self.lr * 0.5 * (1 + math.cos(math.pi * (done - rise) / (1 - rise)))


@dataclass(frozen=True)
class Machine:
    """Where training runs: an accelerator as Fabric names it ("auto", "cpu", "cuda"), and how many processes share a batch."""

    accelerator: str = "auto"
    devices: int = 1


class Watch(Protocol):
    """Whoever wants to see training: called with every event ({"event": "step" | "epoch", …})."""

    def __call__(self, event: Event) -> None:
        """Look at one event."""
        ...


@dataclass(frozen=True)
class Fitted:
    """A trained model and what happened, one row an epoch."""

    model: nn.Module
    history: list[Event]


class _Job:
    """All that one training needs; each process gets its own copy. No dataclass, since Fabric would take one apart."""

    def __init__(
        self, plan: Fit, model: nn.Module, task: Task, teacher: nn.Module | None, seed: int, folder: Path, machine: Machine
    ) -> None:
        self.fit, self.model, self.task, self.teacher = plan, model, task, teacher
        self.seed, self.folder, self.machine = seed, folder, machine
        self.answers, self.shared = folder / "answers", False
        self.watch: Watch | None = None


def fit(
    model: nn.Module,
    task: Task,
    fit: Fit,
    *,
    teacher: nn.Module | Sequence[nn.Module] | None = None,
    seed: int = 0,
    folder: Path | str | None = None,
    machine: Machine = Machine(),
    watch: Watch | None = None,
    answers: Path | str | None = None,
) -> Fitted:
    """Train a copy of `model` as `fit` says and return it with one row of history an epoch.

    The state of the last finished epoch lies in `folder` (a temporary one by default); a call with the same folder goes
    on from there and ends as if it had never stopped. The accuracies are those of the validation split, last epoch.
    What a teacher says is kept in `answers` (by default in the folder) where the fit has `cache_teacher`.
    Several teachers are an ensemble (`distill.Ensemble`). With `taught_by=previous`, `model` itself is the teacher.
    Raises `TrainError` with step and learning rate when the loss is no longer a number.
    """
    import tempfile

    fit.check()
    teacher = model if fit.taught_by == "previous" else teacher
    if fit.distill is not None and teacher is None:
        raise ConfigError("`distill` needs a teacher: pass `teacher=`, or run the fit in a recipe, whose start is the teacher")
    teacher = Ensemble(teacher) if isinstance(teacher, Sequence) else teacher
    with tempfile.TemporaryDirectory() as scratch:
        job = _Job(fit, model, task, teacher if fit.distill else None, seed, Path(folder or scratch), machine)
        job.watch = watch
        if answers is not None:
            job.answers, job.shared = Path(answers), True
        if fit.epochs and not _finished(job):
            _launch(job, watch)
        new = copy.deepcopy(model)
        history: list[Event] = []
        if fit.epochs:
            stored = state.read(job.folder / "fit.safetensors")
            new.load_state_dict(stored["model"])
            history = stored["history"]
        if fit.cache_teacher and not job.shared:
            shutil.rmtree(job.answers, ignore_errors=True)
    return Fitted(new, history)


def _finished(job: _Job) -> bool:
    path = job.folder / "fit.safetensors"
    return path.exists() and int(state.read(path)["epoch"]) >= job.fit.epochs


def fabric_of(machine: Machine, precision: str) -> Any:
    """Fabric for a machine; raises `ConfigError` where there is no such accelerator."""
    from lightning_fabric import Fabric

    try:
        return Fabric(
            accelerator=machine.accelerator,
            devices=machine.devices,
            strategy="ddp_spawn" if machine.devices > 1 else "auto",
            precision={"32": "32-true"}.get(precision, precision),  # type: ignore[arg-type]
        )
    except (RuntimeError, ValueError) as error:  # Fabric's way to say that a machine has no such accelerator
        raise ConfigError(f"`accelerator` (={machine.accelerator}), `devices` (={machine.devices}): {error}") from None


def _launch(job: _Job, watch: Watch | None) -> None:
    several = job.machine.devices > 1
    if several and job.fit.distill is not None and not job.fit.distill.reaches_outputs():
        raise ConfigError("a loss of features alone leaves layers without a gradient; `devices` (=1) is what it trains on")
    fabric = fabric_of(job.machine, job.fit.precision)
    if several:
        job.watch = None  # a live display cannot follow into other processes, so it is told afterwards
        fabric.launch(_train, job)  # type: ignore[arg-type]
        if watch is not None:
            for row in state.read(job.folder / "fit.safetensors")["history"]:
                watch(row)
    else:
        _train(fabric, job)


def _train(fabric: Any, job: _Job) -> None:
    """The loop, in every process."""
    if fabric.world_size > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // fabric.world_size))
    fork = torch.random.fork_rng(devices=[])
    with fork:
        run = _Run(fabric, job)
        for epoch in range(run.epoch, job.fit.epochs):
            run.train_epoch(epoch)
            run.finish_epoch(epoch)


class _Run:
    """One process's model, optimizer and teacher, restored from disk if there is something to restore."""

    def __init__(self, fabric: Any, job: _Job) -> None:
        self.fabric, self.job, self.fit = fabric, job, job.fit
        self.answers: Answers | None = None
        torch.manual_seed(job.seed)
        self.plain = copy.deepcopy(job.model).train()
        self.layout = _layout(fabric.device)
        self.plain = self._placed(self.plain)
        self.guest = self._guest(len(job.task.train) // self.fit.batch_size)
        optimizer = torch.optim.SGD(
            _parameter_groups([*self.plain.parameters(), *self.guest.parameters()], self.fit.weight_decay),
            lr=self.fit.lr,
            momentum=self.fit.momentum,
            nesterov=self.fit.momentum > 0,
        )
        self.epoch, self.history = 0, []
        self.path = job.folder / "fit.safetensors"
        stored = state.read(self.path) if self.path.exists() else None
        if stored is not None:
            self.plain.load_state_dict(stored["model"])
            self.epoch, self.history = stored["epoch"], stored["history"]
        self.model, self.optimizer = fabric.setup(self.plain, optimizer)
        self.guest.begin()
        if stored is not None:
            optimizer.load_state_dict(stored["optimizer"])
            self.guest.load_state({"step": self.epoch * (self.guest.steps // self.fit.epochs), **stored})

    def _placed(self, model: nn.Module) -> nn.Module:
        """The model on this process's device, in the layout that is fastest there."""
        return model.to(self.fabric.device).to(memory_format=self.layout)  # type: ignore[call-overload,no-any-return]

    def _guest(self, steps: int) -> Guest:
        """Callbacks and distillation, with a teacher of this process's own, for so many steps an epoch."""
        job, fit = self.job, self.fit
        guest = Guest(
            self.plain, steps=fit.epochs * steps, callbacks=fit.callbacks, distill=fit.distill, teacher=job.teacher,
            task=job.task, seed=job.seed, autocast=self.fabric.autocast,
        )  # fmt: skip
        if guest.lesson is not None:
            self._placed(guest.lesson.teacher)
            if job.teacher is not None and self._keeps:
                self.answers = guest.lesson.remember(job.answers / self._asked(job.teacher, guest.lesson.sites))
        return guest

    @property
    def _same(self) -> bool:
        """Whether an image looks the same in every epoch."""
        return not self.fit.augment or self.job.task.augment is None

    @property
    def _keeps(self) -> bool:
        """Whether what the teacher says is kept: not where nobody would ask again."""
        return self.fit.cache_teacher and (self._same or self.job.shared)

    def _asked(self, teacher: nn.Module, sites: Sequence[str]) -> str:
        """What the teacher's answers follow from, but for the epoch, as the name of a folder."""
        fit, fabric = self.fit, self.fabric
        how = f"{fit.precision} {fit.batch_size} {fabric.device.type} {fabric.global_rank} of {fabric.world_size}"
        drawn = f"{fit.augment} {self.job.seed} {sorted(sites)}"
        return hashlib.sha256(f"{identity(teacher)} {self.job.task.id()} {how} {drawn}".encode()).hexdigest()[:12]

    def train_epoch(self, epoch: int) -> None:
        """One pass over the training split."""
        job, fabric = self.job, self.fabric
        torch.manual_seed(job.seed * 1_000_003 + epoch * 1009 + fabric.global_rank)
        batches = job.task.batches(
            "train", self.fit.batch_size, shuffle_seed=job.seed, augment=self.fit.augment, epoch=epoch,
            rank=fabric.global_rank, world=fabric.world_size, drop_last=True,
            channels_last=self.layout is torch.channels_last, device=fabric.device,
        )  # fmt: skip
        steps = len(batches)
        if not steps:
            raise TrainError(
                f"{job.task.name}: the training split is smaller than one batch of {self.fit.batch_size}; lower `batch_size`"
            )
        if self.answers is not None:
            self.answers.begin("all" if self._same else f"{epoch}")
        self.model.train()
        self.seen, self.correct, self.loss, start = 0, 0.0, 0.0, time.perf_counter()
        for step, (x, y) in enumerate(batches):
            rate = self.fit.rate((epoch * steps + step) / (self.fit.epochs * steps))
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            loss = self.step(x, y, places_of(batches, step))
            if not math.isfinite(loss):
                raise TrainError(
                    f"the loss is {loss} at epoch {epoch + 1}, step {step + 1}, learning rate {rate:.3g}. Lower `lr`."
                )
            self.loss += loss
            if job.watch is not None:
                job.watch({
                    "event": "step", "epoch": epoch + 1, "epochs": self.fit.epochs, "step": step + 1, "steps": steps,
                    "loss": self.loss / (step + 1), "accuracy": self.correct / self.seen,
                    "images_s": self.seen / (time.perf_counter() - start),
                })  # fmt: skip
        self.loss /= steps
        self.seconds = time.perf_counter() - start

    def step(self, x: Tensor, y: Tensor, places: Tensor) -> float:
        """One update, with the images at these places of the training split; the loss of the batch."""
        outputs = self.model(x)
        loss = self.guest.loss(x, outputs, y, self.job.task.loss(outputs, y), places)
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        if self.guest.lesson is not None and self.fabric.world_size > 1:
            self.guest.lesson.average(self.fabric.all_reduce)
        self.guest.before_step()
        self.optimizer.step()
        self.guest.after_step()
        with torch.no_grad():
            self.seen += len(y)
            self.correct += float(self.job.task.metric(outputs, y)) * len(y)
        return float(loss.detach())

    def finish_epoch(self, epoch: int) -> None:
        """Average the norms' statistics over the processes; in the first one, validate and store the state.

        Loss, accuracy and speed of the row are those of the first process's part of every batch.
        """
        fabric = self.fabric
        if self.answers is not None:
            self.answers.end()
        if epoch + 1 == self.fit.epochs:
            self.guest.end()
        if fabric.world_size > 1:
            for buffer in self.plain.buffers():
                if buffer.is_floating_point():
                    buffer.copy_(fabric.all_reduce(buffer, reduce_op="mean"))
        if fabric.is_global_zero:
            found = accuracy(self.plain.eval(), self.job.task.batches("val", 256), self.job.task.metric, device=fabric.device)
            row = {
                "event": "epoch", "epoch": epoch + 1, "epochs": self.fit.epochs, "train_loss": self.loss,
                "train_accuracy": self.correct / self.seen, "val_accuracy": found.value, "seconds": round(self.seconds, 3),
                "images_s": round(self.seen * fabric.world_size / self.seconds, 1),
            }  # fmt: skip
            self.history.append(row)
            kept = {"model": self.plain.state_dict(), "optimizer": self.optimizer.state_dict()}
            kept |= self.guest.state()
            state.write(self.path, {**kept, "epoch": epoch + 1, "history": self.history})
            if self.job.watch is not None:
                self.job.watch(row)
        fabric.barrier()


def _layout(device: torch.device) -> torch.memory_format:
    """Channels last: 2.7 against 3.7 ms an image for ResNet-20 on two CPU cores, and what tensor cores want."""
    return torch.channels_last if device.type in ("cpu", "cuda") else torch.contiguous_format


def _parameter_groups(parameters: Sequence[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Weights decay; biases, norms and the scales of maps do not."""
    parameters = [p for p in parameters if p.requires_grad]
    heavy, light = [p for p in parameters if p.dim() > 1], [p for p in parameters if p.dim() <= 1]
    return [{"params": heavy, "weight_decay": weight_decay}, {"params": light, "weight_decay": 0.0}]
