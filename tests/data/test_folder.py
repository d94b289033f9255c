"""Folders and zips of images: what is decoded, and every way they can be wrong."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import Files, Plant, picture
from PIL import Image

from lilliput.data import folder
from lilliput.data.splits import Options
from lilliput.errors import DataError


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def refused(path: Path, options: Options | None = None) -> str:
    with pytest.raises(DataError) as caught:
        folder.read(path, options or Options())
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"{path.name}: ")
    return str(caught.value)


def test_folder_and_zip_hold_the_pixels_of_their_files(files: Files, plant: Plant, pack: Plant) -> None:
    for path in (plant(files), pack(files)):
        for _ in range(2):
            splits = folder.read(path, Options())
            assert splits.class_names == ("cat", "dog") and (len(splits.train), len(splits.test)) == (12, 4)
            for split, images in (("train", splits.train), ("test", splits.test)):
                wanted = [data for name, data in sorted(files.items()) if name.startswith(split)]
                assert np.array_equal(images.pixels, np.stack([pixels(data) for data in wanted]))
                assert images.labels.tolist() == sorted(images.labels.tolist())


def test_two_opens_are_identical_and_a_changed_file_is_noticed(files: Files, plant: Plant) -> None:
    path = plant(files)
    first = folder.read(path, Options()).train.content()
    assert folder.read(path, Options()).train.content() == first
    plant({"train/cat/0.png": picture(99)})
    assert folder.read(path, Options()).train.content() != first


def test_val_is_taken_where_there_is_one(files: Files, plant: Plant) -> None:
    splits = folder.read(plant({**files, "val/cat/1.png": picture(1), "val/dog/1.png": picture(2)}), Options())
    assert splits.val is not None and len(splits.val) == 2


def test_more_images_than_one_chunk_keep_their_order(files: Files, pack: Plant) -> None:
    many = {f"train/{c}/{i:04}.png": picture(i, (2, 2)) for c in ("cat", "dog") for i in range(150)}
    test = {f"test/{c}/0.png": picture(0, (2, 2)) for c in ("cat", "dog")}
    splits = folder.read(pack({**many, **test}), Options())
    assert np.array_equal(splits.train.pixels, np.stack([pixels(many[name]) for name in sorted(many)]))


def test_size_scales_the_shorter_side_and_cuts_the_centre(files: Files, plant: Plant) -> None:
    files["train/cat/0.png"] = picture(0, (12, 40))
    splits = folder.read(plant(files), Options((6, 8)))
    assert splits.train.shape == (3, 6, 8)
    image = Image.open(io.BytesIO(files["train/cat/0.png"])).crop((12, 0, 28, 12))
    wanted = np.asarray(image.resize((8, 6), Image.Resampling.BILINEAR))
    assert np.array_equal(splits.train.pixels[0][:, 1:-1], wanted[:, 1:-1])  # the border also sees what was cut off
    assert np.array_equal(splits.train.pixels[1], pixels(files["train/cat/1.png"]))


def test_two_sizes_are_named_with_the_way_out(files: Files, plant: Plant) -> None:
    message = refused(plant({**files, "train/dog/3.png": picture(0, (6, 9))}))
    assert "`train/cat/0.png` is 8 x 6 pixels and `train/dog/3.png` 9 x 6; bring both to one `size`" in message


def palette() -> bytes:
    file = io.BytesIO()
    Image.open(io.BytesIO(picture(3))).quantize(8).save(file, "png")
    return file.getvalue()


def test_grey_stays_grey_and_a_palette_is_colour(files: Files, plant: Plant) -> None:
    grey = {name: picture(i, mode="L") for i, name in enumerate(files)}
    assert folder.read(plant(grey), Options()).train.shape == (1, 6, 8)
    colour = folder.read(plant({**files, "train/cat/0.png": palette()}), Options())
    assert np.array_equal(colour.train.pixels[0], np.asarray(Image.open(io.BytesIO(palette())).convert("RGB")))


BAD: dict[str, tuple[str, Callable[[], bytes]]] = {
    "cannot identify image file": ("0.png", lambda: b"not an image"),
    "1 channels where `train/cat/0.png` has 3": ("1.png", lambda: picture(0, mode="L")),
    "mode RGBA": ("0.png", lambda: picture(0, mode="RGBA")),
    "mode CMYK": ("0.jpg", lambda: picture(0, mode="CMYK", kind="jpeg")),
    "not the name of an image": ("labels.txt", lambda: b"cat"),
    "file is truncated": ("0.jpg", lambda: picture(0, (64, 64), kind="jpeg")[:-400]),
    "exceed the limit": ("0.ppm", lambda: b"P6 9000 9000 255\n"),
    "(the first: ": ("0.gif", lambda: b""),
}


@pytest.mark.parametrize("reason", BAD)
def test_an_image_that_cannot_be_used_is_counted_named_and_skipped_on_request(
    reason: str, files: Files, plant: Plant, pack: Plant, caplog: pytest.LogCaptureFixture
) -> None:
    name, make = BAD[reason]
    files = {**files, f"train/dog/{name}": make()}
    for path in (plant(files), pack(files)):
        message = refused(path)
        assert f"1 of {len(files)} images cannot be used: `train/dog/{name}`" in message and reason in message
        assert "--skip-bad" in message
        splits = folder.read(path, Options(skip_bad=True))
        assert splits.skipped == (f"train/dog/{name}",) and len(splits.train) + len(splits.test) == len(files) - 1
        assert f"1 images were left out: `train/dog/{name}`" in caplog.text


def test_of_many_bad_images_the_first_few_are_named(files: Files, plant: Plant) -> None:
    bad = {name: b"x" for name in files if name.startswith("train/cat")}
    message = refused(plant({**files, **bad}))
    assert "6 of 16 images cannot be used: `train/cat/0.png`, `train/cat/1.png`, `train/cat/2.png` and 3 more" in message


def test_skipping_never_empties_a_class(files: Files, plant: Plant) -> None:
    bad = {name: b"x" for name in files if name.startswith("test/dog")}
    message = refused(plant({**files, **bad}), Options(skip_bad=True))
    assert "classes without a usable image: `test/dog`" in message


def test_an_empty_class_folder_is_named(files: Files, plant: Plant, pack: Plant) -> None:
    assert "class folders without an image: `train/emu`" in refused(plant({**files, "train/emu/": b""}))
    assert "class folders without an image: `train/emu`" in refused(pack({**files, "train/emu/": b""}))


def test_no_test_split_is_said_not_carved(files: Files, plant: Plant) -> None:
    train = {name: data for name, data in files.items() if name.startswith("train")}
    assert "a test split is never carved from train" in refused(plant(train))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../train/cat/9.png", "points outside the archive"),
        ("train/cat/../../9.png", "points outside the archive"),
        ("/train/cat/9.png", "points outside the archive"),
        ("train\\cat\\9.png", "points outside the archive"),
        ("c:/train/cat/9.png", "points outside the archive"),
    ],
)
def test_a_zip_that_points_outside_is_refused(name: str, message: str, files: Files, tmp_path: Path) -> None:
    path = tmp_path / "tree.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("x")
        info.filename = name
        archive.writestr(info, picture(0))
        for other, data in files.items():
            archive.writestr(other, data)
    assert message in refused(path)


def test_a_bomb_is_refused_by_what_it_declares(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tree.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in files:
            archive.writestr(name, bytes(1 << 20))
    monkeypatch.setattr("lilliput.data.archive.LARGEST_TOTAL", 1 << 20)
    assert f"the members declare `{len(files) << 20}` bytes" in refused(path)
    monkeypatch.setattr("lilliput.data.archive.LARGEST_FILE", 1 << 19)
    assert "declares `1048576` bytes; the limit is `524288`" in refused(path)


def test_a_member_that_stands_twice_is_refused(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "tree.zip"
    with zipfile.ZipFile(path, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        for name in [*files, "train/cat/0.png"]:
            archive.writestr(name, files[name])
    assert "member `train/cat/0.png` stands in the zip twice" in refused(path)


def test_an_encrypted_member_is_refused(files: Files, pack: Plant) -> None:
    path = pack(files)
    data = bytearray(path.read_bytes())
    at = data.find(b"PK\x01\x02")
    data[at + 8] |= 1
    path.write_bytes(bytes(data))
    assert "is encrypted" in refused(path)


def test_a_member_with_a_wrong_checksum_is_a_bad_image(files: Files, pack: Plant) -> None:
    path = pack(files)
    data = path.read_bytes()
    path.write_bytes(data.replace(files["train/cat/3.png"], files["train/cat/3.png"][:-1] + b"x"))
    assert "`train/cat/3.png` (the first: Bad CRC-32" in refused(path)


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.99])
def test_a_zip_that_breaks_off_is_refused(part: float, files: Files, pack: Plant) -> None:
    path = pack(files)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    assert "not a usable zip" in refused(path)


def test_a_link_that_leads_nowhere_is_named(files: Files, plant: Plant) -> None:
    path: Any = plant(files)
    (path / "train/cat/gone.png").symlink_to(path / "nowhere.png")
    with pytest.raises(DataError, match=r"gone\.png` cannot be read"):
        folder.read(path, Options())
