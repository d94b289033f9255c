"""Encodings of sections: round trips, sizes, and every way in which bytes can fail to be one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lilliput.errors import FormatError, UnknownName
from lilliput.store.codec import Bits, Piece, Plain, codecs, coder

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6)


@st.composite
def sections(draw: Any, widest: int = 31) -> tuple[list[Any], list[Piece]]:
    """A few arrays within bounds that differ, as one section holds them."""
    arrays, pieces = [], []
    for _ in range(draw(st.integers(1, 3))):
        low = draw(st.integers(-(2**widest), 2**widest - 1))
        high = draw(st.integers(low, min(low + 2 ** draw(st.integers(0, widest)), 2**widest - 1)))
        pieces.append(Piece(draw(SHAPES), low, high))
        arrays.append(draw(hnp.arrays(np.int64, pieces[-1].shape, elements=st.integers(low, high))))
    return arrays, pieces


@pytest.mark.parametrize("name", list(codecs))
@given(section=sections())
def test_decode_inverts_encode(name: str, section: tuple[list[Any], list[Piece]]) -> None:
    arrays, pieces = section
    codec = coder(name, {})
    data = codec.encode(arrays, pieces)
    for before, after, piece in zip(arrays, codec.decode(data, pieces), pieces, strict=True):
        assert after.dtype == piece.carrier and after.shape == piece.shape
        assert after.flags.writeable and (after == before).all()
    assert sum(codec.shares(data, pieces)) == len(data)
    assert codec.encode(arrays, pieces) == data


@pytest.mark.parametrize("name", list(codecs))
@given(section=sections())
def test_no_truncation_is_taken_for_the_whole_and_every_extension_raises(
    name: str, section: tuple[list[Any], list[Piece]]
) -> None:
    """Bytes of a range coder that end early may be those of other numbers; the file's checksum tells."""
    arrays, pieces = section
    codec = coder(name, {})
    data = codec.encode(arrays, pieces)
    for size in range(min(len(data), 64)):
        try:
            found = codec.decode(data[:size], pieces)
        except FormatError as error:
            assert "bytes" in str(error)
        else:
            assert name == "context" and not all((a == b).all() for a, b in zip(found, arrays, strict=True))
    with pytest.raises(FormatError, match="bytes"):
        codec.decode(data + b"\0", pieces)


@pytest.mark.parametrize("name", list(codecs))
@given(data=st.binary(max_size=64), section=sections())
def test_any_bytes_decode_within_bounds_or_raise(name: str, data: bytes, section: tuple[Any, list[Piece]]) -> None:
    try:
        arrays = coder(name, {}).decode(data, section[1])
    except FormatError:
        return
    for array, piece in zip(arrays, section[1], strict=True):
        assert array.shape == piece.shape
        assert not array.size or piece.low <= array.min() <= array.max() <= piece.high


@given(st.integers(1, 32), st.integers(0, 100))
def test_packed_numbers_take_their_bits_and_no_more(bits: int, elements: int) -> None:
    piece = Piece((elements,), 0, 2**bits - 1)
    assert len(Bits().encode([np.zeros(elements, np.int64)], [piece])) == -(-elements * bits // 8)


def test_packing_does_not_depend_on_the_blocks_it_works_in(monkeypatch: pytest.MonkeyPatch) -> None:
    array, piece = np.arange(1000) * 7 % 29 - 3, Piece((1000,), -3, 25)
    whole = Bits().encode([array], [piece])
    monkeypatch.setattr(Bits, "BLOCK", 8)
    assert Bits().encode([array], [piece]) == whole
    assert (Bits().decode(whole, [piece])[0] == array).all()


def test_packed_bits_are_those_of_the_definition() -> None:
    array, piece = np.array([3, 0, 5, 6, 1, 7, 2, 4, 5]), Piece((9,), 0, 7)
    stream = sum(int(value) << 3 * i for i, value in enumerate(array))
    assert Bits().encode([array], [piece]) == stream.to_bytes(4, "little")


def test_a_number_above_its_bound_raises() -> None:
    with pytest.raises(FormatError, match="a number is 2, above its bound of 1"):
        Bits().decode(b"\x03", [Piece((1,), -1, 1)])
    with pytest.raises(FormatError, match="outside its bounds, -1 to 1"):
        Plain().decode(b"\x02", [Piece((1,), -1, 1)])


def test_bits_left_over_must_be_zero() -> None:
    with pytest.raises(FormatError, match="left over"):
        Bits().decode(b"\x81", [Piece((7,), 0, 1)])


def test_packed_numbers_have_at_most_32_bits() -> None:
    with pytest.raises(FormatError, match="33 bits"):
        Bits().decode(bytes(5), [Piece((1,), 0, 2**32)])


def test_arrays_that_break_the_promise_of_their_piece_are_not_encoded() -> None:
    for array in (np.array([2]), np.array([[1]])):
        with pytest.raises(ValueError, match="promise"):
            Plain().encode([array], [Piece((1,), 0, 1)])


def test_an_unknown_encoding_is_named() -> None:
    with pytest.raises(UnknownName, match=r"`bit`. Did you mean `bits`"):
        coder("bit", {})
    with pytest.raises(FormatError, match="no such parameters"):
        coder("bits", {"width": 4})
