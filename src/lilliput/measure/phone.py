"""ExecuTorch files on this machine: loaded and run, with the threads of its pool pinned.

ExecuTorch has one pool of threads a process, and what is loaded keeps a pointer to it. So a file is loaded again whenever the
pool has been made anew since.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from lilliput.errors import ModelError
from lilliput.measure.latency import first_line

_pools = 0  # how many pools of threads have been made
INSTALL = "`pip install 'lilliput[phone]'` brings it"


class Phone:
    """A `.pte` file that runs: `phone(x)` is its outputs for one batch of the size it was made for.

    Raises `ModelError` where ExecuTorch is missing, for a file it cannot load, and for an input the file does not take.
    """

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        self.path, self.threads = Path(path), threads
        if not self.path.is_file():
            raise ModelError(f"{path}: there is no such file")
        self._load()

    def __call__(self, x: Tensor) -> list[Tensor]:
        if self._pool != _pools:  # else it has as many threads as when this was loaded
            self._load()
        try:
            return self._method.execute([x])  # type: ignore[no-any-return]
        except Exception as error:  # the runtime raises RuntimeError for all it meets
            taken = ", ".join(map(str, self.shape))
            raise ModelError(f"{self.path}: takes ({taken}) and was given {tuple(x.shape)}: {first_line(error)}") from error

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the one input it takes, (n, c, h, w)."""
        return tuple(self._method.metadata.input_tensor_meta(0).sizes())

    def _load(self) -> None:
        set_threads(self.threads, str(self.path))
        try:
            self._program = runtime(str(self.path)).load_program(str(self.path))
            self._method = self._program.load_method("forward")
        except (RuntimeError, KeyError) as error:
            raise ModelError(f"{self.path}: ExecuTorch cannot load it: {first_line(error)}") from error
        self._pool = _pools


def runtime(what: str) -> Any:
    """ExecuTorch's runtime. Raises `ModelError` where it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns about itself
        try:
            from executorch.runtime import Runtime  # type: ignore[import-not-found]
        except ImportError as error:
            raise ModelError(f"{what}: `{error.name}` is not installed; {INSTALL}") from None
        return Runtime.get()


def set_threads(threads: int, what: str) -> None:
    """Give the pool this many threads. It is made anew only if it has another number."""
    global _pools
    runtime(what)
    from executorch.extension.pybindings import portable_lib  # type: ignore[import-not-found]

    if portable_lib._threadpool_get_thread_count() != threads:
        portable_lib._unsafe_reset_threadpool(threads)
        _pools += 1
