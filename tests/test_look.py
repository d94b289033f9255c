"""Commands that print the table of layers, layer times, energy and the chart."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest

from lilliput.cli import main

Words = tuple[str, ...]


@pytest.fixture
def lilliput(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit:
            main(list(words))
        printed = capsys.readouterr()
        return int(exit.value.code or 0), printed.out, printed.err

    return run


def test_zoo_prints_the_table_of_the_paper(lilliput) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = lilliput("zoo", "mobilenet_v2")
    assert code == 0 and "112x112x16" in out and "bottleneck 3x3" in out
    _, out, _ = lilliput("zoo", "mobilenet_v2:width=0.5", "--json")
    found = json.loads(out)
    assert found["architecture"] == "mobilenet_v2:width=0.5" and found["stages"][2]["repeats"] == 2


def test_zoo_plots(lilliput, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = lilliput("zoo", "--plot", "chart.html", "--json")
    assert code == 0 and json.loads(out) == {"plot": "chart.html"} and (tmp_path / "chart.html").stat().st_size > 1_000_000


def test_layer_times_of_a_model_and_of_its_file(lilliput) -> None:  # type: ignore[no-untyped-def]
    call = ("latency", "resnet8:channels=1", "--input", "1,8,8", "--layers", "--json", "--runtime", "torch")
    code, out, _ = lilliput(*call)
    rows = json.loads(out)
    assert code == 0 and len(rows) > 8 and all(row["p10"] <= row["median_ms"] <= row["p90"] for row in rows)
    assert lilliput("export", "resnet8:channels=1", "net.onnx", "--input", "1,8,8")[0] == 0
    code, out, _ = lilliput("latency", "net.onnx", "--layers")
    assert code == 0 and "Conv" in out and "onnxruntime, 1 thread, 20 runs" in out


def test_energy_is_called_an_estimate(lilliput, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(import_module("lilliput.measure.energy"), "meter", lambda *_: None)
    assert "(estimated: Horowitz 2014" in lilliput("profile", "resnet8", "--energy")[1]
    assert json.loads(lilliput("profile", "resnet8", "--energy", "--json")[1])["energy"]["is_estimate"] is True
    assert "energy" not in json.loads(lilliput("profile", "resnet8", "--json")[1])


def test_energy_is_metered_where_there_is_a_meter(lilliput, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    class Constant:
        """A tenth of a joule at every look."""

        method, total = "made up", 0.0

        def joules(self) -> float:
            self.total += 0.1
            return self.total

    monkeypatch.setattr(import_module("lilliput.measure.energy"), "meter", lambda *_: Constant())
    found = json.loads(lilliput("profile", "resnet8", "--energy", "--json")[1])["energy"]
    assert found["is_estimate"] is False and found["method"].startswith("made up")
    assert found["joules"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("zoo", "--plot", "chart.pdf"), "`.html` or `.png`"),
        (("zoo", "--with", "metrics.json"), "`--plot FILE.html`"),
        (("zoo", "resnet20", "--plot", "chart.html"), "leave the name out"),
        (("zoo", "--plot", "chart.html", "--with", "nowhere"), "no folder that holds one"),
        (("latency", "net.onnx", "--input", "1,8,8", "--layers", "--runtime", "torch"), "`torch` times modules"),
    ],
)
def test_wrong_calls_are_one_line(lilliput, words: Words, says: str) -> None:  # type: ignore[no-untyped-def]
    code, _, err = lilliput(*words)
    assert code in (1, 2) and says in err and len(err.strip().splitlines()) == 1
