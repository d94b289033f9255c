"""The other processes of a search on this machine, and how all of them share its cores."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

PARENT = "LILLIPUT_PARENT"  # whose end is that of a worker
PATIENCE = 10.0  # seconds until a worker that does not stop is stopped


@contextmanager
def helpers(command: tuple[str, ...], workers: int, folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """All workers but this process, with what they say in files beside the trials; at the end those that failed are named.

    They end when nothing is left to train, or with this process.
    """
    started: list[tuple[subprocess.Popen[bytes], Path]] = []
    for number in range(1, workers):
        log = folder / f"worker_{number}.log"
        with log.open("a") as file:  # one that outlived a killed search may still write here
            env = {**os.environ, PARENT: str(os.getpid())}
            started.append((subprocess.Popen(command, env=env, stdout=file, stderr=file), log))
    try:
        yield
        for process, log in started:
            if process.wait():
                say(f"a worker ended with exit code {process.returncode}, and what it had begun was done by the others: {log}")
    finally:
        for process, _ in started:
            process.terminate()
        for process, _ in started:
            _ended(process)


def _ended(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process that was asked to end, and do not ask for ever."""
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def cores(beside: int) -> Iterator[None]:
    """A process's share of the threads while so many train side by side, and all of them afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // beside))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def follow_parent(every: float = 2.0) -> None:
    """In a worker: stop as if interrupted once the process that started it is gone. Nothing where nobody started it.

    A shell without job control starts what is in the background with interrupts ignored, and that is handed on.
    """
    parent = os.environ.get(PARENT)
    if parent is None:
        return

    def watch(main: int) -> None:
        while os.getppid() == int(parent):
            time.sleep(every)
        signal.pthread_kill(main, signal.SIGINT)  # a real one, which ends waiting as well
        time.sleep(PATIENCE)
        os._exit(130)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=watch, args=(threading.main_thread().ident,), daemon=True).start()
