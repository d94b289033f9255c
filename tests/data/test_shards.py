"""Data sets of the Hugging Face hub on disk: the same images and labels, whatever the shards are cut into."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_files import picture

from lilliput.data import open_task, shards
from lilliput.data.splits import Options
from lilliput.errors import DataError

arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'lilliput[hub]'")
parquet = pytest.importorskip("pyarrow.parquet")

NAMES = ("cat", "dog", "owl")


def table(first: int, count: int, *, image: str = "image", label: str = "label", **changes: Any) -> Any:
    """Rows of pictures as the `datasets` library stores them."""
    bytes_ = [picture(first + i) for i in range(count)]
    columns = {
        image: arrow.array(
            [{"bytes": b, "path": None} for b in bytes_], arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
        ),
        label: arrow.array([(first + i) % 3 for i in range(count)], arrow.int64()),
        **changes,
    }
    features = {image: {"_type": "Image"}, label: {"_type": "ClassLabel", "names": list(NAMES)}}
    return arrow.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def write(path: Path, rows: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet.write_table(rows, path, row_group_size=4)
        return
    with arrow.OSFile(str(path), "wb") as file, arrow.ipc.new_stream(file, rows.schema) as stream:
        stream.write_table(rows, max_chunksize=4)


SHARDS = ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001", "test-00000-of-00001")
LAYOUTS = {
    "clone": [f"data/{name}.parquet" for name in SHARDS],
    "hub cache": [f"snapshots/1f2e/plain_text/{name}.parquet" for name in SHARDS],
    "saved": [f"{name.split('-')[0]}/data{name.removeprefix(name.split('-')[0])}.arrow" for name in SHARDS],
    "cache": [f"default/0.0.0/3f/pets-{name}.arrow" for name in SHARDS],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_task(layout: str, tmp_path: Path) -> None:
    for name, (first, count) in zip(LAYOUTS[layout], ((0, 9), (9, 6), (15, 6), (21, 9)), strict=True):
        write(tmp_path / "pets" / name, table(first, count))
    write(tmp_path / "pets" / "cache-1a2b.arrow", table(90, 3))
    task = open_task(tmp_path / "pets")
    assert task.class_names == NAMES and [len(task.split(s)) for s in ("train", "val", "test")] == [15, 6, 9]
    assert task.train.labels.tolist() == [i % 3 for i in range(15)]
    from lilliput.data.decode import decode

    assert all(np.array_equal(task.train.pixels[i], decode(picture(i), None)) for i in range(15))
    assert np.array_equal(task.test.pixels[8], decode(picture(29), None))


def test_other_columns_and_files_of_other_tools(tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    (folder / "pictures").mkdir(parents=True)
    (folder / "pictures" / "7.png").write_bytes(picture(7))
    rows = [{"bytes": picture(0), "path": None}, {"bytes": picture(1), "path": None}, {"bytes": None, "path": "pictures/7.png"}]
    for split in ("train", "test"):
        columns = {"id": arrow.array([1, 2, 3]), "img": arrow.array(rows), "fine_label": arrow.array([0, 1, 1], arrow.uint8())}
        write(folder / f"{split}.parquet", arrow.table(columns))
    splits = shards.read(folder, Options(size=(4, 4)))
    assert splits.class_names == ("0", "1") and splits.train.shape == (3, 4, 4) and splits.val is None
    binary = arrow.table({"image": arrow.array([picture(0), picture(1)]), "label": arrow.array([0, 1])})
    for split in ("train", "test"):
        write(tmp_path / "binary" / f"{split}.parquet", binary)
    assert len(shards.read(tmp_path / "binary", Options()).train) == 2


@given(
    st.sampled_from(["train", "Training", "TRAIN"]),
    st.sampled_from(["-00000-of-00001", "", "_1", ".part"]),
    st.sampled_from(["", "x-", "2024_", "test-"]),
)
def test_a_name_says_its_split(word: str, after: str, before: str) -> None:
    assert shards.split_of(Path(f"data/{before}{word}{after}.parquet")) == "train"
    assert shards.split_of(Path(f"{before}{word}/data-00000-of-00001.arrow")) == "train"
    assert shards.split_of(Path(f"data/{before}{word}s.parquet")) in (None, "test")


def pair(rows: Any) -> dict[str, Any]:
    return {"train.parquet": table(0, 6), "test.parquet": rows}


def labelled(values: Any) -> Any:
    return table(0, 2).set_column(1, "label", arrow.array(values))


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"train.parquet": table(0, 6)}, "no shard has test in its name.*never carved from train"),
        ({"test.parquet": table(0, 6)}, "no shard has train in its name"),
        ({"a/train.parquet": table(0, 6), "b/train.parquet": table(0, 6)}, "`a`, `b` .* are of several data sets"),
        (pair(table(0, 6, image="photo").replace_schema_metadata({})), "no column is called `image`, `img`; there are `photo`"),
        (pair(labelled([-1, -1])), "test.parquet: a label is `-1`"),
        (pair(labelled([0, 3])), "test.parquet: a label is `3`, of 3 classes"),
        (pair(labelled(["a", "b"])), "column `label` holds `string`"),
        (pair(table(0, 6).replace_schema_metadata({})), "name their classes differently"),
        (pair(table(0, 6).set_column(0, "image", arrow.array([b"no image"] * 6))), "6 of 12 images cannot be used"),
    ],
)
def test_what_cannot_be_used_says_why(files: dict[str, Any], says: str, tmp_path: Path) -> None:
    for name, rows in files.items():
        write(tmp_path / "pets" / name, rows)
    with pytest.raises(DataError, match=f"^pets: .*{says}"):
        shards.read(tmp_path / "pets", Options())


def test_another_split_is_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("train", "test", "extra"):
        write(tmp_path / f"{name}.parquet", table(0, 6))
    with caplog.at_level(logging.WARNING, "lilliput.data"):
        assert len(shards.read(tmp_path, Options()).train) == 6
    assert "`extra.parquet`" in caplog.text


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / f"{name}.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match=r"train.parquet: cannot be read"):
        shards.read(tmp_path, Options())


def test_without_pyarrow_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "train.parquet", table(0, 3))
    write(tmp_path / "test.parquet", table(0, 3))

    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(shards.importlib, "import_module", absent)
    with pytest.raises(DataError, match=r"pip install 'lilliput\[hub\]'"):
        shards.read(tmp_path, Options())
