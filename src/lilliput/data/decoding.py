"""Many images from their files to one array, decoded in threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lilliput.data.cache import Writer
from lilliput.data.decode import LARGEST_FILE, Unusable, decode
from lilliput.data.images import Array
from lilliput.data.prefetch import ahead
from lilliput.data.progress import Bar
from lilliput.data.splits import Options
from lilliput.data.wording import named
from lilliput.errors import DataError

_CHUNK = 64  # images a thread decodes before it hands over


@dataclass
class Decoding:
    """The decoding of all images of a source: chunks in threads, results in order.

    `listed` has split, name and label of every image, and `read` gives the bytes of a name; what it raises is why that image
    cannot be used. All must have one size and number of channels.
    """

    read: Callable[[str], bytes]
    options: Options
    listed: list[tuple[str, str, int]]
    writer: Writer
    first: str = ""
    shape: tuple[int, ...] = ()

    def run(self) -> None:
        """Decode all of them into the writer. Raises `DataError` for unusable ones, unless they are to be left out."""
        workers = min(8, os.cpu_count() or 1)
        count = -(-len(self.listed) // _CHUNK)
        bad: list[tuple[str, str]] = []
        with Bar("decoding images", len(self.listed)) as bar:
            for part in ahead(self._chunk, count, depth=workers + 2, workers=workers):
                bad += self._take(part)
                bar.update(len(part))
        if bad and not self.options.skip_bad:
            raise DataError(
                f"{len(bad)} of {len(self.listed)} images cannot be used: {named(path for path, _ in bad)} "
                f"(the first: {bad[0][1]}); mend or remove them, or leave them out with --skip-bad"
            )
        self.writer.skipped = [path for path, _ in bad]
        self._check_left({path for path, _ in bad})

    def _chunk(self, number: int) -> list[tuple[str, str, int, Array | str]]:
        """Decoded images, or the reason in the place of one that cannot be used."""
        part = self.listed[number * _CHUNK : (number + 1) * _CHUNK]
        return [(split, path, label, self._decode(path)) for split, path, label in part]

    def _decode(self, path: str) -> Array | str:
        try:
            data = self.read(path)
        except Exception as error:  # a zip raises one of many kinds for a damaged member
            return str(error) or type(error).__name__
        if len(data) > LARGEST_FILE:
            return f"more than {LARGEST_FILE} bytes"
        try:
            return decode(data, self.options.size)
        except Unusable as reason:
            return str(reason)

    def _take(self, part: list[tuple[str, str, int, Array | str]]) -> list[tuple[str, str]]:
        """Write the good images of a chunk, run by run of one split; return path and reason of the others."""
        bad: list[tuple[str, str]] = []
        runs: dict[str, tuple[list[Array], list[int]]] = {}
        for split, path, label, pixels in part:
            reason = pixels if isinstance(pixels, str) else self._unlike(path, pixels)
            if reason:
                bad.append((path, reason))
            else:
                images, labels = runs.setdefault(split, ([], []))
                images.append(pixels)  # type: ignore[arg-type]
                labels.append(label)
        for split, (images, labels) in runs.items():
            self.writer.add(split, np.stack(images), labels)
        return bad

    def _unlike(self, path: str, pixels: Array) -> str:
        """Why an image does not go with the first one, or nothing. Another size is an error of the whole."""
        if not self.shape:
            self.first, self.shape = path, pixels.shape
        (height, width, channels), (high, wide, deep) = pixels.shape, self.shape
        if (height, width) != (high, wide):
            raise DataError(
                f"`{self.first}` is {wide} x {high} pixels and `{path}` {width} x {height}; bring both to one `size`"
            )
        return f"{channels} channels where `{self.first}` has {deep}" if channels != deep else ""

    def _check_left(self, bad: set[str]) -> None:
        """Every class of every split has an image left."""
        wanted = {(split, label) for split, _, label in self.listed}
        left: set[Any] = {(split, label) for split, path, label in self.listed if path not in bad}
        gone = sorted(f"{split}/{self.writer.class_names[label]}" for split, label in wanted - left)
        if gone:
            raise DataError(f"classes without a usable image: {named(gone)}; fill them or remove the class")
