"""Tasks of PyTorch loaders: every image once, in an order that the seed gives; and what cannot be used says what came."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import lilliput as lp
from lilliput.data import CropFlip
from lilliput.errors import DataError

X = torch.randn(30, 3, 6, 5, generator=torch.Generator().manual_seed(0))
Y = torch.arange(30) % 3
TRAIN, TEST = TensorDataset(X, Y), TensorDataset(X[:9] + 1, Y[:9])


def rows(images: Any) -> list[tuple[bytes, int]]:
    return sorted((p.tobytes(), int(y)) for p, y in zip(images.pixels, images.labels, strict=True))


def test_every_image_once_as_it_comes_and_in_the_order_of_the_seed() -> None:
    def made(seed: int = 0) -> lp.Task:
        return lp.Task.of_loaders(DataLoader(TRAIN, 7, shuffle=True), DataLoader(TEST, 4), DataLoader(TEST, 4), seed=seed)

    before = torch.get_rng_state()
    task = made()
    assert torch.equal(torch.get_rng_state(), before)
    wanted = lp.Task((X.numpy(), Y.numpy()), TEST, TEST, normalize="none", augment="none")
    assert rows(task.train) == rows(wanted.train) and rows(task.test) == rows(wanted.test)
    assert task.id() == made().id() and made().train.content() != made(1).train.content()
    assert task.input_shape == (3, 6, 5) and task.classes == 3 and task.augment is None
    x, y = next(iter(task.batches("test", 9)))
    assert torch.equal(x, X[:9] + 1) and torch.equal(y, Y[:9])


def test_bytes_and_dicts_and_data_sets_without_a_loader() -> None:
    small = (X.clamp(0, 1) * 255).to(torch.uint8)
    items = [{"pixel_values": x, "labels": int(y)} for x, y in zip(small, Y, strict=True)]
    task = lp.Task.of_loaders(DataLoader(items, 8), TensorDataset(small[:6], Y[:6]), augment="augment.crop_flip(pad=1)")  # type: ignore[arg-type]
    assert task.train.dtype == np.uint8 and task.augment == CropFlip(pad=1) and task.mean == (0.485, 0.456, 0.406)
    assert len(task.train) + len(task.val) == 30 and len(task.val) == 3
    assert torch.equal(torch.from_numpy(task.test.pixels).permute(0, 3, 1, 2), small[:6])


def test_a_last_and_smaller_batch_is_not_dropped_and_a_sampler_chooses() -> None:
    half = SubsetRandomSampler(range(0, 30, 2))
    task = lp.Task.of_loaders(DataLoader(TRAIN, 8, sampler=half), DataLoader(TEST, 7, drop_last=True), TEST)
    assert len(task.train) == 15 and len(task.test) == len(TEST)
    batches = DataLoader(TRAIN, batch_sampler=BatchSampler(half, 8, drop_last=True))
    assert rows(lp.Task.of_loaders(batches, TEST, TEST).train) == rows(task.train)
    assert rows(task.train) == rows(lp.Task((X[::2].numpy(), Y[::2].numpy()), TEST, TEST, normalize="none").train)


class Brighter(DataLoader[Any]):
    """A loader that changes what it gives."""

    def __iter__(self) -> Any:
        return ((x + 1, y) for x, y in super().__iter__())


def test_a_loader_of_ones_own_is_read_as_it_gives() -> None:
    task = lp.Task.of_loaders(Brighter(TRAIN, 8), TEST, TEST)
    assert rows(task.train) == rows(lp.Task(((X + 1).numpy(), Y.numpy()), TEST, TEST, normalize="none").train)


class Endless(IterableDataset[tuple[Tensor, int]]):
    """Not endless, but of unknown length."""

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        return ((x, int(y)) for x, y in zip(X, Y, strict=True))


class Random(Dataset[tuple[Tensor, int]]):
    """A transform that draws anew each time."""

    def __len__(self) -> int:
        return 30

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        return X[place].flip(2) if torch.rand(()) < 0.5 else X[place], int(Y[place])


def test_a_stream_is_read_to_its_end() -> None:
    assert len(lp.Task.of_loaders(DataLoader(Endless(), 8), TEST, TEST).train) == 30


@pytest.mark.parametrize(
    ("loader", "says"),
    [
        (DataLoader(Random(), 8), "other pixels each time.*give `augment`"),
        (Random(), "other pixels each time"),
        (DataLoader(TRAIN, 8, sampler=WeightedRandomSampler([1.0] * 30, 60)), r"`WeightedRandomSampler` gives 60 images, and"),
        ([X[:4]], r"train, batch 1: a `Tensor` came; wanted are pairs"),
        ([(X[:4], Y[:4], Y[:4])], r"a `tuple` of 3 came"),
        ([{"picture": X[:4], "label": Y[:4]}], "a dict of `picture, label` came"),
        ([(X[:4].numpy(), Y[:4])], "`ndarray` and `Tensor` came"),
        ([(X[:4], Y[:4].float())], r"y `\(4,\) float32` came"),
        ([(X[:4, 0], Y[:4])], r"x `\(4, 6, 5\) float32`"),
        ([(X[:4].long(), Y[:4])], r"x `\(4, 3, 6, 5\) int64`"),
        ([(X[:4], torch.eye(3)[Y[:4]].long())], r"y `\(4, 3\) int64`"),
        ([(X[:4], Y[:4]), (X[:4, :, :3], Y[:4])], r"batch 2: images `\(4, 3, 3, 5\) float32` after"),
        ([], "gave no batch"),
        (X, "a `Tensor` is no loader"),
        (3, "a `int` is no loader"),
        ([(X[:4] * float("nan"), Y[:4])], "every value must be finite"),
    ],
)
def test_what_cannot_be_used_says_what_came(loader: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        lp.Task.of_loaders(loader, TEST)
