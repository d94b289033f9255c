"""Paths find their split and class, or the error names them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lilliput.data.tree import arrange
from lilliput.errors import DataError

GOOD = [f"{split}/{c}/1.png" for split in ("train", "test") for c in ("cat", "dog")]
NAMES = st.text("abcXYZ019 _-é", min_size=1, max_size=6).filter(lambda n: n.strip() == n)


@given(st.sets(NAMES, min_size=2, max_size=5), st.integers(1, 3), st.booleans(), st.randoms())
def test_every_image_arrives_once_with_its_class(names: set[str], count: int, outer: bool, random: object) -> None:
    prefix = "all/" if outer else ""
    paths = [f"{prefix}{s}/{n}/{i}.png" for s in ("train", "val", "test") for n in names for i in range(count)]
    random.shuffle(paths)  # type: ignore[attr-defined]
    tree = arrange(paths)
    assert tree.class_names == tuple(sorted(names)) and set(tree.splits) == {"train", "val", "test"}
    assert sorted(path for entries in tree.splits.values() for path, _ in entries) == sorted(paths)
    for split, entries in tree.splits.items():
        assert all(path.startswith(f"{prefix}{split}/{tree.class_names[label]}/") for path, label in entries)
    assert arrange(reversed(paths)) == tree


@pytest.mark.parametrize(
    "beside", [".DS_Store", "__MACOSX/train/cat/._1.png", "README.md", "train/.hidden/1.png", "test/cat/Thumbs.db"]
)
def test_what_does_not_count(beside: str) -> None:
    assert arrange([*GOOD, beside]) == arrange(GOOD)


FLAWS = {
    "no images in a folder `train/CLASS/`": (["test/cat/1.png"], []),
    "no images in a folder `test/CLASS/`; a test split is never carved": (GOOD[:2], []),
    "class folders without an image: `train/emu`": (GOOD, ["train/emu"]),
    "without an image: `train/emu`, `test/dog`": (GOOD[:3], ["train/emu", "test/dog"]),
    "train and test have different classes (only in train: `dog`)": (GOOD[:3], []),
    "(only in train: `dog`; only in test: `fox`)": ([*GOOD[:3], "test/fox/1.png"], []),
    "train and val have different classes (only in train: `dog`)": ([*GOOD, "val/cat/1.png"], []),
    "only one class, `cat`": ([GOOD[0], GOOD[2]], []),
    "folder `valid` is none of `train`, `val`, `test`": ([*GOOD, "valid/cat/1.png"], []),
    "folder `extra` is none of": (GOOD, ["extra"]),
    "`train/1.png` does not stand in `train/CLASS/`": ([*GOOD, "train/1.png"], []),
    "`train/cat/young/1.png` does not stand in `train/CLASS/`": ([*GOOD, "train/cat/young/1.png"], []),
}


@pytest.mark.parametrize("message", FLAWS)
def test_what_does_not_fit_is_named(message: str) -> None:
    with pytest.raises(DataError) as caught:
        arrange(*FLAWS[message])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_nothing_at_all() -> None:
    with pytest.raises(DataError, match="no images"):
        arrange([])
