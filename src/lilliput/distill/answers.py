"""What a teacher said of every image, by image and augmentation, on disk: whoever draws the same images need not ask again.

What augmentation does to an image follows from the seed and the epoch. So every training of a seed sees the same images: those
of a search, the losses of a comparison, the epochs of one training without augmentation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lilliput.core import state
from lilliput.errors import ConfigError

LIMIT = 4 * 2**30  # bytes of one epoch's answers


class Answers:
    """One teacher's answers in one training: for each epoch and site (a tap, or the outputs) a tensor (images, ...).

    folder  of everything that the answers follow from: teacher, data, seed, precision
    sites   what a loss needs; without one of them the teacher is asked

    `begin` and `end` enclose an epoch. What was heard is written at its end, so that a killed one hears it again.
    """

    def __init__(self, folder: Path, images: int, sites: Sequence[str]) -> None:
        self.folder, self.images, self.sites = folder, images, tuple(dict.fromkeys(sites))
        self.epoch: str | None = None
        self.said: dict[str, Tensor] = {}
        self.heard = torch.zeros(images, dtype=torch.bool)
        self.more = False

    def begin(self, epoch: str) -> None:
        """Take over what is known of an epoch; all epochs that see the same images have one name."""
        if epoch == self.epoch:
            return
        self.epoch, self.said, self.more = epoch, {}, False
        self.heard = torch.zeros(self.images, dtype=torch.bool)
        if all(self._path(site).exists() for site in self.sites):
            stored = {site: state.read(self._path(site)) for site in self.sites}
            self.said = {site: each["said"] for site, each in stored.items()}
            self.heard = torch.stack([each["heard"] for each in stored.values()]).all(0)

    def get(self, places: Tensor) -> dict[str, Tensor] | None:
        """The answers for images at these places of the training split by site; nothing where one of them was not heard."""
        places = places.cpu()
        if not bool(self.heard[places].all()):
            return None
        return {site: said[places] for site, said in self.said.items()}

    def put(self, places: Tensor, answers: Mapping[str, Tensor]) -> None:
        """Keep what was just said of the images at these places."""
        places = places.cpu()
        for site in self.sites:
            value = answers[site].detach().cpu()
            if site not in self.said:
                self._check(site, value)
                self.said[site] = value.new_zeros(self.images, *value.shape[1:])
            self.said[site][places] = value
        self.heard[places] = True
        self.more = True

    def end(self) -> None:
        """Write what the epoch added."""
        if self.more:
            for site, said in self.said.items():
                state.write(self._path(site), {"said": said, "heard": self.heard})
            self.more = False

    def _path(self, site: str) -> Path:
        return self.folder / f"{self.epoch}_{hashlib.sha256(site.encode()).hexdigest()[:8]}.safetensors"

    def _check(self, site: str, value: Tensor) -> None:
        needed = self.images * value[0].numel() * value.itemsize + sum(v.numel() * v.itemsize for v in self.said.values())
        if needed > LIMIT:
            raise ConfigError(
                f"`cache_teacher` (=true): what the teacher says takes {needed / 2**30:.1f} GiB an epoch, and "
                f"{LIMIT / 2**30:.0f} GiB are allowed; tap later or fewer layers, or leave it off"
            )
