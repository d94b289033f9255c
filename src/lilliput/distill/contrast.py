"""Contrastive representation distillation: one image's two embeddings agree, those of other classes do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lilliput.config import config
from lilliput.data.seeds import generator
from lilliput.distill.contract import Feature, Turn, check_temperature, check_weights
from lilliput.distill.taps import Scene, Shape, Taps
from lilliput.errors import ConfigError

EPSILON = 1e-7


@config("distill.crd")
class Contrast(Feature):
    """Student and teacher embed the same image alike, and images of other classes apart.

    L = mean over images of -log h(a, p) - Σ over negatives of log(1 - h(a, m)), for student anchors and for teacher anchors
    h(a, m) = v / (v + k/N),  v = exp(a·m / T) / Z;  a, p, m of length 1 and `dim` numbers, by a matrix each
    N training images, k negatives of the anchor; p and m come from memories of the other network's embeddings, which
    move by `momentum` when an image is seen; Z is fixed by the first batch. In nats.
    Draws `negatives` images once for all anchors of a batch and leaves those of the anchor's own class out, where the
    paper draws for every anchor anew. Costs 2·n·negatives·dim products a step, and 2·N·dim numbers of memory, which are
    stored with the state; each of several processes has its own.
    Tian, Krishnan, Isola 2019, "Contrastive Representation Distillation", arXiv:1910.10699.
    """

    taps: Taps = ()
    dim: int = 128
    negatives: int = 4096
    temperature: float = 0.07
    momentum: float = 0.5
    weight: float = 0.8
    hard: float = 1.0

    default: ClassVar[str] = "embedding"

    def check(self) -> None:
        """Raise `ConfigError` for options that can never work."""
        check_weights(self)
        check_temperature(self.temperature)
        if not (self.dim >= 1 and self.negatives >= 1 and 0 <= self.momentum < 1):
            raise ConfigError(
                f"`dim` (={self.dim}) and `negatives` (={self.negatives}) are from 1, `momentum` (={self.momentum}) from 0 "
                "and below 1"
            )

    def adapters(self, student: Sequence[Shape], teacher: Sequence[Shape], scene: Scene) -> nn.Module:
        """Embeddings and memories for one tap."""
        if len(student) != 1:
            raise ConfigError(f"contrast takes one tap, and `taps` names {len(student)}")
        sizes = [int(torch.Size(shape[1:]).numel()) for shape in (student[0], teacher[0])]
        return Memories(self, sizes[0], sizes[1], scene.task.train.labels, scene.seed)

    def term(self, student: Sequence[Tensor], teacher: Sequence[Tensor], adapters: Any, turn: Turn) -> Tensor:
        """The term of one batch in a training."""
        if turn.places is None:
            raise ConfigError("contrast remembers every image, so it must know which ones a batch holds (`places`)")
        loss: Tensor = adapters(student[0], teacher[0], turn.targets, turn.places, turn.step)
        return loss


class Memories(nn.Module):
    """Both embeddings, and what they last said of every training image: (N, dim) each, rows of length 1."""

    of_student: Tensor
    of_teacher: Tensor
    scales: Tensor
    labels: Tensor

    def __init__(self, loss: Contrast, ours: int, theirs: int, labels: Tensor, seed: int) -> None:
        super().__init__()
        self.loss, self.seed = loss, seed
        self.student, self.teacher = nn.Linear(ours, loss.dim), nn.Linear(theirs, loss.dim)
        for name in ("of_student", "of_teacher"):
            self.register_buffer(name, F.normalize(torch.randn(len(labels), loss.dim), dim=1))
        self.register_buffer("scales", torch.zeros(2))  # Z of both directions; 0 until the first batch
        self.register_buffer("labels", labels.clone(), persistent=False)

    def forward(self, student: Tensor, teacher: Tensor, targets: Tensor, places: Tensor, step: int) -> Tensor:
        """The term of a batch of images at `places` of the training split; remembers them."""
        places = places.to(student.device)
        ours = F.normalize(self.student(student.flatten(1)), dim=1)
        theirs = F.normalize(self.teacher(teacher.flatten(1)), dim=1)
        drawn = torch.randint(len(self.labels), (self.loss.negatives,), generator=generator("negatives", self.seed, step))
        drawn = drawn.to(student.device)
        other = self.labels[drawn][None] != targets[:, None]  # (n, negatives)
        total = student.new_zeros(())
        for side, (anchor, memory) in enumerate(((ours, self.of_teacher), (theirs, self.of_student))):
            total = total + self._side(anchor, memory[places], memory[drawn], other, side)
        self._remember(self.of_student, ours, places)
        self._remember(self.of_teacher, theirs, places)
        return total

    def _side(self, anchor: Tensor, positive: Tensor, negatives: Tensor, other: Tensor, side: int) -> Tensor:
        near = torch.exp((anchor * positive).sum(1) / self.loss.temperature)  # (n,)
        far = torch.exp(anchor @ negatives.T / self.loss.temperature)  # (n, negatives)
        if not self.scales[side]:
            mean = (near.sum() + far[other].sum()) / (len(near) + other.sum())
            self.scales[side] = mean.detach() * len(self.labels)
        scale = self.scales[side].clone()  # the other direction may still write into its neighbour
        return contrast(near / scale, far / scale, other, len(self.labels))

    @torch.no_grad()
    def _remember(self, memory: Tensor, embedded: Tensor, places: Tensor) -> None:
        momentum = self.loss.momentum
        memory[places] = F.normalize(momentum * memory[places] + (1 - momentum) * embedded.detach(), dim=1)


def contrast(near: Tensor, far: Tensor, other: Tensor, images: int) -> Tensor:
    """The loss from v of positives (n,) and negatives (n, k), of which those that `other` names count; N = `images`."""
    count = other.sum(1) / images  # (n,) k/N
    noise = count[:, None]
    yes = torch.log(near / (near + count + EPSILON))
    no = torch.log(noise / (far + noise + EPSILON) + EPSILON * (noise == 0))
    return -(yes + torch.where(other, no, 0).sum(1)).mean()
