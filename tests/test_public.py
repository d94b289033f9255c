"""What `import lilliput` gives, and what it does not load."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src"
HEAVY = {"matplotlib", "onnx", "onnxruntime", "plotly"}
NAMED = {
    *("Fit", "Recipe", "Task", "bake", "compress", "edits", "export", "latency", "load", "perform", "profile", "save"),
    *("distill", "factor", "prune", "quant", "testing", "zoo"),
}

pytestmark = pytest.mark.skipif(not (SRC / "lilliput" / "__init__.py").exists(), reason="the package has no __init__.py yet")


def test_import_is_lean() -> None:
    code = "import json, sys; sys.path.insert(0, sys.argv[1]); import lilliput; print(json.dumps(sorted(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code, str(SRC)], check=True, capture_output=True, text=True).stdout
    modules = set(json.loads(loaded))
    assert "lilliput" in modules
    assert modules & HEAVY == set()


def test_the_list_of_names_is_sorted_short_and_complete() -> None:
    import lilliput

    names = list(lilliput.__all__)
    assert names == sorted(names) and len(names) == len(set(names)) <= 25
    assert set(names) >= NAMED


def test_every_listed_name_exists_and_is_documented() -> None:
    import lilliput

    for name in lilliput.__all__:
        assert name.startswith("__") or getattr(lilliput, name).__doc__, name


def test_no_public_name_is_left_out_of_the_list() -> None:
    import lilliput

    own = (
        name
        for name, value in vars(lilliput).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("lilliput.")
    )
    assert set(own) - set(lilliput.__all__) == set()
