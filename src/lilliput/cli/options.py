"""The options that several commands share, and how they are read."""

from __future__ import annotations

from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any

import typer

from lilliput.errors import UsageError

called: ContextVar[tuple[str, ...]] = ContextVar("called", default=())
"""The words of the command line that is being run; none where a command was called in another way."""

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False,
    help="Make a trained convolutional network small and fast enough for the device in your hand, and prove it.",
)  # fmt: skip

Model = Annotated[
    str,
    typer.Argument(
        help="A zoo name (`resnet20`, `mobilenet_v1:width=0.5`), `timm:NAME`, `torchvision:NAME:classes=10`, "
        "`file.py:function`, a `.lil` or a `.pt2`."
    ),
]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        help="`digits`, `fashion-mnist`, `cifar10`, a folder or `.zip` of train|test/CLASS/IMAGE, a Hugging Face data set on "
        "disk, or `file.py:function`.",
    ),
]
Weights = Annotated[Path | None, typer.Option(help="Weights: safetensors, a state-dict checkpoint, or `pretrained`.")]
Trust = Annotated[bool, typer.Option("--trust", help="Run the code that a `.lil` names as its architecture.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads the runtime may use.")]
Seed = Annotated[int, typer.Option(help="Seed of the validation split, of training and of every random choice.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave corrupt images out instead of stopping.")]
Split = Annotated[str, typer.Option(help="train, val or test.")]
Shape = Annotated[str | None, typer.Option("--input", help="Input as `C,H,W`; the architecture's own by default.")]
Log = Annotated[
    list[str] | None,
    typer.Option("--log", help="Metrics for csv, tensorboard, mlflow or wandb, beside what is written; repeatable."),
]
Devices = Annotated[int, typer.Option(min=1, help="Processes that share each batch.")]
Accelerator = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]


def example_of(name: str) -> str:
    return f"Example: [bold]lilliput {name}[/bold]"


def shape_of(text: str) -> tuple[int, ...]:
    parts = text.replace("x", ",").split(",")
    if len(parts) != 3 or not all(p.strip().isdigit() and int(p) > 0 for p in parts):
        raise UsageError(f"`--input {text}` is not channels, height and width, such as 3,224,224")
    return tuple(int(p) for p in parts)


def input_of(network: Any, text: str | None) -> Any:
    """One input of the asked or the architecture's own shape: noise, since much computes the same of zeros."""
    import torch

    shape = shape_of(text) if text else vars(network).get("input_shape")
    if shape is None:
        raise UsageError("say what the network takes: `--input C,H,W`")
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
