"""Listening to channels while a copy of the network runs: at the input of the layers that read them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lilliput.core.channels import Group, Slot
from lilliput.errors import ModelError
from lilliput.prune.evidence import Evidence
from lilliput.prune.slices import makes, reads

Place = tuple[str, str]
"""A site, and "in" or "out"."""

Hear = Callable[[Place, nn.Module, Tensor], Tensor | None]


def heard(model: nn.Module, group: Group) -> list[Slot]:
    """Where a group's channels can be listened to: the inputs of the layers that read them.

    Channels that no layer with a weight reads (two activations are multiplied, say) are heard where they are made.
    Raises `ModelError` where there is neither.
    """
    found = [s for s in group.slots if reads(model, s)] or [s for s in group.slots if makes(model, s)]
    if not found:
        raise ModelError(f"{group.name}: no layer reads or makes these channels; `skip` them, or score them by their weights")
    return found


def stage(evidence: Evidence) -> dict[Place, list[tuple[Group, Slot]]]:
    """Every place to listen at, with the groups that are heard there."""
    places: dict[Place, list[tuple[Group, Slot]]] = {}
    for group in evidence.groups:
        for slot in heard(evidence.model, group):
            places.setdefault((slot.site, slot.axis), []).append((group, slot))
    return places


def by_channel(layer: nn.Module, x: Tensor) -> Tensor:
    """An input or output of a layer with the channels last."""
    return x if isinstance(layer, nn.Linear) else x.movedim(1, -1)


@contextmanager
def listening(evidence: Evidence, places: Iterable[Place], hear: Hear) -> Iterator[nn.Module]:
    """A copy of the model, in eval mode and without gradients of its own, in which `hear` is called with what passes each
    place and may answer with something else. The global random state is as before afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(evidence.look.seed)
        runner = copy.deepcopy(evidence.model).eval().requires_grad_(False)
        for place in places:
            layer = runner.get_submodule(place[0])
            if place[1] == "in":
                layer.register_forward_pre_hook(_entering(place, hear), with_kwargs=True)
            else:
                layer.register_forward_hook(_leaving(place, hear))
        yield runner


def _entering(place: Place, hear: Hear) -> Callable[..., Any]:
    def hook(layer: nn.Module, args: tuple[Tensor, ...], options: dict[str, Tensor]) -> Any:
        x = args[0] if args else options["input"]
        new = hear(place, layer, x)
        return None if new is None else ((new,), {})

    return hook


def _leaving(place: Place, hear: Hear) -> Callable[..., Any]:
    return lambda layer, _, output: hear(place, layer, output)
