"""A split is what plain indexing says it is."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lilliput.data.images import Images, images_of
from lilliput.errors import DataError


def some(count: int = 12, shape: tuple[int, int, int] = (4, 5, 3)) -> Images:
    pixels = np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)
    return Images(pixels, torch.arange(count) % 3)


@given(st.lists(st.integers(0, 11), min_size=1), st.data())
def test_gather_of_a_subset_is_direct_indexing(first: list[int], data: st.DataObject) -> None:
    second = data.draw(st.lists(st.integers(0, len(first) - 1), min_size=1))
    third = data.draw(st.lists(st.integers(0, len(second) - 1)))
    images = some()
    part = images.subset(first).subset(second)
    pixels, labels = part.gather(third)
    assert np.array_equal(pixels.numpy(), images.pixels[first][second][third])
    assert torch.equal(labels, images.labels[first][second][third])
    assert np.array_equal(part.pixels, images.pixels[first][second]) and len(part) == len(second)


def test_what_gather_gives_is_a_copy() -> None:
    images = some()
    before = images.pixels.copy()
    images.gather([0, 1])[0].zero_()
    assert np.array_equal(images.pixels, before)


@given(st.integers(1, 30), st.integers(1, 9))
def test_chunks_are_all_pixels_in_order(count: int, size: int) -> None:
    images = some(count)
    assert np.array_equal(np.concatenate(list(images.chunks(size))), images.pixels)


def test_content_is_of_pixels_and_labels_and_shape() -> None:
    one = some()
    pixels, labels = one.pixels, one.labels
    changed = pixels.copy()
    changed[3, 2, 1, 0] ^= 1
    others = [Images(changed, labels), Images(pixels, labels.flip(0)), Images(pixels.transpose(0, 2, 1, 3), labels)]
    assert some().content() == one.content()
    assert len({one.content(), *(o.content() for o in others)}) == 4


def test_content_of_a_subset_does_not_depend_on_when_it_is_asked_for() -> None:
    asked, other = some(), some()
    asked.content()
    assert asked.subset([1, 2]).content() == other.subset([1, 2]).content() != other.subset([2, 1]).content()
    assert asked.subset([3, 1, 2]).subset([1, 2]).content() == other.subset([1, 2]).content()


def test_a_memory_map_travels_as_the_name_of_its_file(tmp_path: object) -> None:
    images = some(2000)
    images.pixels.tofile(f"{tmp_path}/pixels")
    mapped = Images(np.memmap(f"{tmp_path}/pixels", np.uint8, "r", shape=images.pixels.shape), images.labels)
    data = pickle.dumps(mapped.subset(range(1000)))
    again = pickle.loads(data)
    assert len(data) < images.pixels.nbytes / 2
    assert np.array_equal(again.pixels, images.pixels[:1000])


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.sampled_from([1, 3]))
def test_every_spelling_of_pixels_arrives_as_nhwc(n: int, h: int, w: int, c: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (n, h, w, c), dtype=np.uint8)
    labels = np.zeros(n, dtype=np.int32)
    channels_first = torch.from_numpy(pixels).permute(0, 3, 1, 2).double()
    spellings = [
        (pixels, labels),
        (torch.from_numpy(pixels), labels.tolist()),
        (channels_first, torch.from_numpy(labels)),
    ]
    if c == 1:
        spellings += [(pixels[..., 0], labels), (channels_first[:, 0], labels)]
    for pair in spellings:
        images = images_of(pair, "train")
        assert images.shape == (c, h, w) and np.array_equal(images.pixels, pixels)
        assert images.labels.dtype == torch.int64


class Pairs(torch.utils.data.Dataset):
    def __init__(self, items: list) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> object:
        return self.items[i]


def test_a_map_style_data_set_is_read_once() -> None:
    x = torch.rand(3, 1, 4, 4)
    images = images_of(Pairs([(x[i], i) for i in range(3)]), "train")
    assert torch.equal(images.gather([2, 0])[0], x[[2, 0]].permute(0, 2, 3, 1))


BYTES = np.zeros((4, 5, 5, 3), np.uint8)
FLAWS = {
    "no images": (BYTES[:0], []),
    "`4` images stand beside `3` labels": (BYTES, [0, 1, 0]),
    "labels of shape": (BYTES, [[0], [1], [0], [1]]),
    "type `torch.float64`": (BYTES, [0.0, 1.0, 0.0, 1.0]),
    "a label of `-1`": (BYTES, [0, -1, 0, 1]),
    "pixels of type `int64`": (BYTES.astype(np.int64), [0, 1, 0, 1]),
    "look like (n, C, H, W)": (BYTES.reshape(4, 3, 5, 5), [0, 1, 0, 1]),
    "images of shape `(4, 75)`": (BYTES.reshape(4, 75), [0, 1, 0, 1]),
    "hold `nan`": (torch.full((4, 1, 2, 2), float("nan")), [0, 1, 0, 1]),
    "a `str` is no split": "train",
    "bring them to one size": Pairs([(torch.rand(1, 4, 4), 0), (torch.rand(1, 5, 4), 0)]),
}


@pytest.mark.parametrize("message", FLAWS)
def test_bad_splits_are_one_line(message: str) -> None:
    with pytest.raises(DataError) as caught:
        images_of(FLAWS[message], "train")
    assert message in str(caught.value) and str(caught.value).startswith("train: ") and "\n" not in str(caught.value)
