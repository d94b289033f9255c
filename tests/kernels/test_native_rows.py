"""Kernels of processors that this machine is not, against the portable ones."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(shutil.which("make") is None or not (ROOT / "Makefile").exists(), reason="no make, or no checkout")
def test_kernels_of_arm_say_what_the_portable_ones_say() -> None:
    done = subprocess.run(["make", "test-arm", "CASES=20"], cwd=ROOT, capture_output=True, text=True)
    skipped = [line for line in done.stdout.splitlines() if line.startswith("SKIPPED: ")]
    if skipped:
        pytest.skip(skipped[0].removeprefix("SKIPPED: "))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "binary neon\n" in done.stdout and "0 failures" in done.stdout
