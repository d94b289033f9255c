"""What a measurement was taken on is read from the system, without importing anything heavy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from lilliput.measure.hardware import hardware, versions


def test_this_machine_is_described() -> None:
    found = hardware()
    assert found["cpu"] and found["cores"] >= 1 and found["architecture"]
    assert json.loads(json.dumps(found)) == found


def test_a_processor_is_read_from_the_system(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(
        "processor\t: 0\nmodel name\t: Small 9000\nflags\t\t: fpu avx2 avx512_vnni mmx\n\nprocessor\t: 1\nmodel name\t: Other\n"
    )
    (tmp_path / "meminfo").write_text("MemTotal:       2048 kB\nMemFree: 1 kB\n")
    found = hardware(tmp_path)
    assert (found["cpu"], found["memory_bytes"], found["flags"]) == ("Small 9000", 2048 * 1024, ["avx2", "avx512_vnni"])


def test_an_arm_processor_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor : 0\nFeatures : fp asimd asimddp\n\nModel : Board 5\n")
    assert hardware(tmp_path)["flags"] == ["asimd", "asimddp"]


def test_a_silent_system_is_no_error(tmp_path: Path) -> None:
    found = hardware(tmp_path)
    assert found["flags"] == [] and found["memory_bytes"] is None and found["cpu"]


def test_versions_import_nothing() -> None:
    found = versions()
    assert set(found) == {"python", "lilliput", "torch", "onnxruntime", "numpy"} and found["torch"]
    code = """
import sys
from lilliput.measure.hardware import hardware, versions
hardware(), versions()
print(*(name for name in ("torch", "onnxruntime", "numpy") if name in sys.modules))
"""
    environment = {"PYTHONPATH": ":".join(sys.path)}
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert "onnxruntime" not in seen.stdout
