"""Metrics reach Fabric's loggers, and those of MLflow and Weights & Biases where they are installed, without a network."""

from __future__ import annotations

import csv
import importlib.util
import socket
import warnings
from pathlib import Path
from typing import Any

import pytest
from small import network, task

import lilliput as lp
from lilliput.cli import main
from lilliput.errors import UnknownName, UsageError
from lilliput.logs import Log
from lilliput.train import Event, fit


class Kept:
    """A logger that keeps what it is told."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.asked: dict[str, Any] = {}
        self.ended = ""

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.rows.append((step, metrics))

    def log_hyperparams(self, params: dict[str, Any]) -> None:
        self.asked |= params

    def save(self) -> None:
        pass

    def finalize(self, status: str) -> None:
        self.ended = status


def test_steps_count_on_through_the_trainings_of_a_recipe() -> None:
    kept, seen = Kept(), list[Event]()
    plan = lp.Fit(epochs=2, batch_size=27)
    with Log([kept], every=3, watch=seen.append) as log:
        log.settings({"fit": plan.text()})
        for seed in (0, 1):
            history = fit(network(), task(), plan, seed=seed, watch=log).history
    assert [step for step, _ in kept.rows] == [3, 4, 7, 8, 11, 12, 15, 16]
    assert kept.rows[-1][1]["validation/accuracy"] == history[-1]["val_accuracy"] and kept.rows[-1][1]["epoch"] == 2
    assert kept.rows[0][1].keys() == {"train/loss", "train/accuracy", "train/images_s"}
    assert len(seen) == 2 * (8 + 2) and kept.asked == {"fit": plan.text()} and kept.ended == "success"


def test_epochs_alone_are_rows_too_and_a_failure_is_told() -> None:
    kept = Kept()
    row = {"event": "epoch", "epochs": 2, "train_loss": 1, "train_accuracy": 1, "images_s": 1, "val_accuracy": 1}
    with pytest.raises(ValueError), Log([kept]) as log:
        for epoch in (1, 2):
            log({**row, "epoch": epoch})
        raise ValueError
    assert [(step, values["epoch"]) for step, values in kept.rows] == [(1, 1), (2, 2)] and kept.ended == "failed"


def test_a_result_is_a_row_of_both_networks() -> None:
    kept = Kept()
    figures = {"accuracy": 0.5, "accuracy_interval": [0.4, 0.6], "latency_ms": {"median": 2.0}, "file_bytes": None}
    Log([kept]).result({"baseline": figures, "compressed": figures})
    assert kept.rows[0][1] == {
        f"{name}/{key}": v for name in ("baseline", "compressed") for key, v in (("accuracy", 0.5), ("latency_ms", 2.0))
    }


@pytest.mark.parametrize("name", ["csv", "tensorboard", "mlflow", "wandb"])
def test_each_logger_writes_below_the_folder_and_asks_nobody(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name != "csv" and importlib.util.find_spec(name) is None:
        with pytest.raises(UsageError, match=f"pip install {name}"):
            Log([name], tmp_path)
        pytest.skip(f"{name} is not installed: pip install {name}")
    for variable in ("MLFLOW_TRACKING_URI", "WANDB_MODE"):
        monkeypatch.delenv(variable, raising=False)
    asked: list[Any] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **named: asked.append(given) or [])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what these packages use of others'
        with Log([name], tmp_path / "logs", every=1) as log:
            log.settings({"seed": 0})
            fit(network(), task(), lp.Fit(epochs=1, batch_size=27), watch=log)
    assert asked == [] and any(path.is_file() for path in (tmp_path / "logs").rglob("*"))


def test_the_command_writes_a_table_beside_its_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LILLIPUT_CACHE", str(tmp_path / "cache"))
    words = ["train", "resnet8:channels=1,width=0.25", "--data", "digits", "--epochs", "1", "--log", "csv"]
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--out", str(tmp_path / "it.lil")])
    assert not stopped.value.code, capsys.readouterr().err
    (table,) = (tmp_path / "it.logs").rglob("metrics.csv")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert float(rows[-1]["epoch"]) == 1 and 0 <= float(rows[-1]["validation/accuracy"]) <= 1


def test_no_logger_leaves_nothing_and_an_unknown_one_is_offered_others(tmp_path: Path) -> None:
    with Log([], tmp_path / "logs") as log:
        log.settings({"seed": 0})
    assert not (tmp_path / "logs").exists()
    with pytest.raises(UnknownName, match="`tensorboard`"):
        Log(["tensorbord"], tmp_path)
