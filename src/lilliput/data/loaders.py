"""A PyTorch `DataLoader` read to its end, once, into memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset

from lilliput.data.images import Images, images_of
from lilliput.data.progress import Bar
from lilliput.errors import DataError

WANTED = "wanted are pairs (x, y) of x (b, C, H, W), floating point or uint8, and y (b), whole numbers from 0"
_IMAGES, _LABELS = ("image", "images", "pixel_values"), ("label", "labels")


def read_loader(loader: Any, split: str, seed: int) -> Images:
    """The images of a loader, or of a map-style data set. What it draws at random, such as an order, follows from `seed`.

    Raises `DataError` for batches of other things, for a loader that gives an image twice, and for a data set that gives other
    pixels each time it is asked.
    """
    if _has_places(loader):
        loader = DataLoader(loader, batch_size=64)
    if not isinstance(loader, Iterable) or isinstance(loader, Tensor | np.ndarray | str | Mapping):
        raise DataError(f"{split}: a `{type(loader).__name__}` is no loader; give a DataLoader or a Dataset")
    _check_still(getattr(loader, "dataset", None), split)
    pixels: list[Tensor] = []
    labels: list[Tensor] = []
    with torch.random.fork_rng(devices=[]), Bar(f"reading {split}", 0) as bar:
        torch.manual_seed(seed)
        for number, batch in enumerate(_once(loader, split)):
            x, y = _pair(batch, f"{split}, batch {number + 1}")
            if pixels and (x.shape[1:], x.dtype) != (pixels[0].shape[1:], pixels[0].dtype):
                raise DataError(
                    f"{split}, batch {number + 1}: images `{_told(x)}` after `{_told(pixels[0])}`; bring them to one size"
                )
            pixels.append(x)
            labels.append(y)
            bar.update(len(x))
    if not pixels:
        raise DataError(f"{split}: the loader gave no batch")
    x = torch.cat(pixels)
    return images_of((x.permute(0, 2, 3, 1) if x.dtype == torch.uint8 else x, torch.cat(labels)), split)


def _once(loader: Any, split: str) -> Any:
    """The images that a loader picks from a data set, a last and smaller batch as well, which a training would drop."""
    plain = isinstance(loader, DataLoader) and type(loader).__iter__ is DataLoader.__iter__
    if not plain or isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
        return loader
    picks = loader.batch_sampler
    chosen = picks.sampler if type(picks) is BatchSampler else (place for batch in picks for place in batch)
    places = list(chosen)
    if len(set(places)) < len(places):
        raise DataError(
            f"{split}: the loader's `{type(getattr(picks, 'sampler', picks)).__name__}` gives {len(places):,} images, and "
            f"{len(set(places)):,} different ones; those that come twice may be in two splits. Give the data set itself"
        )
    return DataLoader(
        loader.dataset, loader.batch_size or 64, sampler=places, collate_fn=loader.collate_fn,
        num_workers=loader.num_workers, worker_init_fn=loader.worker_init_fn,
    )  # fmt: skip


def _has_places(dataset: Any) -> bool:
    """Whether images can be asked for by number."""
    return isinstance(dataset, Dataset) and not isinstance(dataset, IterableDataset)


def _pair(batch: Any, where: str) -> tuple[Tensor, Tensor]:
    """Images (b, C, H, W) and labels (b) of a batch."""
    if isinstance(batch, Mapping):
        found = [next((batch[name] for name in names if name in batch), None) for names in (_IMAGES, _LABELS)]
        if found[0] is None or found[1] is None:
            raise DataError(f"{where}: a dict of `{', '.join(map(str, batch))}` came; {WANTED}")
    elif isinstance(batch, tuple | list) and len(batch) == 2:
        found = list(batch)
    else:
        count = f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
        raise DataError(f"{where}: a `{type(batch).__name__}`{count} came; {WANTED}")
    x, y = found
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        raise DataError(f"{where}: `{type(x).__name__}` and `{type(y).__name__}` came; {WANTED}")
    x, y = x.detach().cpu(), y.detach().cpu()
    kind = x.is_floating_point() or x.dtype == torch.uint8
    whole = not (y.is_floating_point() or y.is_complex() or y.dtype == torch.bool)
    if x.dim() != 4 or not kind or y.shape != x.shape[:1] or not whole:
        raise DataError(f"{where}: x `{_told(x)}` and y `{_told(y)}` came; {WANTED}")
    return x.float() if kind and x.dtype != torch.uint8 else x, y.long()


def _told(x: Tensor) -> str:
    return f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}"


def _check_still(dataset: Any, split: str) -> None:
    """Ask a map-style data set for its first image some times: a random transform shows by giving different ones."""
    if not _has_places(dataset) or not len(dataset):
        return
    with torch.random.fork_rng(devices=[]):
        first, *again = (_pixels(dataset[0]) for _ in range(12))
    if first is not None and any(other is None or not torch.equal(first, other) for other in again):
        raise DataError(
            f"{split}: the data set gives other pixels each time it is asked for an image, to be drawn once for all; "
            "take the random transform out, and give `augment`"
        )


def _pixels(item: Any) -> Tensor | None:
    """The image of an item, where it is a tensor."""
    if isinstance(item, Mapping):
        item = [item[name] for name in _IMAGES if name in item]
    first = item[0] if isinstance(item, tuple | list) and item else None
    return first if isinstance(first, Tensor) else None
