"""Image data sets of the Hugging Face hub, as they lie on disk: shards of Parquet or Arrow, read by pyarrow.

    data/train-00000-of-00002.parquet    a clone of a data set, its folder in the hub's cache, or a folder of such files
    train/data-00000-of-00001.arrow      what `save_to_disk` writes, beside dataset_dict.json
    NAME-train.arrow                     the innermost folder of the `datasets` library's cache, or the ones above it

Which split a shard belongs to stands in its name, or else in its folder's: `train`, `test` or `validation`, or another of
that library's words for them, set off by `-`, `_`, `.`, a blank or a digit; of several the last one counts. A shard of another
split is not read, and a warning says so. One column holds images (`{bytes, path}`, or plain bytes), one whole numbers from 0;
which ones, and the names of the classes, stand in the schema's `huggingface` metadata, or else in the columns' names.
"""

from __future__ import annotations

import importlib
import json
import logging
import re
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lilliput.data.cache import Writer, cached, stamp
from lilliput.data.decoding import Decoding
from lilliput.data.splits import Options, Splits
from lilliput.data.wording import named
from lilliput.errors import DataError, at

WORDS = {
    "train": ("train", "training"),
    "val": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_PLACES = ("", "*/", "snapshots/*/", "snapshots/*/*/", "*/[0-9]*.[0-9]*.[0-9]*/*/")  # shallow: a tree of images is not walked
_SUFFIXES = (".parquet", ".arrow")
_IMAGES, _LABELS = ("image", "img"), ("label", "labels", "fine_label")
_log = logging.getLogger("lilliput.data")


def accepts(path: Path) -> bool:
    """Whether a path is a folder with a shard in one of the places where shards lie."""
    return path.is_dir() and any(_shards(path))


def read(path: Path, options: Options) -> Splits:
    """The splits of a folder of shards, decoded once into the cache.

    All images have one size: `options.size`, or else the size they all have. Raises `DataError` where pyarrow is missing, for
    a split that is, for two data sets in one folder, for columns that cannot be used, and as the folder of images does.
    """
    with at(path.resolve().name):
        splits = _splits(path)
        files = [file for part in splits.values() for file in part]
        identity = {"source": "shards", "state": stamp(files), "size": options.size, "skip_bad": options.skip_bad}
        return cached(identity, lambda writer: _build(splits, options, writer))


def split_of(path: Path) -> str | None:
    """The split that a shard's name says, or its folder's; none where neither says one.

    >>> [split_of(Path(p)) for p in ("data/train-00000-of-00002.parquet", "test/data-00000-of-00001.arrow", "x-extra.parquet")]
    ['train', 'test', None]
    """
    for text in (path.stem, path.parent.name):
        words = [w for w in re.split(r"[-._ 0-9]+", text.lower()) if w]
        found = [split for word in words for split, known in WORDS.items() if word in known]
        if found:
            return found[-1]
    return None


def _shards(path: Path) -> list[Path]:
    """Every shard below a folder, in the order of their names; `cache-*` is what `map` leaves behind."""
    found = (file for place in _PLACES for suffix in _SUFFIXES for file in path.glob(f"{place}*{suffix}"))
    return sorted(file for file in found if not file.name.startswith(("cache-", ".")))


def _splits(path: Path) -> dict[str, list[Path]]:
    """The shards of each split. Raises `DataError` where one is missing, or comes from several folders."""
    shards = _shards(path)
    said = {shard: split_of(shard.relative_to(path)) for shard in shards}
    splits = {split: [shard for shard in shards if said[shard] == split] for split in WORDS}
    if left := [str(shard.relative_to(path)) for shard in shards if said[shard] is None]:
        _log.warning("%s: not read, since no name says train, validation or test: %s", path, named(left))
    for split, files in splits.items():
        homes = sorted({str(file.parent.relative_to(path)) for file in files})
        kinds = sorted({file.suffix for file in files})
        if len(homes) > 1 or len(kinds) > 1:
            raise DataError(
                f"{split}: shards in {named(homes)} ({', '.join(kinds)}) are of several data sets; give the folder of one"
            )
        if not files and split != "val":
            why = "; a test split is never carved from train, so set images aside" if split == "test" else ""
            raise DataError(f"no shard has {split} in its name or its folder's{why}")
    return {split: files for split, files in splits.items() if files}


def _build(splits: dict[str, list[Path]], options: Options, writer: Writer) -> None:
    from PIL import Image

    Image.preinit()  # loads the decoders here, because threads would race to
    readers = {str(file): _Shard.open(file) for files in splits.values() for file in files}
    listed, names = [], set()
    for split, files in splits.items():
        for file in files:
            shard = readers[str(file)]
            names.add(shard.class_names)
            listed += [(split, f"{file}#{row}", label) for row, label in enumerate(shard.labels())]
    if len(names) > 1:
        raise DataError(f"{len(names)} shards name their classes differently; they are not of one data set")
    (found,) = names
    writer.class_names = found or tuple(str(label) for label in range(max(label for _, _, label in listed) + 1))
    Decoding(lambda name: _image(readers, name), options, listed, writer).run()


def _image(readers: dict[str, _Shard], name: str) -> bytes:
    file, _, row = name.rpartition("#")
    return readers[file].image(int(row))


@dataclass(frozen=True, eq=False)
class _Shard:
    """One file: the tables it consists of, and its two columns."""

    path: Path
    tables: Any  # a function from a number to a table
    starts: tuple[int, ...]  # the first row of each, and the number of rows
    schema: Any
    image_column: str
    label_column: str
    class_names: tuple[str, ...]

    @staticmethod
    def open(path: Path) -> _Shard:
        """Look at the schema. Raises `DataError` for a file that is none, and where columns cannot be told."""
        arrow = _pyarrow()
        with at(path.name):
            try:
                tables, sizes, schema = _parquet(path) if path.suffix == ".parquet" else _stream(path)
            except (arrow.ArrowException, OSError) as error:
                raise DataError(f"cannot be read ({str(error).splitlines()[0]}); get it again") from None
            starts = [0]
            for size in sizes:
                starts.append(starts[-1] + size)
            features = _features(schema)
            image = _column(schema, features, "Image", _IMAGES)
            label = _column(schema, features, "ClassLabel", _LABELS)
            if not arrow.types.is_integer(schema.field(label).type):
                raise DataError(f"column `{label}` holds `{schema.field(label).type}`; classes are whole numbers from 0")
            classes = tuple(map(str, features.get(label, {}).get("names") or ()))
        return _Shard(path, tables, tuple(starts), schema, image, label, classes)

    def labels(self) -> list[int]:
        """The class of every row. Raises `DataError` for one that has none."""
        with at(self.path.name):
            found = [
                v for n in range(len(self.starts) - 1) for v in self.tables(n, self.label_column)[self.label_column].to_pylist()
            ]
            wrong = next((v for v in found if v is None or v < 0 or (self.class_names and v >= len(self.class_names))), 0)
            if wrong != 0:
                raise DataError(
                    f"a label is `{wrong}`, of {len(self.class_names)} classes; a split without labels cannot be used"
                )
        return found

    def image(self, row: int) -> bytes:
        """The file of the image in a row."""
        number = next(n for n, start in enumerate(self.starts[1:]) if row < start)
        value = self.tables(number, self.image_column)[self.image_column][row - self.starts[number]].as_py()
        if isinstance(value, dict):
            value = value.get("bytes") or self._file(value.get("path"))
        if not isinstance(value, bytes):
            raise DataError(f"holds `{type(value).__name__}` and no image")
        return value

    def _file(self, path: str | None) -> bytes:
        """An image that the row only names, as the cache of a folder of images does."""
        if not path:
            raise DataError("holds neither bytes nor a path")
        return (self.path.parent / path).read_bytes()


def _pyarrow() -> Any:
    try:
        importlib.import_module("pyarrow.parquet")
        return importlib.import_module("pyarrow")
    except ImportError:
        raise DataError("shards of Parquet and Arrow are read by pyarrow: pip install 'lilliput[hub]'") from None


def _parquet(path: Path) -> tuple[Any, list[int], Any]:
    """Tables are row groups, two of which stay in memory."""
    lock = threading.Lock()
    file = _pyarrow().parquet.ParquetFile(path)

    @lru_cache(maxsize=2)
    def kept(number: int, column: str) -> Any:
        return file.read_row_group(number, columns=[column])

    def table(number: int, column: str) -> Any:
        with lock:
            return kept(number, column)

    sizes = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    return table, sizes, file.schema_arrow


def _stream(path: Path) -> tuple[Any, list[int], Any]:
    """Tables are record batches, which lie in the file as in memory."""
    arrow = _pyarrow()
    batches = list(arrow.ipc.open_stream(arrow.memory_map(str(path))))
    if not batches:
        raise DataError("has no rows")
    return (lambda number, column: batches[number]), [len(b) for b in batches], batches[0].schema


def _features(schema: Any) -> dict[str, Any]:
    """What the library that wrote a file says of its columns; nothing where another one did."""
    written = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        features = json.loads(written)["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return {name: value for name, value in features.items() if isinstance(value, dict)} if isinstance(features, dict) else {}


def _column(schema: Any, features: dict[str, Any], kind: str, usual: tuple[str, ...]) -> str:
    """The one column of a kind; of several, and where nothing is said, the one of a usual name."""
    found = [name for name, value in features.items() if value.get("_type") == kind and name in schema.names]
    if len(found) != 1:
        found = [name for name in usual if name in (found or schema.names)][:1]
    if not found:
        raise DataError(f"no column is called {named(usual, len(usual))}; there are {named(schema.names, 8)}")
    return found[0]
