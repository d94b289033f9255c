"""What a teacher said of every image, by image and augmentation, on disk: whoever draws the same images need not ask again.

What augmentation does to an image follows from the seed and the epoch. So every training of a seed sees the same images: those
of a search, the losses of a comparison, the epochs of one training without augmentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lilliput.core import state
from lilliput.errors import ConfigError

LIMIT = 4 * 2**30  # bytes in a folder


class Answers:
    """One teacher's answers in one training: for each epoch and site (a tap, or the outputs) a tensor (images, ...).

    folder  of everything that the answers follow from: teacher, data, seed, precision, batches, and what is tapped

    `begin` and `end` enclose an epoch. What was heard is written at its end, so that a killed one hears it again. Epochs that
    would take the folder over 4 GiB are not kept: they are asked for again.
    """

    def __init__(self, folder: Path, images: int) -> None:
        self.folder, self.images = folder, images
        self.path: Path | None = None
        self.said: dict[str, Tensor] = {}
        self.heard = torch.zeros(images, dtype=torch.bool)
        self.more = False

    def begin(self, epoch: str) -> None:
        """Take over what is known of an epoch; all epochs that see the same images have one name."""
        path = self.folder / f"{epoch}.safetensors"
        if path == self.path:
            return
        self.path, self.said, self.more = path, {}, False
        self.heard = torch.zeros(self.images, dtype=torch.bool)
        if path.exists():
            stored = state.read(path)
            self.said, self.heard = stored["said"], stored["heard"]

    def get(self, places: Tensor) -> dict[str, Tensor] | None:
        """The answers for images at these places of the training split by site; nothing where one of them was not heard."""
        places = places.cpu()
        if not bool(self.heard[places].all()):
            return None
        return {site: said[places] for site, said in self.said.items()}

    def put(self, places: Tensor, answers: Mapping[str, Tensor]) -> None:
        """Keep what was just said of the images at these places."""
        places = places.cpu()
        for site, answer in answers.items():
            value = answer.detach().cpu()
            if site not in self.said:
                self._check(value)
                self.said[site] = value.new_zeros(self.images, *value.shape[1:])
            self.said[site][places] = value
        self.heard[places] = True
        self.more = True

    def end(self) -> None:
        """Write what the epoch added."""
        if self.more and self.path is not None:
            others = sum(file.stat().st_size for file in self.folder.glob("*.safetensors") if file != self.path)
            if others + self._bytes() <= LIMIT:
                state.write(self.path, {"said": self.said, "heard": self.heard})
            self.more = False

    def _bytes(self) -> int:
        return sum(said.numel() * said.itemsize for said in self.said.values())

    def _check(self, value: Tensor) -> None:
        needed = self._bytes() + self.images * value[0].numel() * value.itemsize
        if needed > LIMIT:
            raise ConfigError(
                f"`cache_teacher` (=true): what the teacher says takes {needed / 2**30:.1f} GiB an epoch, and "
                f"{LIMIT / 2**30:.0f} GiB are allowed; tap later or fewer layers, or leave it off"
            )
