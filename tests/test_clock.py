"""The clock: what it measures, once for each structure. No test looks at how long anything took."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from integer_nets import images, look, norms_of_their_own, resnet
from torch import nn

from lilliput import zoo
from lilliput.clock import Clock, latency, structure
from lilliput.errors import ConfigError, ModelError, UnknownName
from lilliput.measure import time_modules
from lilliput.measure.shape_times import LayerShape
from lilliput.prune import Channels
from lilliput.prune.timed import LayerClock
from lilliput.quant import Quantize


def tiny(seed: int = 0, width: int = 4, stride: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, width, 3, stride), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)).eval()


def dry(model: nn.Module) -> nn.Module:
    model(images(1))
    return model


def test_structure_is_all_that_decides_the_time() -> None:
    one = structure(dry(tiny()))
    assert one == structure(dry(tiny(seed=1))) == structure(dry(tiny()).train())
    assert one != structure(dry(tiny(width=5)))
    assert one != structure(dry(tiny(stride=2)))
    assert structure(resnet()) == structure(norms_of_their_own(zoo.create("resnet8", width=0.5), seed=3))
    assert structure(resnet()) != structure(Channels(keep=0.5)(resnet(), look()))
    assert structure(resnet()) != structure(Quantize()(resnet(), look()))
    assert structure(Quantize()(resnet(), look())) != structure(Quantize(bits=4)(resnet(), look()))


def test_a_model_is_measured_once_for_each_structure(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(images(1), "torch")
    measured = []
    compare = clock.compare
    monkeypatch.setattr(clock, "compare", lambda models: measured.append(models) or compare(models))
    first = clock(dry(tiny()))
    assert first > 0 and clock(dry(tiny(seed=1))) == first
    assert len(measured) == 1
    clock(dry(tiny(width=5)))
    assert len(measured) == 2


def test_files_are_compared_in_one_run_and_go_with_the_clock() -> None:
    clock = Clock(images(1))
    times = clock.compare({"one": dry(tiny()), "other": dry(tiny(seed=1))})
    assert set(times) == {"one", "other"}
    assert {t.runtime for t in times.values()} == {"onnxruntime"} and len({t.runs for t in times.values()}) == 1
    folder = clock._folder
    assert len(list(folder.iterdir())) == 1  # of one structure, so one export
    del clock
    assert not folder.exists()


def test_modules_and_files_are_timed(tmp_path: Path) -> None:
    from lilliput.export import export

    file = export(dry(tiny()), images(1), tmp_path / "net.onnx").path
    for found in (latency(file, images(1)), latency(str(file), images(1), threads=2)):
        assert found.p10 <= found.median_ms <= found.p90
    assert latency(dry(tiny()), images(1), runtime="torch").runtime == "torch"


def test_what_cannot_be_timed() -> None:
    with pytest.raises(UnknownName, match=r"no runtime is called `onnxruntim`\. Did you mean `onnxruntime`"):
        Clock(images(1), "onnxruntim")
    with pytest.raises(ConfigError, match="`torch` times modules, not files"):
        latency("net.onnx", images(1), runtime="torch")
    with pytest.raises(ConfigError, match=r"`net\.lil`: `onnxruntime` times `\.onnx` files and modules"):
        latency("net.lil", images(1))
    with pytest.raises(ModelError, match="no such file"):
        latency("absent.onnx", images(1))


@pytest.mark.skipif(importlib.util.find_spec("executorch") is not None, reason="executorch is installed")
def test_without_executorch_it_says_what_to_install() -> None:
    for timed in (tiny(), "net.pte"):
        with pytest.raises(ModelError, match=r"`executorch` is not installed; `pip install 'lilliput\[phone\]'` brings it"):
            latency(timed, images(1), runtime="executorch")


@pytest.mark.skipif(importlib.util.find_spec("ai_edge_litert") is not None, reason="litert is installed")
def test_without_litert_it_says_what_to_install() -> None:
    for timed in (tiny(), "net.tflite"):
        with pytest.raises(ModelError, match=r"`ai_edge_litert` is not installed; `pip install 'lilliput\[litert\]'`"):
            latency(timed, images(1), runtime="litert")


def test_a_ratio_is_measured_for_each_pair_and_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(images(1), "torch")
    measured = []
    monkeypatch.setattr(clock, "compare", lambda models, s: measured.append(s) or time_modules(models, images(1), runs=2))
    first = clock.ratio(dry(tiny(width=5)), dry(tiny()))
    assert first > 0 and clock.ratio(dry(tiny(seed=1, width=5)), dry(tiny(seed=2))) == first and len(measured) == 3
    clock.ratio(dry(tiny()), dry(tiny(width=5)))
    assert len(measured) == 6 and sum(measured[:3]) == 10.0


def test_times_of_layers_are_kept_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LILLIPUT_CACHE", str(tmp_path))
    shapes = [LayerShape.of(nn.Conv2d(3, 4, 3), (1, 3, 8, 8)), LayerShape.of(nn.Linear(8, 4), (1, 8))]
    times = Clock(images(1)).layers(shapes)
    (file,) = (tmp_path / "layer_times").iterdir()
    kept = file.read_bytes()
    again = Clock(images(1)).layers(shapes)  # by what the reference takes now
    assert all(ms > 0 for ms in times) and file.read_bytes() == kept
    assert again[0] / again[1] == pytest.approx(times[0] / times[1])
    assert isinstance(Clock(images(1)), LayerClock)
    with pytest.raises(ConfigError, match="this clock's runtime is `torch`"):
        Clock(images(1), "torch").layers(shapes)


def test_layers_inside_a_network_add_up_to_no_more_than_it_takes() -> None:
    model, clock = dry(tiny()), Clock(images(1))
    found = clock.inside(model)
    assert set(found) == {"0", "3"} and 0 < sum(found.values()) <= clock(model) * 1.001
    with pytest.raises(ConfigError, match="this clock's runtime is `torch`"):
        Clock(images(1), "torch").inside(model)
