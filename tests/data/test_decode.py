"""Any bytes are an image or Unusable."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_files import picture
from PIL import Image

from lilliput.data.decode import Unusable, decode, fit

SEEDS = [picture(0, (9, 7), kind=kind) for kind in ("png", "jpeg", "bmp", "gif", "ppm", "tiff")]


@pytest.mark.filterwarnings("ignore")  # decoders warn of what they also refuse
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4),
    st.integers(0, 400),
)
def test_damaged_files_decode_or_are_unusable(data: bytes, changes: list[tuple[int, int]], end: int) -> None:
    damaged = bytearray(data)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    try:
        pixels = decode(bytes(damaged[: len(damaged) - end]), (4, 4))
        assert pixels.shape in ((4, 4, 1), (4, 4, 3)) and pixels.dtype == np.uint8
    except Unusable as reason:
        assert "\n" not in str(reason) and str(reason)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]))
def test_fit_brings_arrays_to_a_size_as_decode_does_files(h: int, w: int, high: int, wide: int, c: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, h, w, c), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels[0].squeeze(2) if c == 1 else pixels[0]).save(file, "png")
    found = fit(pixels, (high, wide))
    assert found.shape == (1, high, wide, c)
    assert np.array_equal(found[0], decode(file.getvalue(), (high, wide)))
    assert fit(pixels, None) is pixels
