"""Tensors as stored whole numbers: every type, every bit pattern."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lilliput.errors import ModelError
from lilliput.store.codec import coder
from lilliput.store.header import DTYPES
from lilliput.store.sections import pack
from lilliput.store.tensors import piece, same, stored, tensor

TYPES = [getattr(torch, name) for name in DTYPES]
SHAPES = st.lists(st.integers(0, 5), max_size=4)


def there_and_back(before: torch.Tensor) -> torch.Tensor:
    (section,), (data,) = pack({"t": stored("t", before)})
    (entry,) = section.entries
    (array,) = coder(section.codec, {}).decode(data, [piece(entry, section.dtype)])
    return tensor(array, entry, section.dtype)


def patterns(dtype: torch.dtype, shape: list[int], data: st.DataObject) -> torch.Tensor:
    """A tensor of arbitrary bit patterns: not-a-numbers, infinities and negative zeros among them."""
    size = torch.empty((), dtype=dtype).element_size()
    count = torch.Size(shape).numel()
    if dtype == torch.bool:
        return torch.tensor(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)), dtype=dtype).reshape(shape)
    raw = data.draw(st.binary(min_size=count * size, max_size=count * size))
    return (torch.frombuffer(bytearray(raw), dtype=dtype) if raw else torch.empty(0, dtype=dtype)).reshape(shape)


@given(st.sampled_from(TYPES), SHAPES, st.data())
def test_every_bit_of_every_type_survives(dtype: torch.dtype, shape: list[int], data: st.DataObject) -> None:
    before = patterns(dtype, shape, data)
    after = there_and_back(before)
    assert same(before, after) and after.is_contiguous()


@given(st.sampled_from(TYPES), SHAPES, st.data())
def test_zeros_and_ones_take_one_bit(dtype: torch.dtype, shape: list[int], data: st.DataObject) -> None:
    count = torch.Size(shape).numel()
    values = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    before = torch.tensor(values).reshape(shape).to(dtype)
    assert same(before, there_and_back(before))
    _, (data_,) = pack({"t": stored("t", before)})
    assert len(data_) == -(-count // 8)


def test_a_negative_zero_is_no_zero() -> None:
    before = torch.tensor([0.0, -0.0, 1.0])
    assert stored("t", before).bounds is None
    assert torch.signbit(there_and_back(before)).tolist() == [False, True, False]


def test_strides_are_not_stored() -> None:
    before = torch.arange(24.0).reshape(2, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    assert same(before.contiguous(), there_and_back(before))


@pytest.mark.parametrize(
    "bad",
    [torch.empty(2, device="meta"), torch.zeros(2, dtype=torch.complex64), torch.eye(2).to_sparse()],
    ids=["meta", "complex", "sparse"],
)
def test_what_has_no_place_is_refused_by_name(bad: torch.Tensor) -> None:
    with pytest.raises(ModelError, match=r"fire.weight: this tensor"):
        stored("fire.weight", bad)
