"""Distillation from features: hints, attention, flow between layers, similarity."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lilliput.config import config
from lilliput.distill.contract import Feature, Turn, check_weights
from lilliput.distill.taps import Scene, Shape, Taps
from lilliput.errors import ConfigError


def same_images(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both features with the smaller height and width of the two, by averages over cells; (n, c) features as they are."""
    if student.dim() != 4 or teacher.dim() != 4 or student.shape[2:] == teacher.shape[2:]:
        return student, teacher
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    return F.adaptive_avg_pool2d(student, size), F.adaptive_avg_pool2d(teacher, size)


def same_shape(student: Tensor, teacher: Tensor) -> None:
    """Raise `ConfigError` that says both shapes where two features differ."""
    if student.shape != teacher.shape:
        raise ConfigError(
            f"the student gives {tuple(student.shape)} and the teacher {tuple(teacher.shape)}; set `adapt=true` for a learned "
            "adapter, or tap layers of one shape"
        )


def regressor(student: Shape, teacher: Shape) -> nn.Module:
    """A trained map from the student's channels to the teacher's: a 1x1 convolution or a matrix, and a batch norm."""
    if len(student) != len(teacher) or len(student) not in (2, 4):
        raise ConfigError(f"features of shapes {student} and {teacher}: tap (n, c, h, w) or (n, c) on both sides")
    inputs, outputs = student[1], teacher[1]
    if len(student) == 2:
        return nn.Sequential(nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs))
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))


class Adapted(Feature):
    """A loss that needs equal channels, and lets the student's pass through trained regressors first (`adapt`)."""

    adapt: bool

    def adapters(self, student: Sequence[Shape], teacher: Sequence[Shape], scene: Scene) -> nn.Module | None:
        """A regressor for every tap."""
        if not self.adapt:
            return None
        return nn.ModuleList(regressor(ours, theirs) for ours, theirs in zip(student, teacher, strict=True))

    def term(self, student: Sequence[Tensor], teacher: Sequence[Tensor], adapters: Any, turn: Turn) -> Tensor:
        """The term of one batch in a training."""
        if adapters is not None:
            student = [adapter(tap) for adapter, tap in zip(adapters, student, strict=True)]
        return self(student, teacher)


