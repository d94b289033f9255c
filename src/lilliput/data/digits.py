"""The digits that scikit-learn brings along: 1797 scans of handwritten figures, 8 x 8, grey, in 10 classes.

The scans have levels 0 to 16, which become 0 to 255 (level * 255 / 16, rounded). They come without a test split, so one
is fixed here for everybody: within each class, in the order of the file, every fifth scan (the 5th, 10th, ...) is test.
That leaves 1442 scans for training and 355 for the test.
Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository,
doi:10.24432/C50P49.
"""

from __future__ import annotations

from importlib.metadata import version

import numpy as np

from lilliput.data.cache import Writer, cached
from lilliput.data.decode import fit
from lilliput.data.images import Array
from lilliput.data.splits import Options, Splits


def read(options: Options) -> Splits:
    """The splits of the digits."""
    identity = {"source": "digits", "scikit-learn": version("scikit-learn"), "size": options.size}
    return cached(identity, lambda writer: _build(options, writer))


def fifth(labels: Array) -> Array:
    """Which places hold the 5th, 10th, ... of their class.

    >>> fifth(np.array([0, 1, 0, 0, 0, 1, 0])).tolist()
    [False, False, False, False, False, False, True]
    """
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        chosen[np.flatnonzero(labels == label)[4::5]] = True
    return chosen


def _build(options: Options, writer: Writer) -> None:
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    levels, labels = load_digits(return_X_y=True)
    pixels = np.rint(levels.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    test = fifth(labels)
    writer.class_names = tuple("0123456789")
    writer.add("train", fit(pixels[~test], options.size), labels[~test])
    writer.add("test", fit(pixels[test], options.size), labels[test])
