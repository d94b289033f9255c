"""The context coder: the native core and its Python twin read the same, and it takes no more than it should."""

from __future__ import annotations

import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lilliput import kernels
from lilliput.errors import FormatError, WorkError
from lilliput.kernels import entropy
from lilliput.kernels.numbers import Layout

pytestmark = pytest.mark.skipif(kernels.backend() != "native", reason="only the native core writes")
ROOT = Path(__file__).parents[2]


def bound(array: Any, alphabet: int) -> float:
    """Bytes of the plain adaptive code of single numbers that starts with half an occurrence of each."""
    counts = np.unique(array, return_counts=True)[1]
    n, a = array.size, alphabet / 2
    nats = math.lgamma(n + a) - math.lgamma(a) - sum(math.lgamma(c + 0.5) - math.lgamma(0.5) for c in counts)
    return nats / math.log(2) / 8


@st.composite
def tensors(draw: Any) -> tuple[list[Layout], list[Any]]:
    """A few tensors of different kinds: peaked, flat, sparse, far from zero, bit patterns, empty."""
    layouts, arrays = [], []
    for _ in range(draw(st.integers(1, 3))):
        width = draw(st.sampled_from([1, 2, 4, 8]))
        shape = draw(st.tuples(*[st.integers(0, 5)] * 3))
        top = 1 << 8 * width - 1
        patterns = draw(st.booleans()) and width > 1
        low = -top if patterns else draw(st.integers(-top, top - 1))
        high = top - 1 if patterns else min(top - 1, low + draw(st.sampled_from([0, 1, 2, 14, 255, 5000, 1 << 62])))
        values = st.integers(low, high) | st.integers(low, min(high, low + 3))
        count = math.prod(shape)
        numbers = draw(st.lists(values, min_size=count, max_size=count))
        layouts.append(Layout(*shape, low, high, width, int(patterns)))
        arrays.append(np.array(numbers, f"=i{width}"))
    return layouts, arrays


@settings(max_examples=60)
@given(tensors())
def test_both_decoders_give_back_what_was_encoded(case: tuple[list[Layout], list[Any]]) -> None:
    layouts, arrays = case
    data = kernels.encode(layouts, arrays)
    found, ends = kernels.decode(data, layouts)
    slow, slow_ends = entropy.decode(None, data, layouts)
    for before, after, twin in zip(arrays, found, slow, strict=True):
        assert before.dtype == after.dtype and (before == after).all() and (after == twin).all()
    assert ends == slow_ends and ends == sorted(ends) and ends[-1] <= len(data)


@settings(max_examples=60)
@given(tensors(), st.binary(min_size=4, max_size=200))
def test_both_decoders_say_the_same_of_any_bytes(case: tuple[list[Layout], list[Any]], data: bytes) -> None:
    answers = []
    for core in (kernels._native, None):
        try:
            arrays, ends = entropy.decode(core, data, case[0])
            answers.append(([a.tolist() for a in arrays], ends))
        except FormatError as error:
            answers.append(str(error))
    assert answers[0] == answers[1]


@given(st.binary(max_size=300))
def test_text_comes_back(text: bytes) -> None:
    data = kernels.encode_text(text)
    assert kernels.decode_text(data, len(text)) == entropy.decode_text(None, data, len(text)) == text
    for size in range(len(data)):
        for core in (kernels._native, None):
            with pytest.raises(FormatError, match="bytes"):
                entropy.decode_text(core, data[:size], len(text))


SHAPE = (256, 64, 9)
RANDOM = np.random.default_rng(0)
DRAWN = {
    "flat": (RANDOM.integers(-128, 128, SHAPE), -128, 127),
    "peaked": (np.clip(np.round(RANDOM.laplace(size=SHAPE) * 20), -127, 127), -127, 127),
    "sparse": (np.clip(np.round(RANDOM.laplace(size=SHAPE) * 20), -127, 127) * (RANDOM.random(SHAPE) < 0.1), -127, 127),
    "narrow": (np.clip(np.round(RANDOM.normal(size=SHAPE) * 2), -7, 7), -7, 7),
    "mask": (RANDOM.random(SHAPE) < 0.1, 0, 1),
    "ternary": (RANDOM.integers(-1, 2, SHAPE), -1, 1),
    "indices": (RANDOM.permutation(256)[np.clip(np.round(RANDOM.normal(size=SHAPE) * 40 + 128), 0, 255).astype(int)], 0, 255),
}


