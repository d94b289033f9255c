"""A name, a path or a function opens a task; what is missing says how to get it."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from image_files import Files, Plant, batches, lay, new, pack, written

from lilliput.data import Task, open_task, sources
from lilliput.data.fetch import Download, folder
from lilliput.errors import ConfigError, DataError, UnknownName


def clothes(place: Path) -> Files:
    """Four small IDX files of ten classes, written into a folder."""
    place.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)
    labels = (np.arange(40) % 10).astype(np.uint8)
    files = {}
    for prefix in ("train", "t10k"):
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            files[f"{prefix}-{kind}-ubyte.gz"] = gzip.compress(written(array), mtime=0)
    for name, data in files.items():
        (place / name).write_bytes(data)
    return files


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No source lies in a folder of the system or can be fetched."""
    for name, source in sources.items():
        gone = tuple(replace(d, url=f"http://127.0.0.1:9/{d.file}") for d in source.downloads)
        monkeypatch.setitem(sources._entries, name, replace(source, elsewhere=(), downloads=gone))


def test_every_source_says_what_it_is() -> None:
    assert {"digits", "fashion-mnist", "cifar10"} <= set(sources)
    for name, source in sources.items():
        assert source.name == name and source.summary and (source.make or (source.names and source.advice))


@pytest.mark.parametrize("place", ["fashion-mnist", "FashionMNIST/raw", "."])
def test_fashion_mnist_lies_on_the_shelf(place: str, shelf: Path) -> None:
    clothes(shelf / place)
    task = open_task("fashion-mnist")
    assert (task.input_shape, task.classes, len(task.test)) == ((1, 28, 28), 10, 40)
    assert task.class_names[9] == "Ankle boot" and task.augment is not None and task.augment.flip
    assert sources["fashion-mnist"].where() is not None


def test_cifar10_is_an_archive_a_folder_or_a_zip_of_images(shelf: Path) -> None:
    pack(shelf / "cifar-10-python.tar.gz", batches(new))
    first = open_task("cifar10")
    assert (first.name, first.input_shape, first.class_names) == ("cifar10", (3, 32, 32), ("frog", "ship"))
    assert first.mean == (0.485, 0.456, 0.406)
    (shelf / "cifar-10-python.tar.gz").unlink()
    lay(shelf / "cifar-10-batches-py", batches(new))
    assert open_task("cifar10").id() == first.id()


def test_a_zip_on_the_shelf_is_found_by_its_name(shelf: Path, files: Files) -> None:
    for name in ("cifar10", "pets"):
        with zipfile.ZipFile(shelf / f"{name}.zip", "w") as archive:
            for file, data in files.items():
                archive.writestr(file, data)
        task = open_task(name)
        assert task.class_names == ("cat", "dog") and task.name == name
    assert open_task("pets").id() == open_task(shelf / "pets.zip").id() == open_task("cifar10").id()


def test_paths_open_by_what_they_hold(tmp_path: Path, files: Files, plant: Plant) -> None:
    assert open_task(plant(files)).classes == 2
    clothes(tmp_path / "idx")
    assert open_task(tmp_path / "idx").class_names == tuple("0123456789")
    assert open_task(str(pack(tmp_path / "c.tar.gz", batches(new)))).input_shape == (3, 32, 32)
    (tmp_path / "empty").mkdir()
    (tmp_path / "net.onnx").write_bytes(b"x")
    for nothing in ("net.onnx", "empty"):
        with pytest.raises(DataError, match="is no data set"):
            open_task(tmp_path / nothing)
    with pytest.raises(DataError, match="no such file or folder"):
        open_task(tmp_path / "missing")


def test_options_reach_the_reader(files: Files, plant: Plant) -> None:
    path = plant({**files, "train/cat/x.png": b"x"})
    with pytest.raises(DataError, match="--skip-bad"):
        open_task(path)
    task = open_task(path, skip_bad=True, size=(4, 6), seed=3, val_fraction=0.5)
    assert task.input_shape == (3, 4, 6) and len(task.val) == 6 and task.seed == 3
    assert open_task(path, skip_bad=True, size=4).input_shape == (3, 4, 4)


