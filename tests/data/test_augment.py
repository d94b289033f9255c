"""A crop is a shift of the padded image, a flip its mirror image, and each image has its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lilliput.config import parse
from lilliput.data.augment import CropFlip, default
from lilliput.errors import ConfigError


def slowly(augment: CropFlip, image: Tensor, chance: Tensor) -> Tensor:
    """The definition: pad one image, cut a window, mirror it."""
    pad, (height, width) = augment.pad, image.shape[:2]
    mode = {"zero": "constant", "reflect": "reflect"}[augment.fill]
    padded = np.pad(image.numpy(), ((pad, pad), (pad, pad), (0, 0)), mode=mode)
    top, left = (int(c * (2 * pad + 1)) for c in chance[:2])
    window = padded[top : top + height, left : left + width]
    return torch.from_numpy(window[:, ::-1].copy() if augment.flip and chance[2] < 0.5 else window.copy())


@given(
    st.integers(1, 5), st.integers(3, 7), st.integers(3, 7), st.sampled_from([1, 3]), st.integers(0, 2), st.booleans(),
    st.sampled_from(["zero", "reflect"]), st.sampled_from([torch.uint8, torch.float32]), st.integers(0, 99),
)  # fmt: skip
def test_every_image_is_treated_as_the_definition_says(
    n: int, h: int, w: int, c: int, pad: int, flip: bool, fill: str, dtype: torch.dtype, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, h, w, c), generator=random).to(dtype)
    chance = torch.rand(n, 3, generator=random)
    augment = CropFlip(pad, flip, fill)  # type: ignore[arg-type]
    before, found = images.clone(), augment(images, chance)
    assert found.dtype == dtype and torch.equal(images, before)
    assert torch.equal(found, torch.stack([slowly(augment, i, u) for i, u in zip(images, chance, strict=True)]))


def test_nothing_is_left_of_pad_0_without_flip() -> None:
    images = torch.randint(0, 256, (4, 5, 6, 3), dtype=torch.uint8)
    assert torch.equal(CropFlip(0, False)(images, torch.rand(4, 3)), images)


def test_all_shifts_and_both_sides_occur() -> None:
    image = torch.arange(9, dtype=torch.uint8).view(1, 3, 3, 1).expand(500, 3, 3, 1)
    found = CropFlip(1, True)(image, torch.rand(500, 3, generator=torch.Generator().manual_seed(0)))
    assert len({tuple(f.flatten().tolist()) for f in found}) == 18


def test_text_and_back() -> None:
    for augment in (CropFlip(), CropFlip(pad=2, flip=False, fill="reflect")):
        assert parse(augment.text()) == augment
    with pytest.raises(ConfigError):
        parse("augment.crop_flip(pad=-1)")
    with pytest.raises(ConfigError, match="fill"):
        parse("augment.crop_flip(fill=wrap)")


def test_a_pad_as_large_as_the_image_is_refused() -> None:
    with pytest.raises(ConfigError, match="smaller side"):
        CropFlip(4)(torch.zeros(1, 4, 8, 1), torch.rand(1, 3))


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 2), (3, 1, 9), (1, 5, 5), (3, 224, 224), (1, 2, 300)])
def test_the_default_fits_any_image(shape: tuple[int, int, int]) -> None:
    augment = default(shape)
    images = torch.zeros(2, *shape[1:], shape[0])
    assert augment is None or augment(images, torch.rand(2, 3)).shape == images.shape
