"""Working ahead changes nothing but the time it takes."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lilliput.data.prefetch import ahead


@given(st.integers(0, 20), st.integers(0, 5), st.integers(1, 3))
def test_results_come_in_order_and_once(count: int, depth: int, workers: int) -> None:
    assert list(ahead(str, count, depth=depth, workers=workers)) == [str(i) for i in range(count)]


@pytest.mark.parametrize("depth", [0, 2])
def test_an_exception_comes_where_its_result_would(depth: int) -> None:
    found = ahead(lambda i: 1 // (2 - i), 5, depth=depth)
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(found)


def test_no_more_than_depth_is_made_ahead_and_stopping_ends_the_thread() -> None:
    made: list[int] = []
    found = ahead(lambda i: made.append(i), 100, depth=3)
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert len(made) <= 4
    assert not [t for t in threading.enumerate() if t.name.startswith("lilliput-ahead")]
