"""Data sets by name, by path, or by a function: `open_task` takes all three.

    digits             8 x 8 scans that scikit-learn brings along
    fashion-mnist      IDX files
    cifar10            the official python archive, or a zip or folder of images
    PATH               a folder or .zip of train|val|test/CLASS/IMAGE, a folder of IDX files, CIFAR's python archive, or a
                       data set of the Hugging Face hub: shards of Parquet, what `save_to_disk` writes, or its cache
    file.py:function   a function that returns a Task

A name is looked for in `$LILLIPUT_DATA` (`NAME`, `NAME.zip`, or under its publisher's file names), then in the cache,
then where a distribution's package puts it; after that it is fetched from its publisher and its checksum compared.
Names that are not in the table may lie in `$LILLIPUT_DATA` too: `flowers` finds `$LILLIPUT_DATA/flowers.zip`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from lilliput import script
from lilliput.data import cifar, digits, folder, idx, shards
from lilliput.data.augment import CropFlip
from lilliput.data.fetch import Download, fetch
from lilliput.data.fetch import folder as fetched
from lilliput.data.splits import Options, Splits
from lilliput.data.task import Task
from lilliput.errors import ConfigError, DataError, UnknownName, at
from lilliput.registry import Registry

# A folder of images is what any other folder must be, so it comes last.
_FORMATS = (
    (cifar.accepts, cifar.read),
    (idx.accepts, idx.read),
    (shards.accepts, shards.read),
    (folder.accepts, folder.read),
)
_FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"


@dataclass(frozen=True)
class Source:
    """A named data set: what it is, how it is called on disk, where else it may lie, how it is fetched.

    `names` are paths below `$LILLIPUT_DATA`, below the cache's folder of it, and below `elsewhere`; `advice` says how
    else to get it. `make` stands for all of these where the data needs no file.
    """

    name: str
    summary: str
    names: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()
    downloads: tuple[Download, ...] = ()
    advice: str = ""
    class_names: tuple[str, ...] = ()
    augment: CropFlip | None = None
    make: Callable[[Options], Splits] | None = None

    def where(self) -> Path | None:
        """The file or folder it would be read from now, without fetching anything."""
        roots = [*_shelf(), fetched(self.name), *map(Path, self.elsewhere)]
        return _first(root / name for root in roots for name in self.names)

    def read(self, options: Options) -> Splits:
        """Its splits; fetched before where it is on no disk. Raises `DataError` that says how to get it."""
        if self.make is not None:
            return self.make(options)
        splits = read_path(self.where() or self._fetch(), options)
        plain = splits.class_names == tuple(map(str, range(len(self.class_names))))
        return replace(splits, class_names=self.class_names) if plain else splits

    def _fetch(self) -> Path:
        try:
            fetch(self.downloads, fetched(self.name))
        except DataError as error:
            shelf = "".join(f"`{root}` and " for root in _shelf())
            raise DataError(f"{self.name}: not in {shelf}`{fetched(self.name)}`, and {error}; {self.advice}") from error
        found = self.where()
        if found is None:
            raise DataError(f"{self.name}: what was fetched into `{fetched(self.name)}` is not usable; {self.advice}")
        return found


sources: Registry[Source] = Registry("data set")

sources.add("digits", Source("digits", "1797 scans of digits, 8 x 8, grey, 10 classes; no download", make=digits.read))

sources.add(
    "fashion-mnist",
    Source(
        "fashion-mnist",
        "70,000 photographs of clothes, 28 x 28, grey, 10 classes (Xiao et al. 2017, arXiv:1708.07747)",
        names=("fashion-mnist", "FashionMNIST/raw", "train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"),
        elsewhere=("/usr/share/datasets",),
        downloads=(
            Download(f"{_FASHION}/train-images-idx3-ubyte.gz", "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
            Download(f"{_FASHION}/train-labels-idx1-ubyte.gz", "md5:25c81989df183df01b3e8a0aad5dffbe"),
            Download(f"{_FASHION}/t10k-images-idx3-ubyte.gz", "md5:bef4ecab320f06d8554ea6380940ec79"),
            Download(f"{_FASHION}/t10k-labels-idx1-ubyte.gz", "md5:bb300cfdad3c16e7a12a480ee83cd310"),
        ),
        advice="on Debian install the package dataset-fashion-mnist, or put the four IDX files into "
        "`fashion-mnist` below a folder and set LILLIPUT_DATA to that folder",
        class_names=(
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        augment=CropFlip(pad=2, flip=True),
    ),
)

sources.add(
    "cifar10",
    Source(
        "cifar10",
        "60,000 photographs, 32 x 32, RGB, 10 classes (Krizhevsky 2009)",
        names=("cifar-10-python.tar.gz", "cifar-10-batches-py", "cifar10.zip", "cifar10"),
        downloads=(
            Download(
                "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
                "sha256:6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            ),
        ),
        advice="put cifar-10-python.tar.gz, or a `cifar10.zip` of train|test/CLASS/IMAGE, into a folder "
        "and set LILLIPUT_DATA to that folder",
    ),
)


def open_task(
    name_or_path: str | Path,
    *,
    seed: int = 0,
    size: int | tuple[int, int] | None = None,
    skip_bad: bool = False,
    val_fraction: float = 0.1,
) -> Task:
    """The task that a name, a path or `file.py:function` stands for.

    size: side or (height, width) in pixels that all images are brought to. skip_bad: leave out images that cannot be
    used. A function is called with `seed` where it has such a parameter, and decides the rest itself.
    Raises `UnknownName`, or `DataError` in one line.
    """
    text = str(name_or_path)
    if re.search(r"\.py:\w+\Z", text):
        if size is not None or skip_bad:
            raise ConfigError(f"`{text}`: `size` and `skip_bad` do not reach a function; let it decide them")
        return _call(text, seed)
    options = Options((size, size) if isinstance(size, int) else size, skip_bad)
    source = sources[text] if text in sources else None
    splits = source.read(options) if source else read_path(_path(text), options)
    with at(text):
        return Task(
            splits.train,
            splits.test,
            splits.val,
            classes=splits.class_names,
            augment=source.augment if source else None,
            name=source.name if source else Path(text).resolve().stem,
            seed=seed,
            val_fraction=val_fraction,
        )


def read_path(path: Path, options: Options) -> Splits:
    """The splits of a file or folder in one of the formats. Raises `DataError` where it is none."""
    for accepts, read in _FORMATS:
        if accepts(path):
            return read(path, options)
    raise DataError(
        f"`{path}` is no data set; give a folder or .zip of train|val|test/CLASS/IMAGE, a folder of four IDX files, "
        "cifar-10-python.tar.gz, or a folder of Parquet or Arrow shards"
    )


def _path(text: str) -> Path:
    """An existing path: as it stands, or below `$LILLIPUT_DATA`."""
    below = [root / f"{text}{suffix}" for root in _shelf() for suffix in ("", ".zip")]
    here = Path(text).expanduser()
    found = next((path for path in ([here, *below] if len(here.parts) > 1 else [*below, here]) if path.exists()), None)
    if found is not None:
        return found
    if re.search(r"[/\\.]", text):
        raise DataError(f"`{text}`: no such file or folder; data sets with a name: {', '.join(sources)}")
    raise UnknownName("data set", text, sources)


def _shelf() -> list[Path]:
    """`$LILLIPUT_DATA`, where it is set."""
    return [Path(root).expanduser() for root in [os.environ.get("LILLIPUT_DATA")] if root]


def _first(paths: Iterable[Path]) -> Path | None:
    """The first path that is there in one of the formats."""
    return next((p for p in paths if p.exists() and any(accepts(p) for accepts, _ in _FORMATS)), None)


def _call(text: str, seed: int) -> Task:
    task = script.call(text, DataError, seed=seed)
    if not isinstance(task, Task):
        raise DataError(f"`{text}` returned a `{type(task).__name__}`; it must return a lilliput.Task")
    return task
