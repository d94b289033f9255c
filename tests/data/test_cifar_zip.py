"""The real thing: 55,000 JPEG files of CIFAR-10 in one zip."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lilliput.data import Task, open_task
from lilliput.data.sources import sources

# Read before any test sets the variable to a folder of its own.
ZIP = Path(os.environ.get("LILLIPUT_DATA", "")) / "cifar10.zip"
CACHE = os.environ.get("LILLIPUT_CACHE", "")

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not ZIP.is_file(), reason="no cifar10.zip in $LILLIPUT_DATA"),
]


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> Task:
    """Decoded into the cache that other tests and commands use too, so that it is decoded once."""
    monkeypatch.setenv("LILLIPUT_DATA", str(ZIP.parent))
    monkeypatch.setenv("LILLIPUT_CACHE", CACHE)
    return open_task("cifar10")


def test_every_image_is_there(task: Task) -> None:
    assert sources["cifar10"].where() is not None and task.input_shape == (3, 32, 32)
    assert (len(task.train), len(task.val), len(task.test)) == (45000, 5000, 5000)
    assert task.class_names[0] == "airplane" and task.class_names[9] == "truck"
    assert task.val.labels.bincount().tolist() == task.test.labels.bincount().tolist() == [500] * 10


def test_the_first_and_the_last_are_what_pillow_reads(task: Task) -> None:
    from PIL import Image

    with zipfile.ZipFile(ZIP) as archive:
        for place, name in ((0, "test/airplane/0000.jpg"), (4999, "test/truck/0499.jpg")):
            if name in archive.namelist():
                wanted = np.asarray(Image.open(io.BytesIO(archive.read(name))))
                assert np.array_equal(task.test.gather([place])[0][0].numpy(), wanted)
