"""Work done ahead of time in background threads: decoding images and assembling batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(make: Callable[[int], T], count: int, *, depth: int, workers: int = 1) -> Iterator[T]:
    """Yield `make(0)` to `make(count - 1)` in order, with up to `depth` of them under way or waiting.

    Memory holds `depth` results; an exception in `make` is raised where its result would have been yielded.

    >>> list(ahead(lambda i: i * i, 4, depth=2))
    [0, 1, 4, 9]
    """
    if depth < 1:
        yield from map(make, range(count))
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="lilliput-ahead")
    try:
        waiting: deque[Future[T]] = deque(pool.submit(make, i) for i in range(min(depth, count)))
        for following in range(depth, depth + count):
            result = waiting.popleft().result()
            if following < count:
                waiting.append(pool.submit(make, following))
            yield result
    finally:  # also when the reader stops early
        pool.shutdown(wait=True, cancel_futures=True)
