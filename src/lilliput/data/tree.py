"""The layout `train|val|test/CLASS/IMAGE`, in a folder or a `.zip`.

    train/cat/0001.jpg      one folder a class, the same classes in every split; labels follow the sorted names
    val/cat/0001.jpg        may be missing: a validation split is then carved from train
    test/cat/0001.jpg       must exist: nothing is ever chosen on it

The whole may stand inside one outer folder, as archives often have it. Files and folders whose name begins with a dot,
`__MACOSX`, `Thumbs.db` and `desktop.ini` do not count, nor do files beside the splits, such as a README. Anything else
that does not fit the layout is an error that names it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from lilliput.data.wording import named
from lilliput.errors import DataError

SPLITS = ("train", "val", "test")
_IGNORED = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})


@dataclass(frozen=True)
class Tree:
    """Class names in label order, and for each split the paths of its images with their labels, in label order."""

    class_names: tuple[str, ...]
    splits: dict[str, list[tuple[str, int]]]


def arrange(paths: Iterable[str], folders: Iterable[str] = ()) -> Tree:
    """Sort the paths of a folder or archive into splits and classes.

    `folders` are paths of folders, so that an empty one is noticed. Raises `DataError` for a missing split, an empty
    class, classes that differ between splits, fewer than two classes, and paths outside the layout.

    >>> arrange(["train/b/1.png", "train/a/1.png", "test/a/2.png", "test/b/2.png"]).splits["train"]
    [('train/a/1.png', 0), ('train/b/1.png', 1)]
    """
    files = sorted((parts, path) for path in paths if _counts(parts := PurePosixPath(path).parts))
    empty = sorted(parts for path in folders if _counts(parts := PurePosixPath(path).parts))
    outer = _outer([parts for parts, _ in files] + empty)
    found: dict[str, dict[str, list[str]]] = {}
    for parts in (parts[outer:] for parts in empty):
        _check_split(parts)
        if len(parts) == 2:
            found.setdefault(parts[0], {}).setdefault(parts[1], [])
    for parts, path in ((parts[outer:], path) for parts, path in files):
        if len(parts) > 1:
            _check_file(parts, path)
            found.setdefault(parts[0], {}).setdefault(parts[1], []).append(path)
    names = _classes(found)
    splits = {s: [(p, label) for label, c in enumerate(names) for p in found[s][c]] for s in SPLITS if s in found}
    return Tree(names, splits)


def _counts(parts: tuple[str, ...]) -> bool:
    return bool(parts) and not any(part.startswith(".") or part in _IGNORED for part in parts)


def _outer(paths: list[tuple[str, ...]]) -> int:
    """1 where all files stand in one outer folder that is not itself a split, else 0."""
    tops = {parts[0] for parts in paths}
    return int(len(tops) == 1 and not tops & set(SPLITS) and any(len(parts) > 1 for parts in paths))


def _check_split(parts: tuple[str, ...]) -> None:
    if parts and parts[0] not in SPLITS:
        raise DataError(f"folder `{parts[0]}` is none of `train`, `val`, `test`; rename it or take it out")


def _check_file(parts: tuple[str, ...], path: str) -> None:
    _check_split(parts)
    if len(parts) != 3:
        raise DataError(f"`{path}` does not stand in `{parts[0]}/CLASS/`; every file of a split is SPLIT/CLASS/IMAGE")


def _classes(found: dict[str, dict[str, list[str]]]) -> tuple[str, ...]:
    """The class names, after everything that can be wrong with them."""
    for split in ("train", "test"):
        if split not in found:
            why = "; a test split is never carved from train, so set images aside" if split == "test" else ""
            raise DataError(f"no images in a folder `{split}/CLASS/`{why}")
    empty = [f"{split}/{c}" for split in SPLITS for c, files in sorted(found.get(split, {}).items()) if not files]
    if empty:
        raise DataError(f"class folders without an image: {named(empty)}; fill them, or remove them in every split")
    names = tuple(sorted(found["train"]))
    for split in ("val", "test"):
        check_classes(names, found.get(split, names), split)
    if len(names) < 2:
        raise DataError(f"only one class, `{names[0]}`; a classifier needs 2 or more")
    return names


def check_classes(names: Iterable[str], others: Iterable[str], split: str) -> None:
    """Raise `DataError` where a split has other classes than train, naming those that only one of them has."""
    only_train, only_other = sorted(set(names) - set(others)), sorted(set(others) - set(names))
    if only_train or only_other:
        told = [f"only in {s}: {named(c)}" for s, c in (("train", only_train), (split, only_other)) if c]
        raise DataError(f"train and {split} have different classes ({'; '.join(told)}); give both the same folders")
