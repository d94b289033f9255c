"""A task repeats itself bit for bit, however its batches are shared out."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lilliput.data import CropFlip, Task
from lilliput.errors import ConfigError, DataError, UnknownName
from lilliput.zoo.googlenet import Logits


def pair(count: int, shape: tuple[int, ...] = (8, 8, 3), seed: int = 0, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)
    return pixels, np.arange(count) % classes


def task(**options: Any) -> Task:
    return Task(pair(60), pair(15, seed=1), **options)


def run(batches: Any) -> tuple[Tensor, Tensor]:
    found = list(batches)
    assert len(found) == len(batches)
    return torch.cat([x for x, _ in found]), torch.cat([y for _, y in found])


def test_what_a_task_says_of_itself() -> None:
    t = task(classes=["ant", "bee", "cow"])
    assert (t.classes, t.class_names, t.input_shape) == (3, ("ant", "bee", "cow"), (3, 8, 8))
    assert (len(t.train), len(t.val), len(t.test)) == (54, 6, 15)
    assert "54" in repr(t) and t.split("val") is t.val


def test_val_is_carved_by_the_seed_or_taken_as_given() -> None:
    assert task().val.content() == task().val.content() != task(seed=1).val.content()
    given_ = Task(pair(60), pair(15), pair(9, seed=2))
    assert (len(given_.train), len(given_.val)) == (60, 9)


@settings(max_examples=25)
@given(st.sampled_from([1, 2, 3, 4]), st.integers(1, 6), st.integers(0, 3), st.booleans(), st.booleans())
def test_the_shares_of_several_processes_are_the_batches_of_one(
    world: int, share: int, epoch: int, drop_last: bool, channels_last: bool
) -> None:
    t, size = task(), share * world
    options: dict[str, Any] = {"shuffle_seed": 5, "augment": True, "epoch": epoch, "drop_last": drop_last}
    one = list(t.batches("train", size, **options, channels_last=channels_last))
    parts = [list(t.batches("train", size, **options, rank=rank, world=world)) for rank in range(world)]
    lengths = {len(part) for part in parts}
    assert max(lengths) == len(one) and (not drop_last or len(lengths) == 1)
    for k, (x, y) in enumerate(one):
        assert torch.equal(torch.cat([part[k][0] for part in parts if k < len(part)]), x)
        assert torch.equal(torch.cat([part[k][1] for part in parts if k < len(part)]), y)


@settings(max_examples=15)
@given(st.integers(1, 54), st.integers(1, 54))
def test_what_happens_to_an_image_does_not_depend_on_the_batch(one: int, other: int) -> None:
    t = task()
    first = run(t.batches("train", one, shuffle_seed=0, augment=True))
    second = run(t.batches("train", other, shuffle_seed=0, augment=True))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


def test_every_image_comes_once_an_epoch() -> None:
    t = task()
    x, y = run(t.batches("train", 7, shuffle_seed=0, epoch=3))
    plain, labels = run(t.batches("train", 54))
    assert not torch.equal(x, plain)
    assert sorted(map(tuple, x.flatten(1).tolist())) == sorted(map(tuple, plain.flatten(1).tolist()))
    assert torch.equal(labels, t.train.labels) and torch.equal(y.bincount(), labels.bincount())
    assert torch.equal(t.normalization.invert(plain).round().to(torch.uint8), torch.from_numpy(t.train.pixels))


def test_epochs_and_seeds_differ_and_repeat() -> None:
    t = task()
    passes = [dict(shuffle_seed=s, epoch=e, augment=True) for s in (0, 1) for e in (0, 1)]
    found = [run(t.batches("train", 10, **p))[0] for p in passes]
    again = [run(t.batches("train", 10, **p))[0] for p in passes]
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    assert not any(torch.equal(a, b) for i, a in enumerate(found) for b in found[:i])


def test_nothing_is_drawn_from_the_global_generators() -> None:
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    t = task()
    run(t.batches("train", 10, shuffle_seed=0, augment=True))
    t.calibration()
    assert torch.equal(torch.get_rng_state(), state) and np.array_equal(np.random.get_state()[1], numpy_state)


def test_only_train_is_augmented_and_only_when_asked() -> None:
    t = task(augment="augment.crop_flip(pad=2)")
    assert torch.equal(run(t.batches("train", 9))[0], run(t.batches("train", 9, augment=False))[0])
    assert not torch.equal(run(t.batches("train", 9))[0], run(t.batches("train", 9, augment=True))[0])
    off = task(augment="none")
    assert off.augment is None and torch.equal(run(off.batches("train", 9))[0], run(off.batches("train", 9, augment=True))[0])


def test_calibration_is_of_train_and_repeats() -> None:
    t = task()
    batches = t.calibration(images=20, batch=8)
    assert [len(y) for _, y in batches] == [8, 8, 4]
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(batches, task().calibration(20, 8), strict=True))
    seen = {tuple(x.tolist()) for x in torch.cat([x for x, _ in batches]).flatten(1)}
    train = {tuple(x.tolist()) for x in run(t.batches("train", 60))[0].flatten(1)}
    assert len(seen) == 20 and seen <= train
    assert sum(len(y) for _, y in t.calibration(images=1000)) == 54


def test_example_is_the_beginning_of_train() -> None:
    t = task()
    assert torch.equal(t.example(), run(t.batches("train", 60))[0][:1]) and t.example(70).shape == (70, 3, 8, 8)
    assert t.example().is_contiguous()


def test_an_id_is_of_everything_that_decides_a_result() -> None:
    same = [task(), task(name="other", classes=3), task(normalize="imagenet"), task(augment=CropFlip(pad=1))]
    assert len({t.id() for t in same}) == 1
    others = [
        task(seed=1), task(normalize="data"), task(normalize=((0.5,) * 3, (0.5,) * 3)), task(augment="none"),
        task(metric="top5"), task(val_fraction=0.2), task(classes=4), Task(pair(60, seed=9), pair(15, seed=1)),
        Task(pair(60), pair(15, seed=2)), Task(pair(60), pair(15, seed=1), pair(6)),
    ]  # fmt: skip
    assert len({t.id() for t in [*same, *others]}) == len(others) + 1


@pytest.mark.parametrize(
    ("shape", "normalize", "mean"),
    [
        ((8, 8, 3), None, (0.485, 0.456, 0.406)),
        ((8, 8, 3), "none", (0.0, 0.0, 0.0)),
        ((8, 8, 3), ((0.1, 0.2, 0.3), (1, 1, 1)), (0.1, 0.2, 0.3)),
        ((8, 8, 1), "none", (0.0,)),
    ],
)
def test_choices_of_normalisation(shape: tuple[int, ...], normalize: Any, mean: tuple[float, ...]) -> None:
    t = Task(pair(60, shape), pair(15, shape), normalize=normalize)
    assert t.mean == mean and all(s > 0 for s in t.std)


def test_grey_images_and_floats_are_normalised_by_train() -> None:
    for x, y in (pair(60, (8, 8)), (torch.randn(60, 3, 8, 8) * 7 + 5, np.arange(60) % 3)):
        t = Task((x, y), (x, y))
        seen = run(t.batches("train", 60))[0]
        assert abs(float(seen.mean())) < 1e-3 and abs(float(seen.std()) - 1) < 1e-2


def test_scores() -> None:
    t, outputs, targets = task(), torch.eye(3)[[0, 1, 2, 0]] * 9, torch.tensor([0, 1, 2, 1])
    assert float(t.metric(outputs, targets)) == 0.75
    assert torch.equal(t.loss(outputs, targets), torch.nn.functional.cross_entropy(outputs, targets))
    assert float(task(metric="top5").metric(outputs, targets)) == 1.0
    assert float(task(loss=lambda o, _: o.sum()).loss(outputs, targets)) == 36.0


def test_auxiliary_heads_join_the_loss_and_not_the_score() -> None:
    found, y = task(), torch.tensor([0, 1, 2])
    main, aux = torch.eye(3), (torch.ones(3, 3), 2 * torch.eye(3))
    expected = found.loss(main, y) + 0.3 * (found.loss(aux[0], y) + found.loss(aux[1], y))
    assert torch.allclose(found.loss(Logits(main, aux), y), expected)  # type: ignore[arg-type]
    assert found.metric(Logits(main, (1 - main,)), y) == 1  # type: ignore[arg-type]


def test_a_task_can_be_sent_to_another_process() -> None:
    t = task()
    again = pickle.loads(pickle.dumps(t))
    assert again.id() == t.id() and torch.equal(again.example(), t.example())


FLAWS: dict[str, Any] = {
    "no test split": lambda: Task(pair(60), None),
    "needs 2 or more": lambda: Task((pair(60)[0], [0] * 60), pair(15)),
    "no image of class `1`": lambda: Task((pair(60)[0], np.arange(60) % 2 * 2), pair(15)),
    "a label of `2` among `2` classes": lambda: task(classes=2),
    "test has images of class `3`": lambda: Task(pair(60), pair(15, classes=4)),
    "images of shape `(3, 9, 8)` where train has `(3, 8, 8)`": lambda: Task(pair(60), pair(15, (9, 8, 3))),
    "images of type `float32`": lambda: Task(pair(60), (torch.rand(15, 3, 8, 8), np.arange(15) % 3)),
    "val: no images": lambda: Task(pair(60), pair(15), pair(0)),
}


@pytest.mark.parametrize("message", FLAWS)
def test_bad_splits_are_refused(message: str) -> None:
    with pytest.raises(DataError) as caught:
        FLAWS[message]()
    assert message in str(caught.value) and "\n" not in str(caught.value)


CALLS: dict[str, tuple[type[Exception], Any]] = {
    "Did you mean `accuracy`": (UnknownName, lambda: task(metric="acuracy")),
    "Did you mean `imagenet`": (UnknownName, lambda: task(normalize="imagnet").mean),
    "Did you mean `train`": (UnknownName, lambda: task().split("trian")),
    "`1` channels and the images have `3`": (ConfigError, lambda: task(normalize=((0.5,), (0.5,))).mean),
    "`rank` (=2)": (ConfigError, lambda: task().batches("train", 8, rank=2, world=2)),
    "`batch_size` (=0)": (ConfigError, lambda: task().batches("train", 0)),
    "multiple of the processes": (ConfigError, lambda: task().batches("train", 9, world=2)),
    "`val_fraction` (=1.5)": (ConfigError, lambda: task(val_fraction=1.5)),
    "give an augmentation": (ConfigError, lambda: task(augment="mixup")),
    "`pad` must be 0 or more": (ConfigError, lambda: task(augment=CropFlip(pad=-1))),
}


@pytest.mark.parametrize("message", CALLS)
def test_bad_calls_are_refused(message: str) -> None:
    kind, call = CALLS[message]
    with pytest.raises(kind) as caught:
        call()
    assert message in str(caught.value) and "\n" not in str(caught.value)
