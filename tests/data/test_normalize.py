"""Normalising can be undone, and measured statistics make train standard."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lilliput.data.images import Images
from lilliput.data.normalize import IMAGENET, Normalization, measure
from lilliput.errors import ConfigError, DataError


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_invert_gives_the_bytes_back(n: int, h: int, w: int, channels_last: bool) -> None:
    pixels = torch.randint(0, 256, (n, h, w, 3), dtype=torch.uint8)
    normalization = Normalization(*IMAGENET)
    x = normalization.apply(pixels, channels_last=channels_last)
    assert x.shape == (n, 3, h, w) and x.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    assert torch.equal(normalization.invert(x).round().to(torch.uint8), pixels)


def test_both_layouts_and_every_batch_give_the_same_bits() -> None:
    pixels = torch.randint(0, 256, (37, 7, 9, 3), dtype=torch.uint8)
    normalization = Normalization(*IMAGENET)
    whole = normalization.apply(pixels)
    assert torch.equal(whole, normalization.apply(pixels, channels_last=True))
    for first, last in ((0, 1), (1, 4), (5, 37)):
        assert torch.equal(normalization.apply(pixels[first:last]), whole[first:last])


def test_it_is_the_textbook_formula() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in IMAGENET)
    wanted = (pixels.permute(0, 3, 1, 2) / 255 - mean) / std
    assert torch.allclose(Normalization(*IMAGENET).apply(pixels), wanted, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_measured_statistics_make_train_standard(dtype: type) -> None:
    pixels = np.random.default_rng(0).integers(3, 250, (50, 6, 5, 2)).astype(dtype)
    images = Images(pixels, torch.zeros(50, dtype=torch.int64))
    normalization = Normalization(*measure(images), 255.0 if dtype is np.uint8 else 1.0)
    x = normalization.apply(torch.from_numpy(pixels)).double()
    assert torch.allclose(x.mean((0, 2, 3)), torch.zeros(2).double(), atol=1e-4)
    assert torch.allclose(x.var((0, 2, 3), correction=0), torch.ones(2).double(), atol=1e-4)


def test_a_constant_channel_cannot_be_normalised() -> None:
    with pytest.raises(DataError, match=r"channel 1 is `0\.0` everywhere"):
        pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 3, 2), dtype=np.uint8) * np.array([1, 0], np.uint8)
        measure(Images(pixels, torch.zeros(5)))


@pytest.mark.parametrize(
    ("mean", "std"), [((0.5,), (0.0,)), ((0.5,), (-1.0,)), ((0.5, 0.5), (1.0,)), ((0.5,), (float("nan"),))]
)
def test_bad_statistics_are_refused(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="normalize"):
        Normalization(mean, std)
