"""The tutorial from `train.py` and photographs to three files, run as a reader runs it, on photographs made up for it."""

from __future__ import annotations

import importlib.util
import runpy
import shlex
import sys
from pathlib import Path

import docs_check
import pytest
from doc_pages import ROOT, examples

from lilliput.cli import main

PAGE = ROOT / "docs/your_network.md"
LIBRARIES = {"executorch": "executorch", "litert": "litert_torch"}


@pytest.mark.slow
def test_it_ends_with_three_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    docs_check.photographs(tmp_path / "photos", ("cat", "dog", "fox"), train=60, test=8, size=40)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LILLIPUT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def command(text: str) -> str:
        """In this process, for a start of Python takes longer than most commands."""
        program, *words = shlex.split(text)
        if program == "python":
            runpy.run_path(words[0], run_name="__main__")
            return ""
        with pytest.raises(SystemExit) as exit:
            main(words)
        said = capsys.readouterr().err
        return "" if not exit.value.code or docs_check.MISSED in said else said

    assert docs_check.check(PAGE, command) == []
    written = ("phone/model.onnx", "phone/model.lil", "phone/report.html")
    assert all((tmp_path / "out" / name).stat().st_size > 0 for name in written)
    absent = [name for name, library in LIBRARIES.items() if importlib.util.find_spec(library) is None]
    for name in LIBRARIES.keys() - absent:
        (last,) = [e for e in examples(PAGE) if e.skip == f"needs {name}"]
        assert command(last.text) == "" and Path(last.text.split()[3]).stat().st_size > 0
    if absent:
        pytest.skip(f"all but the files of {' and '.join(absent)}: not installed")