@config("distill.fitnets")
class Hints(Adapted):
    """A hidden layer of the student, through a regressor, predicts one of the teacher.

    L = Σ over taps of mean((r(s) - t)²), r a 1x1 convolution with a batch norm, trained along and thrown away
    `s` (n, c, h, w), `t` (n, c', h', w'), the larger image averaged down; in squared units of the features. Equal features
    without a regressor (`adapt=false`) give 0. The paper trains in two stages: hints alone (`hard=0`; weights behind
    the hint then stay as they are), then softened outputs.
    Romero, Ballas, Kahou, Chassang, Gatta, Bengio 2014, "FitNets: Hints for Thin Deep Nets", arXiv:1412.6550.
    """

    taps: Taps = ()
    adapt: bool = True
    weight: float = 100.0
    hard: float = 1.0

    default: ClassVar[str] = "middle"

    def __call__(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """The term of one batch."""
        total = student[0].new_zeros(())
        for pair in zip(student, teacher, strict=True):
            ours, theirs = same_images(*pair)
            same_shape(ours, theirs)
            total = total + F.mse_loss(ours, theirs)
        return total


@config("distill.at")
class Attention(Feature):
    """The student looks where the teacher looks: maps of mean squared activation agree, each of length 1.

    L = Σ over taps of mean((q(s) - q(t))²), averaged over images and places;  q(x) = a / ‖a‖,  a = mean over channels of |x|^p
    `s` (n, c, h, w), `t` (n, c', h', w'), the larger image averaged down; any number of channels; without unit.
    Zagoruyko, Komodakis 2016, "Paying More Attention to Attention", arXiv:1612.03928.
    """

    taps: Taps = ()
    power: float = 2.0
    weight: float = 1000.0
    hard: float = 1.0

    def check(self) -> None:
        """Raise `ConfigError` for options that can never work."""
        check_weights(self)
        if not self.power >= 1:
            raise ConfigError(f"`power` (={self.power}) is from 1: below it, the slope has no bound where a feature is 0")

    def __call__(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """The term of one batch."""
        total = student[0].new_zeros(())
        for pair in zip(student, teacher, strict=True):
            ours, theirs = (self.map(x) for x in same_images(*pair))
            total = total + F.mse_loss(ours, theirs)
        return total

    def map(self, x: Tensor) -> Tensor:
        """Attention (n, h·w) of features (n, c, h, w), of length 1 for every image."""
        if x.dim() != 4:
            raise ConfigError(f"attention is a map of places, and this tap has the shape {tuple(x.shape)}; tap (n, c, h, w)")
        return unit(x.abs().pow(self.power).mean(1).flatten(1))


@config("distill.fsp")
class Flow(Adapted):
    """The student solves the problem as the teacher does: the flow from each tapped layer to the next agrees.

    L = Σ over neighbouring taps of mean((G_s - G_t)²), averaged over images and entries
    G(x, y)[i, j] = Σ over places of x[i]·y[j] / (h·w), (n, m, k) for features of m and k channels, the larger image
    brought down by maxima
    Needs equal channels, or `adapt`. Equal features give 0. The paper trains in two stages: flow alone (`hard=0`), then
    labels alone.
    Yim, Joo, Bae, Kim 2017, "A Gift from Knowledge Distillation", CVPR, pages 7130-7138.
    """

    taps: Taps = ()
    adapt: bool = False
    weight: float = 50.0
    hard: float = 1.0

    def __call__(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """The term of one batch."""
        if len(student) < 2:
            raise ConfigError(f"flow runs between layers, and `taps` names {len(student)}; name two or more")
        total = student[0].new_zeros(())
        for i in range(len(student) - 1):
            ours, theirs = flow(student[i], student[i + 1]), flow(teacher[i], teacher[i + 1])
            same_shape(ours, theirs)
            total = total + F.mse_loss(ours, theirs)
        return total


def flow(first: Tensor, second: Tensor) -> Tensor:
    """The flow matrix (n, m, k) from features (n, m, h, w) to features (n, k, h', w')."""
    if first.dim() != 4 or second.dim() != 4:
        raise ConfigError(
            f"flow runs between images, and these taps have the shapes {tuple(first.shape)}, {tuple(second.shape)}"
        )
    size = (min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3]))
    one, two = (F.adaptive_max_pool2d(x, size).flatten(2) for x in (first, second))  # (n, m, h·w), (n, k, h·w)
    return one @ two.mT / one.shape[2]


@config("distill.sp")
class Similarity(Feature):
    """Images that are alike to the teacher are alike to the student.

    L = Σ over taps of ‖g(s) - g(t)‖² / n²;  g(x) = x·xᵀ with every row of length 1, x (n, features)
    Any shapes, the same images; without unit. Equal features give 0. Costs n² products a tap.
    Tung, Mori 2019, "Similarity-Preserving Knowledge Distillation", arXiv:1907.09682.
    """

    taps: Taps = ()
    weight: float = 3000.0
    hard: float = 1.0

    default: ClassVar[str] = "last"

    def __call__(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """The term of one batch."""
        total = student[0].new_zeros(())
        for ours, theirs in zip(student, teacher, strict=True):
            total = total + F.mse_loss(alike(ours), alike(theirs))
        return total


def alike(x: Tensor) -> Tensor:
    """How alike the images of a batch are, (n, n), rows of length 1."""
    flat = x.flatten(1)
    return unit(flat @ flat.T)


def unit(x: Tensor) -> Tensor:
    """Vectors along the last side with length 1; those of no length stay 0, and have no slope."""
    length = x.square().sum(-1, keepdim=True)
    there = length > 1e-12
    return torch.where(there, x * length.clamp(min=1e-12).rsqrt(), 0)


@config("distill.ft")
class Factors(Feature):
    """The student paraphrases: its factors, by a translator, equal those of the teacher, by a paraphraser.

    before the share `first` of all steps:  L = Σ over taps of mean((decode(encode(t)) - t)²), the student sees labels only
    from then on:  L = weight · Σ over taps of mean(|f(s) / ‖f(s)‖ - encode(t) / ‖encode(t)‖|), the paraphraser frozen
    f, encode: three 3x3 convolutions with batch norm and leaky ReLU, down to `rate` of the teacher's channels
    `s` (n, c, h, w), `t` (n, c', h', w'), the larger image averaged down; without unit.
    Kim, Park, Kwak 2018, "Paraphrasing Complex Network: Network Compression via Factor Transfer", arXiv:1802.04977.
    """

    taps: Taps = ()
    rate: float = 0.5
    first: float = 0.2
    weight: float = 500.0
    hard: float = 1.0

    default: ClassVar[str] = "last"

    def check(self) -> None:
        """Raise `ConfigError` for options that can never work."""
        check_weights(self)
        if not (0 < self.rate and 0 < self.first < 1):
            raise ConfigError(f"`rate` (={self.rate}) is above 0, `first` (={self.first}) between 0 and 1")

    def __call__(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """The term of one batch, from the factors of both."""
        total = student[0].new_zeros(())
        for pair in zip(student, teacher, strict=True):
            ours, theirs = same_images(*pair)
            same_shape(ours, theirs)
            total = total + F.l1_loss(unit(ours.flatten(1)), unit(theirs.flatten(1)))
        return total

    def adapters(self, student: Sequence[Shape], teacher: Sequence[Shape], scene: Scene) -> nn.Module:
        """A translator and a paraphraser for every tap."""
        for shape in (*student, *teacher):
            if len(shape) != 4:
                raise ConfigError(f"factors are made of images (n, c, h, w), and a tap has the shape {shape}")
        made = nn.ModuleDict({"translators": nn.ModuleList(), "encoders": nn.ModuleList(), "decoders": nn.ModuleList()})
        for ours, theirs in zip(student, teacher, strict=True):
            factors = max(1, round(self.rate * theirs[1]))
            made["translators"].append(_convolutions(ours[1], ours[1], factors, factors))  # type: ignore[operator]
            made["encoders"].append(_convolutions(theirs[1], theirs[1], factors, factors))  # type: ignore[operator]
            made["decoders"].append(_convolutions(factors, factors, theirs[1], theirs[1]))  # type: ignore[operator]
        return made

    def term(self, student: Sequence[Tensor], teacher: Sequence[Tensor], adapters: Any, turn: Turn) -> Tensor:
        """The term of one batch in a training."""
        learning = turn.done < self.first
        adapters["encoders"].train(learning)
        if learning:  # divided by the weight that will be put on it, since rebuilding has none
            rebuilt = (d(e(t)) for d, e, t in zip(adapters["decoders"], adapters["encoders"], teacher, strict=True))
            return sum(F.mse_loss(r, t) for r, t in zip(rebuilt, teacher, strict=True)) / max(self.weight, 1e-12)  # type: ignore[return-value]
        with torch.no_grad():
            theirs = [encode(tap) for encode, tap in zip(adapters["encoders"], teacher, strict=True)]
        return self([translate(tap) for translate, tap in zip(adapters["translators"], student, strict=True)], theirs)


def _convolutions(*channels: int) -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(channels):
        layers += [nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)
