"""The processes of a search: they share the cores, say who failed, and end with the one that started them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lilliput.search.workers import PARENT, cores, helpers


def test_processes_side_by_side_share_the_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(6)
    try:
        with cores(2):
            assert torch.get_num_threads() == 3
        with pytest.raises(ValueError), cores(9):
            assert torch.get_num_threads() == 1
            raise ValueError
        assert torch.get_num_threads() == 6
    finally:
        torch.set_num_threads(before)


def test_a_worker_that_fails_is_named_with_what_it_said(tmp_path: Path) -> None:
    said: list[str] = []
    with helpers((sys.executable, "-c", "print('no disk'); raise SystemExit(3)"), 2, tmp_path, said.append):
        pass
    (line,) = said
    assert "exit code 3" in line and (tmp_path / "worker_1.log").read_text() == "no disk\n"


def test_one_worker_starts_no_other(tmp_path: Path) -> None:
    with helpers(("false",), 1, tmp_path, print):
        assert list(tmp_path.iterdir()) == []


def test_workers_end_where_the_search_is_stopped(tmp_path: Path) -> None:
    sleeps = (sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)")
    with pytest.raises(KeyboardInterrupt), helpers(sleeps, 2, tmp_path, print):
        number = written(tmp_path / "worker_1.log")
        raise KeyboardInterrupt
    assert gone(number)


FOLLOWER = """
import os, sys, time
from lilliput.search.workers import follow_parent
follow_parent(every=0.05)
print(os.getpid(), flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("stopped", flush=True)
"""
LEADER = """
import os, subprocess, sys, time
log = open(sys.argv[1], "w")
subprocess.Popen([sys.executable, "-c", sys.argv[2]], env={**os.environ, sys.argv[3]: str(os.getpid())}, stdout=log)
while not os.path.getsize(sys.argv[1]):
    time.sleep(0.05)
os._exit(9)
"""


def test_a_worker_stops_as_if_interrupted_once_its_search_was_killed(tmp_path: Path) -> None:
    log = tmp_path / "follower.log"
    leader = subprocess.run([sys.executable, "-c", LEADER, str(log), FOLLOWER, PARENT], check=False)
    assert leader.returncode == 9 and gone(written(log)) and log.read_text().endswith("stopped\n")


def written(log: Path) -> int:
    """The process that a log begins with."""
    until = time.monotonic() + 60
    while not log.exists() or not log.read_text().endswith("\n"):
        assert time.monotonic() < until, "it never began"
        time.sleep(0.05)
    return int(log.read_text().split()[0])


def gone(process: int) -> bool:
    """Whether a process ends, within a minute."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        state = Path(f"/proc/{process}/stat")
        if state.exists() and state.read_text().rsplit(")", 1)[1].split()[0] == "Z":  # nobody has asked how it ended
            return True
        time.sleep(0.05)
    return False
