"""What the processor can do, without the native core: csrc/cpu.cc in Python."""

from __future__ import annotations

import platform
from pathlib import Path

# Names as in csrc/cpu.h; values as Linux spells them in /proc/cpuinfo.
_FLAGS = {
    **{name: name for name in ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_vpopcntdq")},
    **{"neon": "asimd", "dotprod": "asimddp"},
    **{name: name for name in ("avx512bw", "avx512_bitalg")},
}


def features() -> dict[str, bool]:
    """Read from /proc/cpuinfo. Where there is none, only what the machine's name implies is claimed."""
    return {**read(_cpuinfo()), **({"neon": True} if platform.machine().lower() in ("aarch64", "arm64") else {})}


def read(cpuinfo: str) -> dict[str, bool]:
    """The instruction sets named by the `flags` (x86) or `Features` (ARM) line of /proc/cpuinfo.

    >>> [name for name, present in read("Features\\t: fp asimd asimddp").items() if present]
    ['neon', 'dotprod']
    """
    lines = [line.partition(":") for line in cpuinfo.splitlines()]
    words = {word for key, _, value in lines if key.strip() in ("flags", "Features") for word in value.split()}
    return {name: spelling in words for name, spelling in _FLAGS.items()}


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
