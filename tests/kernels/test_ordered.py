"""Indices of ascending codebooks, and the codebooks: they come back bit for bit, in few bytes, from the same bytes for ever."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "src"))

from lilliput import kernels  # noqa: E402
from lilliput.errors import FormatError  # noqa: E402
from lilliput.kernels import entropy  # noqa: E402
from lilliput.kernels.lines import HIGHEST, LOWEST, Scale, pattern_at, place_of  # noqa: E402
from lilliput.kernels.numbers import LINES, ORDERED, PATTERNS, Layout  # noqa: E402
from lilliput.kernels.ranges import Decoder  # noqa: E402

native = pytest.mark.skipif(kernels.backend() != "native", reason="only the native core writes")
GOLDEN = ROOT / "tests" / "golden" / "ordered.bin"
SHAPE = (16, 8, 9)


def indices(shape: tuple[int, int, int]) -> Layout:
    return Layout(*shape, 0, 255, 2, 0)


def floats(rows: int, length: int) -> Layout:
    return Layout(rows, length, 1, -(1 << 31), (1 << 31) - 1, 4, 1)


def kind(data: bytes) -> int:
    return Decoder(data).plain(3)


def peaked(shape: tuple[int, int, int], seed: int = 0, zeros: float = 0.7) -> np.ndarray:
    """Indices of a codebook of 255 values and zero, whose sizes differ from kernel to kernel."""
    rng = np.random.default_rng(seed)
    scale = np.exp(0.8 * rng.normal(size=(*shape[:2], 1)))
    weights = rng.normal(size=shape) * scale
    weights[np.abs(weights) <= np.quantile(np.abs(weights), zeros)] = 0
    places = np.clip(np.round(128 + 12 * weights), 1, 255).astype(np.int16)
    return np.where(weights == 0, 0, places).astype(np.int16)


def codebook(rows: int, length: int, seed: int = 0) -> np.ndarray:
    """Float32 numbers that ascend by steps of which some are not quite even."""
    rng = np.random.default_rng(seed)
    grid = np.linspace(-1.3, 1.7, length) + np.where(
        rng.random((rows, length)) < 0.5, 0, rng.normal(size=(rows, length)) * 2e-4
    )
    return np.sort(grid, 1).astype(np.float32)


def golden() -> tuple[list[Layout], list[np.ndarray]]:
    """Two tensors of indices and two of floats, by whole-number arithmetic alone."""
    drawn = (np.arange(np.prod(SHAPE)) * 2654435761 + 12345) % (1 << 32) >> 12
    size = (drawn % 7 + drawn // 7 % 6 + 2) * (np.arange(drawn.size) // 9 * 5 % 7 + 1)  # kernels differ
    small = np.where(drawn // 42 % 2 == 0, size, -size)
    sparse = np.where(drawn // 84 % 3 == 0, 128 + small, 0).astype(np.int16)
    dense = (110 + small).astype(np.int16)
    places = np.sort((np.arange(64) * 2654435761 % (1 << 32) >> 4) - (1 << 27)) + (127 << 23)
    even = ((np.arange(64) + 64 << 17) + (129 << 23)).astype(np.int64)
    special = np.array([LOWEST, -(255 << 23) - 1, -3, -1, 0, 1, 2, 255 << 23, HIGHEST - 1, HIGHEST])
    rows = [places, even, np.array([pattern_at(int(p)) for p in special])]
    arrays = [each.astype("=i4") for each in rows]
    layouts = [floats(1, each.size) for each in arrays]
    return [indices(SHAPE)] * 2 + layouts, [sparse.ravel(), dense.ravel(), *arrays]


def both(data: bytes, layouts: list[Layout]) -> list[np.ndarray]:
    """What both decoders say, who must not differ."""
    found, ends = kernels.decode(data, layouts)
    slow, slow_ends = entropy.decode(None, data, layouts)
    assert ends == slow_ends and all((a == b).all() for a, b in zip(found, slow, strict=True))
    return found


@native
@settings(max_examples=30)
@given(
    st.tuples(st.integers(1, 6), st.integers(1, 9), st.sampled_from([1, 2, 9, 25])), st.integers(0, 99),
    st.sampled_from([0, 0.7]), st.integers(2, 8),
)  # fmt: skip
def test_indices_come_back(shape: tuple[int, int, int], seed: int, zeros: float, bits: int) -> None:
    array = np.minimum(peaked(shape, seed, zeros), (1 << bits) - 1).ravel()
    layout = Layout(*shape, 0, (1 << bits) - 1, 2, 0)
    assert (both(kernels.encode([layout], [array]), [layout])[0] == array).all()


@native
def test_indices_take_fewer_bytes_than_single_numbers_could() -> None:
    array = peaked((64, 64, 9))
    data = kernels.encode([indices(array.shape)], [array.ravel()])
    counts = np.unique(array, return_counts=True)[1]
    assert kind(data) == ORDERED
    assert len(data) < 0.97 * (counts * np.log2(array.size / counts)).sum() / 8
    assert (kernels.decode(data, [indices(array.shape)])[0][0] == array.ravel()).all()


@native
@settings(max_examples=60)
@given(st.lists(st.integers(LOWEST, HIGHEST), min_size=8, max_size=40), st.booleans())
def test_any_ascending_patterns_come_back(places: list[int], near: bool) -> None:
    """Not-a-numbers and their payloads, infinities, zeros of both signs and denormals included."""
    chosen = [p % 100 + places[0] // 2 for p in places] if near else places
    array = np.array([pattern_at(p) for p in sorted(chosen)], "=i4")
    data = kernels.encode([floats(1, array.size)], [array])
    assert (both(data, [floats(1, array.size)])[0] == array).all()


@native
@pytest.mark.parametrize("length", [8, 255, 4096, 4097])
def test_codebooks_take_half_of_their_bytes(length: int) -> None:
    array = codebook(2, length).view("=i4").ravel()
    data = kernels.encode([floats(2, length)], [array])
    decoded = both(data, [floats(2, length)]) if length < 1000 else kernels.decode(data, [floats(2, length)])[0]
    assert (decoded[0] == array).all()
    assert kind(data) == (LINES if length <= 4096 else PATTERNS)
    if 100 < length <= 4096:
        assert len(data) < 2 * array.size


@native
def test_what_does_not_ascend_is_coded_as_before() -> None:
    array = np.random.default_rng(0).normal(size=64).astype(np.float32).view("=i4")
    assert kind(kernels.encode([floats(1, 64)], [array])) == PATTERNS


@given(st.integers(LOWEST, HIGHEST), st.integers(LOWEST, HIGHEST))
def test_places_are_in_the_order_of_values(a: int, b: int) -> None:
    x, y = (np.array([pattern_at(p)], "=i4").view(np.float32)[0] for p in (a, b))
    assert place_of(pattern_at(a) & 0xFFFFFFFF) == a
    if a <= b and not (np.isnan(x) or np.isnan(y)):
        assert x <= y


@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.floats(-1, 1))
def test_scales_round_to_the_nearest_float(end: float, part: float) -> None:
    at = [place_of(int(np.array([x], np.float32).view(np.uint32)[0])) for x in (end, end * part)]
    scale = Scale(at[0], at[0])
    assert scale.nearest(scale.value(at[0])) == at[0] or end == 0
    unit = 2.0**scale.unit if scale.unit > -1000 else 0.0
    found = np.array([pattern_at(scale.nearest(scale.value(at[1])))], "=i4").view(np.float32)[0]
    assert abs(float(found) - float(np.float32(end * part))) <= unit


@native
def test_every_truncation_is_refused_and_flipped_bits_give_numbers_within_bounds() -> None:
    layouts, data = golden()[0], GOLDEN.read_bytes()
    for size in range(len(data)):
        with pytest.raises(FormatError):
            kernels.decode(data[:size], layouts)
    for bit in range(0, 8 * len(data), 5):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            found, _ = kernels.decode(bytes(flipped), layouts)
        except FormatError:
            continue
        assert all(0 <= a.min() <= a.max() <= 255 for a in found[:2])


@native
@settings(max_examples=100)
@given(st.sampled_from([ORDERED, LINES]), st.binary(min_size=12, max_size=120), st.tuples(*[st.integers(1, 9)] * 3), st.data())
def test_both_decoders_say_the_same_of_any_bytes(
    which: int, data: bytes, shape: tuple[int, int, int], draw: st.DataObject
) -> None:
    layout = floats(shape[0], shape[1] * shape[2])
    if which == ORDERED:
        low = draw.draw(st.sampled_from([0, 1, -3, -(1 << 63), (1 << 63) - 300]))
        layout = Layout(*shape, low, low + draw.draw(st.sampled_from([0, 1, 15, 255, 256])), 8, 0)
    data = bytes([(7 - which) << 5 | data[0] & 31]) + data[1:]  # ones come from the lower half
    assert kind(data) == which
    answers = []
    for core in (kernels._native, None):
        try:
            arrays, ends = entropy.decode(core, data, [layout])
            answers.append((arrays[0].tolist(), ends))
        except FormatError as error:
            answers.append(str(error))
    assert answers[0] == answers[1]


@native
def test_what_they_are_not_meant_for_is_refused() -> None:
    array = peaked((8, 8, 9)).ravel()
    ordered = kernels.encode([indices((8, 8, 9))], [array])
    lined = kernels.encode([floats(1, 64)], [codebook(1, 64).view("=i4").ravel()])
    assert (kind(ordered), kind(lined)) == (ORDERED, LINES)
    wide = Layout(8, 8, 9, 0, 256, 2, 0)
    doubles = Layout(1, 64, 1, -(1 << 63), (1 << 63) - 1, 8, 1)
    for data, wrong in [(ordered, wide), (ordered, floats(1, 64)), (lined, indices((1, 64, 1))), (lined, doubles)]:
        for core in (kernels._native, None):
            with pytest.raises(FormatError, match="coded in a way there is not"):
                entropy.decode(core, data, [wrong])
    for core in (kernels._native, None):
        with pytest.raises(FormatError, match="coded in a way there is not"):
            entropy.decode(core, lined + bytes(8), [floats(1, 4097)])
        with pytest.raises(FormatError, match=r"take at least|bytes end before"):
            entropy.decode(core, lined, [floats(1 << 18, 64)])


def test_the_golden_bytes_are_read() -> None:
    layouts, arrays = golden()
    found, _ = entropy.decode(None, GOLDEN.read_bytes(), layouts)
    assert all((a == b).all() for a, b in zip(found, arrays, strict=True))


@native
def test_the_golden_bytes_are_written() -> None:
    assert kernels.encode(*golden()) == GOLDEN.read_bytes()


READER = """
#include <stdio.h>
#include "codec.h"
int main(int argc, char** argv) {
  static uint8_t bytes[1 << 16];
  static int16_t sparse[1152], dense[1152];
  static int32_t a[64], b[64], c[10];
  const int64_t low = -((int64_t)1 << 31), high = -(low + 1);
  FILE* file = fopen(argv[argc - 1], "rb");
  size_t size = fread(bytes, 1, sizeof bytes, file);
  lilliput_piece pieces[5] = {{16, 8, 9, 0, 255, 2, 0, sparse}, {16, 8, 9, 0, 255, 2, 0, dense},
    {1, 64, 1, low, high, 4, 1, a}, {1, 64, 1, low, high, 4, 1, b}, {1, 10, 1, low, high, 4, 1, c}};
  int status = lilliput_decode(bytes, size, pieces, 5, NULL);
  for (int i = 0; i < 1152; ++i) printf("%d\\n", sparse[i]);
  for (int i = 0; i < 1152; ++i) printf("%d\\n", dense[i]);
  for (int i = 0; i < 64; ++i) printf("%d\\n", a[i]);
  for (int i = 0; i < 64; ++i) printf("%d\\n", b[i]);
  for (int i = 0; i < 10; ++i) printf("%d\\n", c[i]);
  return status;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None or shutil.which("c++") is None, reason="no C compiler")
def test_a_program_in_c_reads_the_golden_bytes(tmp_path: Path) -> None:
    (tmp_path / "reader.c").write_text(READER)
    core = [str(ROOT / "csrc" / name) for name in ("codec.cc", "tables.cc")]
    include = f"-I{ROOT / 'csrc'}"
    subprocess.run(["cc", "-c", include, "reader.c", "-o", "reader.o"], cwd=tmp_path, check=True)
    subprocess.run(["c++", "-std=c++17", "-O1", include, "reader.o", *core, "-o", "reader"], cwd=tmp_path, check=True)
    out = subprocess.run(["./reader", str(GOLDEN)], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert [int(line) for line in out.split()] == [int(x) for array in golden()[1] for x in array]


if __name__ == "__main__":
    print(GOLDEN.write_bytes(kernels.encode(*golden())), "bytes")
