"""The digits are the scans, and their split is fixed."""

from __future__ import annotations

import numpy as np
import torch

from lilliput.data import open_task


def test_the_scans_and_their_split() -> None:
    from sklearn.datasets import load_digits

    task = open_task("digits")
    levels, labels = load_digits(return_X_y=True)
    assert (task.name, task.classes, task.input_shape) == ("digits", 10, (1, 8, 8))
    assert (len(task.train) + len(task.val), len(task.test)) == (1442, 355)
    counts, whole = task.test.labels.bincount(), torch.from_numpy(labels).bincount()
    assert torch.equal(counts, whole // 5)
    fives = [i for label in range(10) for i in np.flatnonzero(labels == label)[4::5]]
    assert np.array_equal(np.rint(task.test.pixels.reshape(-1, 64) * (16 / 255)), levels[sorted(fives)])
    assert task.test.pixels.max() == 255


def test_two_opens_and_two_seeds() -> None:
    one, two, other = open_task("digits"), open_task("digits"), open_task("digits", seed=1)
    assert one.id() == two.id() != other.id()
    assert one.test.content() == other.test.content() and one.val.content() != other.val.content()
    assert open_task("digits", size=16).input_shape == (1, 16, 16)