def test_an_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(UnknownName) as caught:
        open_task("cifar")
    assert str(caught.value) == "no data set is called `cifar`. Did you mean `cifar10`?" and caught.value.exit_code == 2


@pytest.mark.parametrize(("name", "way"), [("fashion-mnist", "dataset-fashion-mnist"), ("cifar10", "cifar-10-python.tar.gz")])
@pytest.mark.usefixtures("alone")
def test_what_is_missing_says_how_to_get_it(name: str, way: str, shelf: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_task(name)
    message = str(caught.value)
    assert message.startswith(f"{name}: not in `{shelf}` and `{folder(name)}`") and "no connection" in message
    assert way in message and "LILLIPUT_DATA" in message and "\n" not in message


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder that is served, and its address."""
    (tmp_path / "www").mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            """Nothing."""

    handler = functools.partial(Quiet, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield tmp_path / "www", f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


@pytest.mark.usefixtures("alone")
def test_a_download_is_checked_and_kept(server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    place, url = server
    files = clothes(place)
    wanted = tuple(Download(f"{url}/{name}", f"sha256:{hashlib.sha256(data).hexdigest()}") for name, data in files.items())
    monkeypatch.setitem(sources._entries, "fashion-mnist", replace(sources["fashion-mnist"], downloads=wanted))
    first = open_task("fashion-mnist")
    assert sorted(p.name for p in folder("fashion-mnist").iterdir()) == sorted(files)
    for name in files:
        (place / name).unlink()
    assert open_task("fashion-mnist").id() == first.id()


@pytest.mark.usefixtures("alone")
def test_a_wrong_checksum_and_a_missing_file_are_one_line(server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    place, url = server
    (place / "cifar-10-python.tar.gz").write_bytes(b"something else")
    for name, reason in (("cifar-10-python.tar.gz", "hash"), ("nothing.tar.gz", "404")):
        wanted = (Download(f"{url}/{name}", "sha256:" + "0" * 64),)
        monkeypatch.setitem(sources._entries, "cifar10", replace(sources["cifar10"], downloads=wanted))
        with pytest.raises(DataError) as caught:
            open_task("cifar10")
        assert reason in str(caught.value).lower() and "\n" not in str(caught.value)
    assert not list(folder("cifar10").glob("*"))


SCRIPT = """
import numpy as np
from lilliput.data import Task

x, y = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8), np.arange(40) % 4

def good(): return Task((x, y), (x, y), name="own")
def seeded(seed): return Task((x, y), (x, y), seed=seed)
def wrong(): return 3
def fails(): raise ValueError("first\\nsecond")
number = 3
"""


def test_a_function_of_a_file_returns_the_task(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(SCRIPT)
    task = open_task(f"{file}:good", seed=5)
    assert isinstance(task, Task) and task.name == "own" and task.seed == 0
    assert open_task(f"{file}:seeded", seed=5).seed == 5
    with pytest.raises(ConfigError, match="do not reach a function"):
        open_task(f"{file}:good", size=8)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wrong", "returned a `int`"),
        ("fails", "raised ValueError in line 10: first"),
        ("missing", "has no function `missing`"),
        ("number", "has no function `number`"),
    ],
)
def test_a_function_that_does_not_is_one_line(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(SCRIPT)
    with pytest.raises(DataError) as caught:
        open_task(f"{tmp_path / 'own.py'}:{name}")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_is_missing_or_broken_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        open_task(f"{tmp_path / 'gone.py'}:good")
    (tmp_path / "broken.py").write_text("def (")
    with pytest.raises(DataError, match="raised SyntaxError"):
        open_task(f"{tmp_path / 'broken.py'}:good")
