"""Metrics of training for the tools that draw them, through Fabric's loggers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from lilliput.train import Event, Watch


class Log:
    """Who watches a training and tells loggers: `fit(..., watch=log)`, `job.Settings(watch=log)`, `lilliput train --log csv`.

    loggers   `csv`, `tensorboard`, `mlflow` or `wandb`, or a logger of Fabric's or Lightning's own
    folder    where those that are named write; nothing leaves the machine unless `MLFLOW_TRACKING_URI` or `WANDB_MODE` say so
    watch     who else sees every event
    every     steps between two rows; an epoch has a row in any case

    Rows have `train/loss`, `train/accuracy` and `train/images_s` of the epoch so far, and `validation/accuracy` after it. Steps
    count on through all trainings of a recipe. Use it in a `with`, so that loggers finish.
    Raises `UsageError` where a logger's package is not installed.
    """

    def __init__(
        self, loggers: Sequence[Any], folder: Path | str = "logs", *, watch: Watch | None = None, every: int = 50
    ) -> None:
        self.loggers: list[Any] = []
        if loggers:  # Fabric takes a second to import
            from lilliput.trackers import logger

            self.loggers = [logger(each, Path(folder)) if isinstance(each, str) else each for each in loggers]
        self.watch, self.every = watch, every
        self.before = self.at = 0  # steps of the trainings before this one; the step in this one
        self.stepped = False  # whether a step was seen since the last epoch

    def __call__(self, event: Event) -> None:
        """Look at one event."""
        if self.watch is not None:
            self.watch(event)
        if event["event"] == "step":
            self._step(event)
        elif event["event"] == "epoch":
            self._epoch(event)

    def _step(self, event: Event) -> None:
        place = (event["epoch"] - 1) * event["steps"] + event["step"]
        if place <= self.at:  # another training has begun
            self.before, self.at = self.before + self.at, 0
        self.at, self.stepped = place, True
        if event["step"] % self.every == 0:
            self._tell({f"train/{name}": event[name] for name in ("loss", "accuracy", "images_s")})

    def _epoch(self, event: Event) -> None:
        if not self.stepped:  # of several processes only the epochs are told, one step each
            self.at += 1
        self.stepped = False
        self._tell({
            "epoch": event["epoch"], "train/loss": event["train_loss"], "train/accuracy": event["train_accuracy"],
            "train/images_s": event["images_s"], "validation/accuracy": event["val_accuracy"],
        })  # fmt: skip

    def _tell(self, values: Mapping[str, float]) -> None:
        for each in self.loggers:
            each.log_metrics(metrics={name: float(value) for name, value in values.items()}, step=self.before + self.at)

    def settings(self, values: Mapping[str, Any]) -> None:
        """What the run was asked for, where a logger takes such; Fabric's for CSV does not."""
        for each in self.loggers:
            try:
                each.log_hyperparams(dict(values))
            except NotImplementedError:
                continue

    def result(self, metrics: Mapping[str, Any]) -> None:
        """The figures of a `metrics.json`: `baseline/accuracy`, `compressed/latency_ms`, and so on."""
        rows = {
            f"{network}/{name}": value for network in ("baseline", "compressed") for name, value in metrics[network].items()
        }
        rows |= {name: value["median"] for name, value in rows.items() if name.endswith("/latency_ms")}
        self._tell({name: value for name, value in rows.items() if isinstance(value, int | float)})

    def __enter__(self) -> Log:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for each in self.loggers:
            each.save()
            each.finalize("success" if error is None else "failed")
