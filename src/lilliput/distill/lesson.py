"""A distillation at work: the teacher, the taps on both networks, the adapters, and what is remembered of the teacher."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lilliput.core.fold import fold
from lilliput.core.perform import perform
from lilliput.data.batches import Batches
from lilliput.data.scores import heads
from lilliput.distill.answers import Answers
from lilliput.distill.contract import Distillation, Seen, Turn
from lilliput.distill.taps import INPUT, Scene, Watch
from lilliput.errors import ConfigError

OUTPUTS = ""  # where the outputs are remembered, among the sites of taps


class Lesson:
    """One training's distillation.

    The teacher is frozen, in eval mode, and runs in inference mode, unless the loss trains it as a peer. What is learned
    beside the student (adapters, a peer) is in `parameters` and `state`, and never in the student: its state dict is the
    same with and without a lesson. Deterministic by seed. `close` removes the hooks.
    """

    def __init__(
        self,
        loss: Distillation,
        scene: Scene,
        *,
        steps: int,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.loss, self.teacher, self.task, self.steps, self.autocast = loss, scene.teacher, scene.task, steps, autocast
        self.peer = loss.trains_teacher()
        self.teacher.train(self.peer).requires_grad_(self.peer)
        self.device = next((p.device for p in scene.student.parameters()), torch.device("cpu"))
        self.part = loss.begin(scene).to(self.device).train()
        self.ours = Watch(scene.student, [ours for ours, _ in scene.asked], grad=True)
        self.sites = [theirs for _, theirs in scene.asked]
        self.theirs = Watch(self.teacher, self.sites, grad=self.peer)
        self.folded = False
        self.answers: Answers | None = None

    def modules(self) -> Iterator[nn.Module]:
        """What is learned beside the student."""
        yield self.part
        if self.peer:
            yield self.teacher

    def parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that the optimizer takes beside the student's."""
        for module in self.modules():
            yield from module.parameters()

    def total(self, x: Tensor, outputs: Tensor, targets: Tensor, hard: Tensor, places: Tensor | None, step: int) -> Tensor:
        """The scalar to minimise for a batch on which the student has just run; `places` are its images in the split.

        They may be unknown where neither the loss nor `remember` needs them.
        """
        student = Seen(_single(outputs), self.ours.take())
        peer, teacher = self._taught(x, places)
        turn = Turn(student, teacher, targets, hard, self.task.loss, step / max(self.steps, 1), step, places, peer)
        # Losses are differences of numbers that are alike, so they are computed in single precision, whoever trains.
        with torch.autocast(student.outputs.device.type, enabled=False):
            return self.loss.total(self.part, turn)

    def _taught(self, x: Tensor, places: Tensor | None) -> tuple[Tensor | None, Seen]:
        """The outputs of a peer, and what the teacher says without a gradient."""
        if self.answers is not None:
            return None, self._remembered(x, places, self.answers)
        if self.peer:
            with self.autocast():
                outputs = self.teacher(x)
            outputs = _single(outputs)
            return outputs, Seen(outputs.detach(), {site: tap.detach() for site, tap in self.theirs.take().items()})
        return None, self._frozen(x)

    def _remembered(self, x: Tensor, places: Tensor | None, answers: Answers) -> Seen:
        """What the teacher says of images at these places, or said of them before."""
        if places is None:
            raise ConfigError("what the teacher said is remembered by image: give the `places` of each batch in the split")
        known = answers.get(places)
        if known is None:
            seen = self._frozen(x)
            answers.put(places, {OUTPUTS: seen.outputs, **seen.taps})
            known = answers.get(places)  # laid out as they will be the next time, so that sums come out the same
            assert known is not None
        known = {site: said.to(x.device) for site, said in known.items()}
        return Seen(known.pop(OUTPUTS), known)

    def _frozen(self, x: Tensor) -> Seen:
        if not self.folded:
            self._fold(x[:1])
        with torch.inference_mode(), self.autocast():
            outputs = self.teacher(x)
        # A copy made outside inference mode is an ordinary tensor, which autograd may keep for the student's gradient.
        return Seen(_single(outputs).clone(), self.theirs.take())

    def _fold(self, example: Tensor) -> None:
        """Compute the teacher's norms into the layers before them, but where taps look, which saves time."""
        self.folded = True
        if any(isinstance(m, torch.jit.ScriptModule) or "_orig_mod" in m._modules for m in self.teacher.modules()):
            return  # compiled: what runs is not what its modules say
        self.theirs.close()
        try:
            stay = {site.removesuffix(INPUT) for site in self.sites}
            self.teacher = perform(self.teacher, fold(self.teacher, example, stay)).eval().requires_grad_(False)
        except Exception as error:  # any code may be the teacher; one that cannot be watched or copied only runs slower
            warnings.warn(f"the teacher's norms stay, so its answers take longer and are the same: {error}", stacklevel=2)
        self.theirs = Watch(self.teacher, self.sites, grad=False)

    def average(self, all_reduce: Callable[..., Any]) -> None:
        """Average gradients over processes; no wrapper of the student knows what is learned beside it."""
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.copy_(all_reduce(parameter.grad, reduce_op="mean"))

    def remember(self, folder: Path) -> Answers:
        """Keep what the teacher says in a folder, and ask it no more for images whose answers are there.

        The folder belongs to this teacher, data, seed and precision, and to the sites that are tapped. `begin` and `end` of
        what is returned enclose each epoch. Raises `ConfigError` where the teacher learns; `total` raises it where what is
        tapped would take more than 4 GiB.
        """
        if self.peer:
            raise ConfigError(f"{self.loss.name}: the teacher learns, too, so what it says cannot be remembered")
        self.answers = Answers(folder, len(self.task.train))
        return self.answers

    def state(self) -> dict[str, Any]:
        """Adapters and peers, for a training that goes on bit-equal."""
        return {"learned": [module.state_dict() for module in self.modules()]}

    def load_state(self, stored: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        for module, kept in zip(self.modules(), stored["learned"], strict=True):
            module.load_state_dict(kept)

    def close(self) -> None:
        """Remove every hook from both networks."""
        self.ours.close()
        self.theirs.close()


def _single(outputs: Any) -> Tensor:
    """A network's own outputs in single precision or better, without those of auxiliary heads."""
    own: Tensor = heads(outputs)[0]
    return own.float() if own.itemsize < 4 else own


def places_of(batches: Batches, number: int) -> Tensor:
    """Which images of the split batch `number` of this process holds."""
    start = number * batches.layout.batch_size
    first, last = batches.layout.share(start, min(start + batches.layout.batch_size, len(batches.order)))
    return batches.order[first:last]
