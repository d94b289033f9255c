"""Loggers by name: Fabric's own for CSV and TensorBoard, and MLflow and Weights & Biases behind the same interface.

Whatever writes does so below a folder. MLflow's server and the service of Weights & Biases are asked for by the variables of
their own, `MLFLOW_TRACKING_URI` and `WANDB_MODE=online`; both packages' reports on their use are switched off.
"""

from __future__ import annotations

import importlib
import os
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning_fabric.loggers import CSVLogger, TensorBoardLogger
from lightning_fabric.loggers.logger import Logger

from lilliput.errors import ConfigError, UnknownName, UsageError

PROJECT = "lilliput"


def logger(name: str, folder: Path) -> Logger:
    """The logger of a name, writing below `folder`. Raises `UnknownName`, or `UsageError` that says what to install."""
    if name not in _MADE:
        raise UnknownName("logger", name, _MADE)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return _MADE[name](folder)
    except ImportError:
        raise UsageError(f"the logger `{name}` is not installed: pip install {name}") from None


class MLflow(Logger):
    """One run of MLflow, in `mlflow.db` of a folder or where `MLFLOW_TRACKING_URI` says."""

    def __init__(self, folder: Path) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        package = importlib.import_module("mlflow")
        place = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.resolve()}/mlflow.db"
        try:
            self.client = package.MlflowClient(tracking_uri=place)
            known = self.client.get_experiment_by_name(PROJECT)
            where = known.experiment_id if known else self.client.create_experiment(PROJECT, self._artifacts(folder))
            self.run = self.client.create_run(where).info.run_id
        except package.exceptions.MlflowException as error:
            raise ConfigError(f"mlflow at `{place}`: {str(error).strip().splitlines()[0]}") from None

    @staticmethod
    def _artifacts(folder: Path) -> str | None:
        return None if os.environ.get("MLFLOW_TRACKING_URI") else (folder.resolve() / "artifacts").as_uri()

    @property
    def name(self) -> str:
        """The experiment."""
        return PROJECT

    @property
    def version(self) -> str:
        """The run."""
        return str(self.run)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """One row."""
        for key, value in metrics.items():
            self.client.log_metric(self.run, key, value, step=step)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """What the run was asked for."""
        for key, value in (vars(params) if isinstance(params, Namespace) else params).items():
            self.client.log_param(self.run, key, value)

    def finalize(self, status: str) -> None:
        """The run is over."""
        self.client.set_terminated(self.run, "FINISHED" if status == "success" else "FAILED")


class Wandb(Logger):
    """One run of Weights & Biases, offline in a folder unless `WANDB_MODE` says otherwise (`wandb sync` sends it later)."""

    def __init__(self, folder: Path) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        package = importlib.import_module("wandb")
        mode = os.environ.get("WANDB_MODE", "offline")
        self.run = package.init(project=PROJECT, dir=str(folder), mode=mode, settings=package.Settings(silent=True))

    @property
    def name(self) -> str:
        """The project."""
        return PROJECT

    @property
    def version(self) -> str:
        """The run."""
        return str(self.run.id)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """One row."""
        self.run.log(dict(metrics), step=step)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """What the run was asked for."""
        self.run.config.update(vars(params) if isinstance(params, Namespace) else params)

    def finalize(self, status: str) -> None:
        """The run is over."""
        self.run.finish(exit_code=0 if status == "success" else 1)


_MADE: dict[str, Callable[[Path], Logger]] = {
    "csv": lambda folder: CSVLogger(folder, "csv"),
    "tensorboard": lambda folder: TensorBoardLogger(folder, "tensorboard"),
    "mlflow": MLflow,
    "wandb": Wandb,
}
