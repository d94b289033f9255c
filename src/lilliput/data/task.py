"""What a network is for: images in three splits, a loss, and a metric."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lilliput.config import parse
from lilliput.data.augment import CropFlip, default
from lilliput.data.batches import Batches, Layout, chances, order
from lilliput.data.images import Images, images_of
from lilliput.data.loaders import read_loader
from lilliput.data.normalize import IMAGENET, Normalization, measure
from lilliput.data.scores import AUX, Score, heads, losses, metrics
from lilliput.data.seeds import generator
from lilliput.data.splits import carve
from lilliput.data.wording import named
from lilliput.errors import ConfigError, DataError, UnknownName, at


class Task:
    """Images to learn from, to choose by and to judge by, with the loss that trains and the metric that judges.

    train, test, val: `Images`, a pair (x, y) of arrays or tensors, or a map-style torch data set (read once into
    memory). x is `uint8` (n, H, W, C) or (n, H, W), or floating point (n, C, H, W). Without `val`, a stratified
    `val_fraction` of train is held out by `seed`; nothing is ever chosen on test.

    classes: their number or their names; otherwise the largest label of train says it, and none below may be missing.
    normalize: `"data"` (mean and deviation of train; the default for grey images and floating point), `"imagenet"` (the
    constants that most published weights expect; the default for RGB bytes), `"none"`, or (mean, std) with one number
    a channel; all of pixels in [0, 1].
    augment: an augmentation, its text, `"none"`, or nothing for what such images stand as a rule (`augment.default`).
    loss, metric: a name (`scores.losses`, `scores.metrics`) or a function of outputs and targets.
    """

    def __init__(
        self,
        train: Any,
        test: Any,
        val: Any = None,
        *,
        classes: int | Sequence[str] | None = None,
        normalize: str | tuple[Sequence[float], Sequence[float]] | None = None,
        augment: CropFlip | str | None = None,
        loss: str | Score = "cross_entropy",
        metric: str | Score = "accuracy",
        name: str = "task",
        seed: int = 0,
        val_fraction: float = 0.1,
    ) -> None:
        if test is None:
            raise DataError("no test split; it is never carved from train, so set images aside and give `test`")
        self.name, self.seed = name, seed
        self.train, self.test = images_of(train, "train"), images_of(test, "test")
        self.class_names = _names(self.train.labels, classes)
        if val is None:
            keep, held = carve(self.train.labels, val_fraction, seed)
            self.train, self.val = self.train.subset(keep), self.train.subset(held)
        else:
            self.val = images_of(val, "val")
        for split, images in (("val", self.val), ("test", self.test)):
            _check_alike(self.train, images, split, len(self.class_names))
        self._normalize = normalize
        self.augment = _augmentation(augment, self.input_shape)
        self._loss = losses[loss] if isinstance(loss, str) else loss
        self._metric = metrics[metric] if isinstance(metric, str) else metric

    @classmethod
    def of_loaders(
        cls,
        train: Any,
        test: Any,
        val: Any = None,
        *,
        classes: int | Sequence[str] | None = None,
        normalize: str | tuple[Sequence[float], Sequence[float]] | None = None,
        augment: CropFlip | str = "none",
        name: str = "loaders",
        seed: int = 0,
    ) -> Task:
        """A task of PyTorch `DataLoader`s, or of data sets, each read once into memory in the order that `seed` gives.

        A batch is a pair (x, y), or has `image` or `pixel_values`, and `label` or `labels`: x (b, C, H, W) floating point or
        `uint8`, y (b) whole numbers from 0. Batch size and order are not taken over: training asks for its own.

        classes    as of any `Task`: the largest label of train says their number, unless it or their names are given
        normalize  floating point is taken as it comes (`"none"`), for the loader's transform has normalised it, and a network
                   trained with it expects no more; bytes are normalised as in any `Task`
        augment    none by default. A random transform in the loader would be drawn once and for all, so it is refused where
                   it shows: leave it out there, and say here what is to be drawn anew each epoch, `augment.crop_flip(pad=4)`
        Without `val`, a tenth of train is held out by `seed`. Raises `DataError` that says what came and what is wanted.
        """
        read = {"train": train, "test": test} | ({} if val is None else {"val": val})
        images = {split: read_loader(loader, split, seed) for split, loader in read.items()}
        floats = images["train"].dtype != np.uint8
        return cls(
            images["train"], images["test"], images.get("val"), classes=classes, augment=augment, name=name, seed=seed,
            normalize="none" if normalize is None and floats else normalize,
        )  # fmt: skip

    def __repr__(self) -> str:
        sizes = ", ".join(f"{split} {len(self.split(split))}" for split in ("train", "val", "test"))
        return f"Task({self.name}: {' x '.join(map(str, self.input_shape))}, {self.classes} classes, {sizes})"

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of what a network sees."""
        return self.train.shape

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel that is subtracted, of pixels in [0, 1]."""
        return self.normalization.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel that is divided by, of pixels in [0, 1]."""
        return self.normalization.std

    @cached_property
    def normalization(self) -> Normalization:
        """How pixels become what a network sees; measured on train when it is first asked for."""
        choice, scale = self._choice(), 255.0 if self.train.dtype == np.uint8 else 1.0
        channels = self.input_shape[0]
        if choice == "data":
            return Normalization(*measure(self.train), scale)
        mean, std = ((0.0,) * channels, (1.0,) * channels) if choice == "none" else choice
        if len(mean) != channels:
            raise ConfigError(f"`normalize` holds `{len(mean)}` channels and the images have `{channels}`; try `data`")
        return Normalization(tuple(map(float, mean)), tuple(map(float, std)), scale)

    def split(self, name: str) -> Images:
        """The split called `train`, `val` or `test`."""
        splits = {"train": self.train, "val": self.val, "test": self.test}
        if name not in splits:
            raise UnknownName("split", name, splits)
        return splits[name]

    def id(self) -> str:
        """Twelve hexadecimal digits of the SHA-256 of all that decides a result: the content of the splits, seed,
        normalisation, augmentation, loss and metric. Paths and names have no part in it."""
        parts = {
            "content": [self.split(split).content() for split in ("train", "val", "test")],
            "classes": self.classes,
            "seed": self.seed,
            "normalize": self._choice(),
            "augment": self.augment.text() if self.augment else "none",
            "scores": [_name(self._loss), _name(self._metric)],
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The scalar that training lowers: loss(outputs), plus 0.3 of the loss of every auxiliary head."""
        main, aux = heads(outputs)
        return sum((AUX * self._loss(each, targets) for each in aux), self._loss(main, targets))

    def metric(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The scalar that results are judged by; for `accuracy` the fraction that is right. Auxiliary heads have no say."""
        return self._metric(heads(outputs)[0], targets)

    def example(self, batch: int = 1) -> Tensor:
        """The first `batch` images of train as a network sees them, from the beginning again where train is smaller."""
        pixels, _ = self.train.gather(torch.arange(batch) % len(self.train))
        return self.normalization.apply(pixels)

    def calibration(self, images: int = 256, batch: int = 64) -> list[tuple[Tensor, Tensor]]:
        """Batches (x, y) of so many different images of train, not augmented: the first of `drawn`."""
        return list(self.drawn(batch, images))

    def drawn(self, batch: int = 64, images: int | None = None) -> Batches:
        """Images of train, not augmented, in an order drawn by the task's seed; read only when they are asked for."""
        places = torch.randperm(len(self.train), generator=generator("calibration", self.seed))[:images]
        return Batches(self.train, self.normalization, places, Layout(batch))

    def batches(
        self,
        split: str,
        batch_size: int,
        *,
        shuffle_seed: int | None = None,
        augment: bool = False,
        epoch: int = 0,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = False,
        channels_last: bool = False,
        device: torch.device | str = "cpu",
    ) -> Batches:
        """One pass over a split, in the order of the data or shuffled by seed and epoch.

        `batch_size` counts the images of all `world` processes together; each has its part of every batch. On a
        `device`, bytes are moved and everything after that happens there.
        """
        images = self.split(split)
        chosen = self.augment if augment else None
        seed = self.seed if shuffle_seed is None else shuffle_seed
        return Batches(
            images,
            self.normalization,
            order(len(images), shuffle_seed, epoch),
            Layout(batch_size, rank, world, drop_last, channels_last, device),
            chosen,
            chances(len(images), chosen.draws, seed, epoch) if chosen else None,
        )

    def _choice(self) -> Any:
        """The normalisation asked for, as `"data"`, `"none"` or (mean, std); the default filled in."""
        rgb = self.train.dtype == np.uint8 and self.input_shape[0] == 3
        choice = self._normalize if self._normalize is not None else ("imagenet" if rgb else "data")
        if not isinstance(choice, str):
            mean, std = choice
            return (tuple(map(float, mean)), tuple(map(float, std)))
        if choice not in ("data", "imagenet", "none"):
            raise UnknownName("normalisation", choice, ("data", "imagenet", "none"))
        return IMAGENET if choice == "imagenet" else choice


def _names(labels: Tensor, classes: int | Sequence[str] | None) -> tuple[str, ...]:
    """Class names, after a look at the labels of train."""
    largest = int(labels.max())
    names = tuple(map(str, range(classes if isinstance(classes, int) else largest + 1)))
    if classes is not None and not isinstance(classes, int):
        names = tuple(map(str, classes))
    if len(names) < 2:
        raise DataError(f"`{len(names)}` class in train; a classifier needs 2 or more")
    if largest >= len(names):
        raise DataError(f"train: a label of `{largest}` among `{len(names)}` classes; labels count from 0")
    missing = [names[i] for i, count in enumerate(labels.bincount(minlength=len(names)).tolist()) if not count]
    if missing and classes is None:
        raise DataError(f"train has no image of class {named(missing)}; close the gap, or give the number of `classes`")
    return names


def _check_alike(train: Images, other: Images, split: str, classes: int) -> None:
    """Raise `DataError` where a split has other classes, another size or another type of pixels than train."""
    unknown = sorted(set(other.labels.unique().tolist()) - set(train.labels.unique().tolist()))
    if unknown:
        raise DataError(f"{split} has images of class {named(map(str, unknown))}, of which train has none")
    for what, one, two in (("shape", train.shape, other.shape), ("type", train.dtype, other.dtype)):
        if one != two:
            raise DataError(f"{split}: images of {what} `{two}` where train has `{one}`; bring both to one {what}")


def _augmentation(choice: CropFlip | str | None, shape: tuple[int, int, int]) -> CropFlip | None:
    if choice is None:
        return default(shape)
    if choice == "none":
        return None
    found = parse(choice) if isinstance(choice, str) else choice
    if not isinstance(found, CropFlip):
        raise ConfigError(f"`augment` (={choice!r}): give an augmentation, such as `augment.crop_flip(pad=4)`, or `none`")
    with at("augment"):
        found.check()
    return found


def _name(score: Score) -> str:
    """What stands for a function in an id."""
    return f"{getattr(score, '__module__', '')}.{getattr(score, '__qualname__', type(score).__qualname__)}"
