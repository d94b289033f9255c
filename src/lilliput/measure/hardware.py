"""What a measurement was taken on: processor, memory and versions, written beside every number."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# The instruction sets that decide how fast small networks run.
_FLAGS = """sse4_1 sse4_2 avx avx2 fma f16c avx_vnni avx512f avx512bw avx512_vnni avx512_bf16 avx512_fp16 amx_int8
    amx_bf16 asimd asimdhp asimddp i8mm bf16 sve sve2""".split()


def hardware(root: Path = Path("/proc")) -> dict[str, Any]:
    """Name of the processor, cores this process may use, bytes of memory, and the instruction sets that matter.

    Where the system tells nothing, a value is None or empty.
    """
    info = _cpuinfo(root / "cpuinfo")
    flags = set((info.get("flags") or info.get("Features") or "").split())
    return {
        "cpu": info.get("model name") or info.get("Model") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cores": _cores(),
        "memory_bytes": _memory(root / "meminfo"),
        "flags": [flag for flag in _FLAGS if flag in flags],
        "system": f"{platform.system()} {platform.release()}",
    }


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that decide a result; None for one that is not installed. Imports none."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    return found | {name: _version(name) for name in ("lilliput", "torch", "onnxruntime", "numpy")}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpuinfo(path: Path) -> dict[str, str]:
    """The fields of the first processor; empty where there is no such file."""
    if not path.is_file():
        return {}
    pairs = (line.partition(":") for line in path.read_text().split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _memory(path: Path) -> int | None:
    if path.is_file():
        for line in path.read_text().splitlines():
            if line.startswith("MemTotal:"):
                return 1024 * int(line.split()[1])
    return None
