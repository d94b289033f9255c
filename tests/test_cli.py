"""The command line from outside: what it prints, and its exit codes; one line and no traceback where something is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lilliput import kernels
from lilliput.cli import main


class Outcome:
    """Exit code and what was printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def json(self):  # type: ignore[no-untyped-def]
        return json.loads(self.out)


@pytest.fixture
def lilliput(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LILLIPUT_CACHE", str(tmp_path / "cache"))

    def run(*words: str) -> Outcome:
        with pytest.raises(SystemExit) as exit:
            main(list(words))
        printed = capsys.readouterr()
        return Outcome(int(exit.value.code or 0), printed.out, printed.err)

    return run


def photos(root: Path, classes: int = 3, channels: str = "L", size: int = 8) -> Path:
    """A folder of little images."""
    draw = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 6)):
        for c in range(classes):
            folder = root / split / f"class{c}"
            folder.mkdir(parents=True)
            for i in range(count):
                shape = (size, size) if channels == "L" else (size, size, 3)
                Image.fromarray(draw.integers(0, 80, shape, dtype=np.uint8) + np.uint8(60 * c), channels).save(
                    folder / f"{i}.png"
                )
    return root


LOOKING = ("profile", "latency", "sensitivity", "evaluate", "compare", "show", "zoo", "methods", "report", "data")
COMMANDS = ("compress", "search", "train", "export", "pack", "unpack", *LOOKING)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(lilliput, command: str) -> None:  # type: ignore[no-untyped-def]
    done = lilliput(command, "--help")
    assert done.code == 0 and f"lilliput {command}" in done.out.replace("\n", " ")
    assert "Example" in done.out


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["profile", "resnet21"], 2, "or `resnet20`"),
        (["profile", "resnet20:depth=3"], 2, "no option is called `depth`"),
        (["profile", "resnet20", "--input", "3,a,2"], 2, "is not channels, height and width"),
        (["profile", "nowhere.py:build"], 1, "nowhere.py"),
        (["profile", "nowhere.lil"], 1, "there is no such file"),
        (["profile", "resnet20", "--weights", "nowhere.safetensors"], 1, "nowhere.safetensors"),
        (["profil", "resnet20"], 2, "profil"),
        (["profile", "resnet20", "--nonsense"], 2, "nonsense"),
        (["evaluate", "resnet20", "--data", "digts"], 2, "Did you mean `digits`"),
        (["compress", "resnet8:channels=1", "--data", "digits", "--out", "o"], 2, "say what to aim at"),
        (["compress", "resnet8:channels=1", "--data", "digits", "--out", "o", "--size", "1kB"], 2, "has no trained weights"),
        (["compress", "resnet8", "--data", "digits", "--out", "o", "--size", "big", "--pretrain", "1"], 2, "is not a budget"),
        (["compress", "resnet8", "--data", "digits", "--out", "o", "--max-drop", "-1", "--pretrain", "1"], 2, "from 0"),
        (["compress", "resnet8", "--data", "digits", "--out", "o", "--recipe", "r.yaml", "--pretrain", "1"], 2, "r.yaml"),
        (["compress", "resnet8", "--data", "digits", "--out", "o", "--size", "1kB", "--pretrain", "1"], 1, "cannot take"),
        (
            ["compress", "resnet8:channels=1,classes=7", "--data", "digits", "--out", "o", "--size", "1kB", "--pretrain", "1"],
            1,
            "7 classes",
        ),
        (["methods", "prune.chanels"], 2, "Did you mean `prune.channels`"),
        (["compare", "a.txt", "b.lil", "--data", "digits"], 2, "a.txt: `.lil`, `.onnx`, `.pte` and `.tflite` are compared"),
        (["compare", "a.lil", "--data", "digits"], 2, "name two files or more"),
        (["report", "nowhere"], 2, "nowhere"),
        (["show", "nowhere.lil"], 1, "nowhere.lil"),
    ],
)
def test_wrong_calls_are_one_line(lilliput, words: list[str], code: int, says: str) -> None:  # type: ignore[no-untyped-def]
    done = lilliput(*words)
    assert says in done.err and done.code == code, done.err
    assert len(done.err.strip().splitlines()) == 1 and "Traceback" not in done.err


