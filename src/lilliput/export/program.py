"""A network as a program of torch.export, in the form that runtimes with XNNPACK's kernels take."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from lilliput.core.method import Look
from lilliput.core.perform import bake
from lilliput.errors import ExportError, at
from lilliput.export import levels
from lilliput.export.bytes import rewrite
from lilliput.quant.fold import Fold

Rewrite = Callable[[fx.GraphModule], None]


def folded(model: nn.Module, example: Tensor, path: Path) -> tuple[nn.Module, bool]:
    """A copy in eval mode without the norms that can be folded, and whether its activations are integers.

    Raises `ExportError` for activations that no byte can hold.
    """
    new = Fold()(copy.deepcopy(model).cpu().eval(), Look(example)).eval()
    with at(str(path)):
        return new, levels.is_integer(new)


def formed(model: nn.Module, example: Tensor, whole: bool, last: Rewrite) -> tuple[nn.Module, dict[str, str]]:
    """A folded network on bytes where its activations are integers, else with its maps computed; and what stays in floats.

    `last`: what a runtime wants besides of a network on bytes.
    """
    if not whole:
        return bake(model).eval(), {}
    network, stays = on_bytes(model, example)
    last(network)
    return network, stays


def on_bytes(model: nn.Module, example: Tensor) -> tuple[fx.GraphModule, dict[str, str]]:
    """The network in the form that XNNPACK's integer kernels take; and the layers that stay in floats."""
    traced = exported(levels.lower(model), example).run_decompositions({}).module(check_guards=False)
    return traced, rewrite(traced)


def exported(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """The program that torch.export makes of a network. Raises `ExportError` where it cannot."""
    try:
        with torch.no_grad():
            return torch.export.export(model, (example,))
    except Exception as error:  # its errors share no base
        raise cannot("torch.export", error) from error


def cannot(who: str, error: Exception) -> ExportError:
    """That somebody else's program does not take a network, with the first line of what it says."""
    line = (str(error).strip().splitlines() or [""])[0]
    return ExportError(f"{who} cannot hold this network: {type(error).__name__}: {line}")
