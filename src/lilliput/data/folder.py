"""Image folders and zips of them, decoded once into the cache."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from lilliput.data.archive import Folder, Zip
from lilliput.data.cache import Writer, cached, stamp
from lilliput.data.decode import SUFFIXES, Unusable
from lilliput.data.decoding import Decoding
from lilliput.data.splits import Options, Splits
from lilliput.data.tree import SPLITS, arrange
from lilliput.errors import at


def accepts(path: Path) -> bool:
    """Whether a path is a zip, or a folder with a split in it or one level below: others are not searched through."""
    return path.suffix.lower() == ".zip" or any((p / s).is_dir() for p in (path, *path.glob("*")) for s in SPLITS)


def read(path: Path, options: Options) -> Splits:
    """The splits of a folder or zip of `train|val|test/CLASS/IMAGE`.

    All images have one size: `options.size`, or else the size they all have. Raises `DataError` for whatever does not
    fit the layout, for two sizes where none is given, and for images that cannot be used unless `options.skip_bad`.
    """
    folder = Folder(path) if path.is_dir() else None
    state = folder.sizes() if folder else stamp([path])
    identity = {"source": "tree", "path": str(path.resolve()), "state": state}
    with at(path.resolve().name):
        return cached(
            {**identity, "size": options.size, "skip_bad": options.skip_bad},
            lambda writer: _build(folder or Zip(path), options, writer),
        )


def _build(files: Folder | Zip, options: Options, writer: Writer) -> None:
    from PIL import Image

    Image.preinit()  # loads the decoders here, because threads would race to
    try:
        tree = arrange(files.files, files.folders)
        writer.class_names = tree.class_names
        listed = [(split, path, label) for split, entries in tree.splits.items() for path, label in entries]
        Decoding(lambda path: _image(files, path), options, listed, writer).run()
    finally:
        files.close()


def _image(files: Folder | Zip, path: str) -> bytes:
    if PurePosixPath(path).suffix.lower() not in SUFFIXES:
        raise Unusable("not the name of an image")
    return files.read(path)