def test_a_checkpoint_that_needs_code_is_refused(lilliput, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    torch.save({"state_dict": subprocess.Popen}, tmp_path / "evil.pt")
    done = lilliput("profile", "resnet20", "--weights", str(tmp_path / "evil.pt"))
    assert done.code == 1 and len(done.err.strip().splitlines()) == 1


def test_weights_of_another_network_name_the_first_tensor(lilliput, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from safetensors.torch import save_file

    from lilliput import zoo

    save_file(dict(zoo.create("resnet8:width=2.0").state_dict()), tmp_path / "wide.safetensors")
    done = lilliput("profile", "resnet8", "--weights", "wide.safetensors")
    assert done.code == 1 and "conv1.weight" in done.err and "[32, 3, 3, 3]" in done.err and "[16, 3, 3, 3]" in done.err


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    call = [sys.executable, "-m", "lilliput", "profile", "resnet21", "--debug"]
    done = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path)
    assert "Traceback" in done.stderr and done.returncode == 1


def test_profile_zoo_methods_and_data(lilliput) -> None:  # type: ignore[no-untyped-def]
    assert lilliput("profile", "resnet20", "--json").json()["params"] == 269_722
    assert "resnet20" in lilliput("zoo").out
    assert "keep" in lilliput("methods", "prune.channels").out
    assert {"digits", "cifar10", "fashion-mnist"} <= {row["name"] for row in lilliput("data", "--json").json()}
    assert lilliput("data", "digits", "--json").json()["input"] == [1, 8, 8]


@pytest.mark.slow
def test_from_training_to_the_report(lilliput, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    data, model = str(photos(tmp_path / "photos")), "resnet8:channels=1,classes=3,width=0.5"
    trained = lilliput("train", model, "--data", data, "--epochs", "2", "--batch-size", "16", "--out", "net.lil", "--json")
    assert trained.code == 0, trained.err
    fit = "{fit: {epochs: 1, batch_size: 16, distill: {distill.hinton: {}}}}"
    recipe = f"steps: [{{prune.channels: {{keep: 0.5}}}}, {fit}, quant.quantize]"
    (tmp_path / "recipe.yaml").write_text(recipe)
    done = lilliput("compress", "net.lil", "--data", data, "--recipe", "recipe.yaml", "--out", "out", "--json")
    assert done.code == 0, done.err
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics == done.json()
    fields = {"accuracy", "val_accuracy", "params", "macs", "file_bytes", "onnx_bytes", "latency_ms", "peak_activation_bytes"}
    for side in ("baseline", "compressed"):
        assert fields <= set(metrics[side])
        assert set(metrics[side]["latency_ms"]) == {"median", "p10", "p90", "runs", "runtime", "threads"}
        assert metrics[side]["latency_ms"]["runtime"] == "onnxruntime" and metrics[side]["latency_ms"]["threads"] == 1
    assert {"device", "versions", "seed", "seconds"} <= set(metrics)
    assert metrics["compressed"]["file_bytes"] < metrics["baseline"]["file_bytes"] / 3
    written = {"model.lil", "model.onnx", "report.html", "metrics.json", "recipe.yaml", "log.jsonl"}
    assert written <= {p.name for p in (tmp_path / "out").iterdir()}
    rows = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [r["epoch"] for r in rows if r["event"] == "epoch"] == [1]

    first = json.loads((tmp_path / "out" / "details.json").read_text())
    again = lilliput("compress", "net.lil", "--data", data, "--recipe", "out/recipe.yaml", "--out", "again")
    assert again.code == 0, again.err
    second = json.loads((tmp_path / "again" / "details.json").read_text())
    assert first["digest"] == second["digest"] and all(s["reused"] for s in second["stages"])

    onnx = lilliput("evaluate", "out/model.onnx", "--data", data, "--json").json()
    lil = lilliput("evaluate", "out/model.lil", "--data", data, "--json").json()
    assert onnx["accuracy"] == metrics["compressed"]["accuracy"] and abs(onnx["accuracy"] - lil["accuracy"]) < 0.06
    files = ("out/baseline.onnx", "out/model.onnx", "out/model.lil")
    was, now, stored = lilliput("compare", *files, "--data", data, "--json").json()
    assert [row["bytes"] for row in (was, now)] == [metrics[s]["onnx_bytes"] for s in ("baseline", "compressed")]
    assert stored["bytes"] == metrics["compressed"]["file_bytes"] and stored["accuracy"] == now["accuracy"]
    assert was["agreement"] == 1 and was["mcnemar_p"] == 1 and was["ratio"]["median"] == 1
    assert was["difference"]["value"] == 0 and was["difference"]["low"] == -was["difference"]["high"]
    assert now["difference"]["low"] < now["accuracy"] - was["accuracy"] < now["difference"]["high"]
    said = lilliput("compare", *files, "--data", data).out
    assert "points beside the first (95 %:" in said and said.count("chance") == 2
    assert 0 <= now["agreement"] == stored["agreement"] <= 1 and now["low"] < now["accuracy"] < now["high"]
    assert now["gained"] - now["lost"] == now["correct"] - was["correct"]
    assert "prune.channels" in lilliput("show", "out/model.lil").out
    assert lilliput("latency", "out/model.onnx", "--json").json()["median"] > 0
    assert lilliput("unpack", "out/model.lil", "weights.safetensors", "--input", "1,8,8").code == 0
    assert lilliput("report", "out").code == 0

    missed = lilliput("compress", "net.lil", "--data", data, "--size", "10B", "--epochs", "0", "--out", "small")
    assert missed.code == 1 and "size:" in missed.err and "over the 10 asked for" in missed.err
    assert "No candidate met the budgets" in (tmp_path / "small" / "report.html").read_text()
    assert (tmp_path / "small" / "model.onnx").exists() and (tmp_path / "small" / "report.html").exists()


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    import signal
    import time

    data = photos(tmp_path / "photos")
    words = [
        "train",
        "resnet8:channels=1,classes=3",
        "--data",
        str(data),
        "--epochs",
        "500",
        "--batch-size",
        "16",
        "--out",
        "n.lil",
    ]
    environment = {**os.environ, "LILLIPUT_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(
        [sys.executable, "-m", "lilliput", *words],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # jobs in the background ignore it
    )
    while not list((tmp_path / "cache").glob("stages/*/replicate_0/fit.safetensors")) and run.poll() is None:
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 1 and "the same command goes on from there" in err and "Traceback" not in err


def test_a_seed_decides_what_a_network_starts_from_and_nothing_else() -> None:
    from lilliput.opening import open_model

    state = torch.get_rng_state()
    one, same, other = (open_model("resnet8", seed=s).get_parameter("conv1.weight") for s in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other) and torch.equal(state, torch.get_rng_state())


def test_pack_says_which_coder_and_show_what_it_saves(lilliput) -> None:  # type: ignore[no-untyped-def]
    sizes = {}
    for coder in ("plain", "huffman", "context"):
        done = lilliput("pack", "resnet8:channels=1,width=0.5", f"{coder}.lil", "--coder", coder, "--json")
        if coder == "context" and done.code:
            assert "native core" in done.err  # nothing else can write it
            return
        sizes[coder] = done.json()["bytes"]
    assert sizes["context"] < min(sizes["plain"], sizes["huffman"])
    assert "over entropy" in lilliput("show", "context.lil").out
    wrong = lilliput("pack", "resnet8", "net.lil", "--coder", "contexts")
    assert wrong.code == 2 and "Did you mean `context`?" in wrong.err
    wrong = lilliput("pack", "resnet8", "net.lil", "--int8")
    assert wrong.code == 2 and "`--drop` or `--size`" in wrong.err


@pytest.mark.skipif(kernels.backend() != "native", reason="only the native core rounds")
def test_pack_makes_a_file_small_and_its_network_integer(lilliput, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    call = ("pack", "resnet8:channels=1,width=0.25", str(tmp_path / "net.lil"), "--data", "digits", "--size", "0.4x", "--int8")
    found = lilliput(*call, "--json").json()
    assert found["bytes"] == (tmp_path / "net.lil").stat().st_size and "quant.quantize(weights=power)" in found["recipe"]
    assert found["recipe"] in lilliput("show", str(tmp_path / "net.lil")).out.replace("\n", "")


def test_what_belongs_to_a_search_needs_hours(lilliput, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    call = ["compress", "resnet8:channels=1", "--data", "digits", "--latency", "0.5x", "--out", str(tmp_path / "out")]
    search = ("--workers 2", "--join", "--storage sqlite:///x.db", "--precision bf16-mixed", "--family blocks")
    for wrong in (*search, "--student resnet8"):
        done = lilliput(*call, *wrong.split())
        assert done.code == 2 and "--hours" in done.err
    done = lilliput(*call, "--hours", "1", "--bits", "8")
    assert done.code == 2 and "searches for a recipe" in done.err
    for plan in ("--hours 1", "--bits 8"):
        done = lilliput(*call, *plan.split(), "--epochs", "3")
        assert done.code == 2 and "`--epochs 3` is for a budget" in done.err


def test_sensitivity_prints_and_joins_a_report(lilliput, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    train = ["train", "resnet8:channels=1,width=0.25", "--data", "digits", "--epochs", "1", "--out", str(tmp_path / "net.lil")]
    assert lilliput(*train).code == 0
    lil, out = str(tmp_path / "net.lil"), tmp_path / "run"
    assert lilliput("compress", lil, "--data", "digits", "--bits", "8", "--out", str(out)).code == 0
    done = lilliput("sensitivity", lil, "--data", "digits", "--method", "bits", "--report", str(out), "--json")
    points = done.json()["sensitivity"]
    assert done.code == 0 and points and {p["method"] for p in points} == {"bits"}
    assert json.loads((out / "metrics.json").read_text())["sensitivity"] == points
    assert 'id="sensitivity"' in (out / "report.html").read_text()
    wrong = lilliput("sensitivity", lil, "--data", "digits", "--method", "widths")
    assert wrong.code == 2 and "bits" in wrong.err


@pytest.mark.slow
def test_a_search_by_hours_on_two_processes_ends_in_a_report(lilliput, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    call = ["search", "resnet8:channels=1,width=0.5", "--data", "digits", "--pretrain", "2", "--vary", "width=0.25"]
    call += ["--size", "0.3x", "--family", "blocks", "--hours", "0.008", "--workers", "2", "--out", "out"]
    done = lilliput(*call, "--json")
    assert done.code == 0, done.err
    metrics, front = done.json(), done.json()["front"]
    assert metrics["failures"] == [] and [row["chosen"] for row in front].count(True) == 1
    details = json.loads((tmp_path / "out" / "details.json").read_text())
    tried = {row["name"].split(":")[0] for row in details["tried"]}  # how many of them were trained is the machine's to say
    assert {"student resnet8", "as it is"} <= tried
    assert details["command"] == f"lilliput {' '.join([*call, '--json'])}" and details["images"]["test"] > 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert 'id="front"' in page and "--family blocks" in page
    assert (tmp_path / "out" / "search" / "worker_1.log").exists()
    stages = sorted((tmp_path / "cache").rglob("stage.json"))
    again = lilliput(*call, "--json")
    assert again.json()["front"] == front and sorted((tmp_path / "cache").rglob("stage.json")) == stages


def test_search_names_what_is_no_architecture(lilliput, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    call = [
        "search",
        "resnet8:channels=1",
        "--data",
        "digits",
        "--pretrain",
        "2",
        "--latency",
        "0.7x",
        "--out",
        str(tmp_path / "s"),
    ]
    wrong = {
        "": "which architectures",
        "--vary width": "width=0.25,0.5",
        "--student resnet7": "resnet8",
        "--family wings": "blocks",
    }
    for words, says in wrong.items():
        done = lilliput(
            *call, "--hours", "0.001", *([*words.split(), "--vary", "width=1"] if "fam" in words else words.split())
        )
        assert done.code == 2 and says in done.err
    assert not (tmp_path / "s").exists()


def test_files_are_compared_on_noise_that_is_the_same_each_time() -> None:
    from lilliput import zoo
    from lilliput.cli.options import input_of

    found = input_of(zoo.create("resnet8"), None)
    assert found.shape == (1, 3, 32, 32) and found.std() > 0.5 and torch.equal(found, input_of(None, "3,32,32"))
