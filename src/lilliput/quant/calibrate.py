"""Calibration: what images make of the tensors that quantizers will stand on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from lilliput.core.method import Batch
from lilliput.errors import DataError, at
from lilliput.quant.place import Spot
from lilliput.quant.ranges import Seen


def calibrate(model: nn.Module, spots: Iterable[Spot], images: Iterable[Tensor]) -> dict[Spot, Seen]:
    """Run the images through `model`, in eval mode, and see what comes by each spot.

    Leaves its hooks on `model`, which the caller has made for this. Raises `DataError` for what is not a finite number.
    """
    seen = {spot: Seen() for spot in spots}
    model.eval()
    for spot, stats in seen.items():
        layer = model.get_submodule(spot.site)
        if spot.tensor == "input":
            layer.register_forward_pre_hook(lambda _, args, spot=spot, stats=stats: _see(stats, spot, args[0]))
        else:
            layer.register_forward_hook(lambda _, __, out, spot=spot, stats=stats: _see(stats, spot, out))
    device = next(model.parameters()).device
    with torch.no_grad():
        for x in images:
            model(x.to(device))
    return seen


def first(batches: Iterable[Batch], images: int) -> Iterable[Tensor]:
    """As many images, batch by batch. Raises `DataError` if there are none at all."""
    left = images
    for x, _ in batches:
        yield x[:left]
        left -= len(x)
        if left <= 0:
            return
    if left == images:
        raise DataError("no calibration image was given; ranges need at least one")


def together(images: Sequence[Tensor], device: torch.device) -> Tensor:
    """All images in one batch, (n, c, h, w)."""
    return torch.cat([x.to(device) for x in images])


def _see(stats: Seen, spot: Spot, x: Tensor) -> None:
    with at(spot.site):
        stats.see(spot.seen(x))