@pytest.mark.parametrize("name", list(DRAWN))
def test_random_numbers_take_little_over_the_adaptive_bound(name: str) -> None:
    values, low, high = DRAWN[name]
    array = values.astype(np.int16).ravel()
    size = len(kernels.encode([Layout(*SHAPE, low, high, 2, 0)], [array]))
    assert size <= 1.003 * bound(array, high - low + 1) + 8


def test_numbers_that_resemble_their_neighbours_take_less_than_single_ones_could() -> None:
    scale = np.exp(RANDOM.normal(size=(256, 1, 1))) * np.exp(RANDOM.normal(size=(1, 64, 1)))
    array = np.clip(np.round(RANDOM.laplace(size=SHAPE) * scale), -127, 127).astype(np.int8).ravel()
    assert len(kernels.encode([Layout(*SHAPE, -127, 127, 1, 0)], [array])) < 0.9 * bound(array, 255)


def test_elements_are_bounded_by_bytes_before_memory_is_asked_for() -> None:
    for core in (kernels._native, None):
        with pytest.raises(FormatError, match="take at least 1048576 bytes, and there are 100"):
            entropy.decode(core, bytes(100), [Layout(1 << 10, 1 << 11, 1 << 11, 0, 0, 8, 0)])


def test_what_costs_nothing_is_filled_up_to_the_least() -> None:
    layout, array = Layout(100, 100, 9, 0, 1, 1, 0), np.zeros(90_000, np.int8)
    data = kernels.encode([layout], [array])
    assert len(data) >= 90_000 / entropy.PER_BYTE
    assert not kernels.decode(data, [layout])[0][0].any()


def test_without_the_native_core_nothing_is_written_and_a_long_read_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(1, 1, 1 << 16, 5, 5, 1, 0)
    data = kernels.encode([layout], [np.full(1 << 16, 5, np.int8)])
    monkeypatch.setattr(kernels, "_native", None)
    monkeypatch.setattr(entropy, "_said", [])
    with pytest.raises(WorkError, match='coder="plain"'):
        kernels.encode([], [])
    with pytest.warns(UserWarning, match="Python decodes this file"):
        assert (kernels.decode(data, [layout])[0][0] == 5).all()


READER = """
#include <stdio.h>
#include <stdlib.h>
#include "codec.h"
int main(int argc, char** argv) {
  static uint8_t bytes[1 << 20];
  static int16_t numbers[1 << 16];
  FILE* file = fopen(argv[argc - 1], "rb");
  size_t size = fread(bytes, 1, sizeof bytes, file);
  lilliput_piece piece = {16, 8, 9, -300, 300, 2, 0, numbers};
  int status = lilliput_decode(bytes, size, &piece, 1, NULL);
  for (int i = 0; i < 16 * 8 * 9; ++i) printf("%d\\n", numbers[i]);
  return status;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None or shutil.which("c++") is None, reason="no C compiler")
def test_a_program_in_c_reads_what_python_wrote(tmp_path: Path) -> None:
    array = np.clip(np.round(RANDOM.laplace(size=16 * 8 * 9) * 40), -300, 300).astype(np.int16)
    (tmp_path / "data").write_bytes(kernels.encode([Layout(16, 8, 9, -300, 300, 2, 0)], [array]))
    (tmp_path / "reader.c").write_text(READER)
    core = [str(ROOT / "csrc" / name) for name in ("codec.cc", "tables.cc")]
    include = f"-I{ROOT / 'csrc'}"
    subprocess.run(["cc", "-c", include, "reader.c", "-o", "reader.o"], cwd=tmp_path, check=True)
    subprocess.run(["c++", "-std=c++17", "-O1", include, "reader.o", *core, "-o", "reader"], cwd=tmp_path, check=True)
    out = subprocess.run(["./reader", "data"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert [int(line) for line in out.split()] == array.tolist()
