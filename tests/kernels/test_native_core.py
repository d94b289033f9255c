"""The native core and its Python twin say the same."""

from __future__ import annotations

import shutil
import sys

import pytest

from lilliput import kernels
from lilliput.kernels import cpu

NAMES = ["avx2", "fma", "avx512f", "avx512_vnni", "avx512_vpopcntdq", "neon", "dotprod", "avx512bw", "avx512_bitalg"]


def test_features_have_the_same_names_in_the_same_order_whoever_answers() -> None:
    assert list(kernels.features()) == list(cpu.features()) == NAMES
    assert all(type(present) is bool for present in kernels.features().values())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc/cpuinfo to read")
def test_both_backends_find_the_same_instruction_sets() -> None:
    assert kernels.features() == cpu.features()


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler, so the native core was not built")
def test_the_native_core_is_used_where_it_could_be_built() -> None:
    assert kernels.backend() == "native"


def test_without_the_native_core_python_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_native", None)
    assert kernels.backend() == "python"
    assert kernels.features() == cpu.features()


@pytest.mark.parametrize(
    ("cpuinfo", "present"),
    [
        ("", []),
        ("flags\t\t: fpu sse2 avx2 fma\nbugs\t\t: avx512f", ["avx2", "fma"]),
        ("flags : avx512f avx512_vnni\n\nflags : avx512f avx512_vnni", ["avx512f", "avx512_vnni"]),
        ("Features\t: fp asimd evtstrm", ["neon"]),
    ],
)
def test_only_the_line_of_flags_counts(cpuinfo: str, present: list[str]) -> None:
    assert [name for name, here in cpu.read(cpuinfo).items() if here] == present
