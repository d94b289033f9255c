"""What a person sees while something long runs, and nothing of it where nobody looks."""

from __future__ import annotations

import json
import sys
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

out = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
err = Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())


def say(line: str) -> None:
    """A line of progress, on standard error."""
    err.print(f"[dim]{line}[/dim]" if err.is_terminal else line, markup=err.is_terminal)


def show(value: Any, as_json: Any, json_wanted: bool) -> None:
    """Print a result: for a person, or as JSON on standard output."""
    if json_wanted:
        sys.stdout.write(json.dumps(as_json, indent=2) + "\n")
    else:
        out.print(value)


def table(title: str, columns: list[str], rows: list[list[str]]) -> Table:
    """A plain table: the first column to the left, numbers to the right."""
    made = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for number, column in enumerate(columns):
        made.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        made.add_row(*row)
    return made


class Training:
    """A live bar for every epoch with accuracy, images a second and time left; one line an epoch where there is no terminal."""

    def __init__(self) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=err,
            transient=True,
            disable=not err.is_terminal,
        )
        self.bar: TaskID | None = None

    def __enter__(self) -> Training:
        self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.progress.stop()

    def __call__(self, event: dict[str, Any]) -> None:
        """Look at one event of training."""
        if event["event"] == "step":
            self._step(event)
        else:
            self._close()
            say(
                f"epoch {event['epoch']}/{event['epochs']}: loss {event['train_loss']:.3f}, "
                f"train {100 * event['train_accuracy']:.1f} %, "
                f"validation {100 * event['val_accuracy']:.1f} %, {event['images_s']:,.0f} images/s"
            )

    def _step(self, event: dict[str, Any]) -> None:
        if self.bar is None:
            total = event["steps"] * event["epochs"]
            self.bar = self.progress.add_task("training", total=total, figures="")
        done = (event["epoch"] - 1) * event["steps"] + event["step"]
        figures = f"{100 * event['accuracy']:.1f} %  {event['images_s']:,.0f} images/s"
        self.progress.update(self.bar, completed=done, figures=figures, description=f"epoch {event['epoch']}/{event['epochs']}")

    def _close(self) -> None:
        if self.bar is not None and self.progress.tasks and self.progress.tasks[-1].finished:
            self.progress.remove_task(self.bar)
            self.bar = None
