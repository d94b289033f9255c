"""Timing keeps its promises: turns, rotation, warm-up, pinned threads, and everything as it was afterwards.

A clock made of numbers stands in for time, so that nothing here depends on how busy the machine is.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lilliput.errors import ConfigError, ModelError
from lilliput.measure import exports, time_exports
from lilliput.measure.latency import (
    Latency,
    Ratio,
    feeds,
    interleave,
    interval,
    quantile,
    session,
    spread,
    time_files,
    time_modules,
    torch_threads,
)


class World:
    """A clock, and callables that take a known time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def clock(self) -> float:
        return self.now

    def takes(self, name: str, *seconds: float) -> Callable[[], None]:
        def call() -> None:
            self.log.append(name)
            self.now += seconds[(self.log.count(name) - 1) % len(seconds)]

        return call


def test_callables_take_turns_and_each_goes_first() -> None:
    world = World()
    names = {name: world.takes(name, 0.01) for name in "abc"}
    interleave(names, runs=3, warmup=2, clock=world.clock)
    assert "".join(world.log) == "aabbcc" + "abc" + "bca" + "cab"


def test_the_median_and_deciles_are_those_of_the_samples() -> None:
    world = World()
    found = interleave({"a": world.takes("a", *(i / 100 for i in range(2, 13)))}, runs=11, warmup=0, clock=world.clock)
    assert found["a"].median_ms == pytest.approx(70) and found["a"].runs == 11
    assert (found["a"].p10, found["a"].p90) == (pytest.approx(30), pytest.approx(110))


def test_short_calls_are_gathered() -> None:
    world = World()
    found = interleave({"a": world.takes("a", 1e-5), "b": world.takes("b", 0.5)}, runs=4, warmup=1, clock=world.clock)
    assert world.log.count("a") == 1 + 4 * 100 and world.log.count("b") == 1 + 4
    assert found["a"].median_ms == pytest.approx(0.01)


def test_steady_callables_stop_early_and_noisy_ones_when_time_is_up() -> None:
    steady, noisy = World(), World()
    assert interleave({"a": steady.takes("a", 0.01)}, clock=steady.clock)["a"].runs == 20
    found = interleave({"a": noisy.takes("a", 0.01, 0.05, 0.02, 0.04, 0.03)}, seconds=2, clock=noisy.clock)["a"]
    assert found.runs > 50 and 2 <= noisy.now < 2.5


def test_slow_callables_still_get_five_rounds() -> None:
    world = World()
    assert interleave({"a": world.takes("a", 60.0)}, seconds=1, clock=world.clock)["a"].runs == 5


def test_garbage_collection_is_off_inside_and_back_afterwards() -> None:
    seen: list[bool] = []
    interleave({"a": lambda: seen.append(gc.isenabled())}, runs=2)
    assert not any(seen) and gc.isenabled()
    gc.disable()
    try:
        interleave({"a": lambda: None}, runs=1)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_failing_callable_leaves_garbage_collection_on() -> None:
    def fails() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interleave({"a": fails})
    assert gc.isenabled()


@pytest.mark.parametrize("wrong", [{"runs": 0}, {"warmup": -1}, {"seconds": 0}])
def test_wrong_options_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        interleave({"a": lambda: None}, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="nothing to time"):
        interleave({})


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=40), st.floats(0, 1))
def test_quantiles_are_those_of_numpy(values: list[float], q: float) -> None:
    assert quantile(values, q) == pytest.approx(float(np.quantile(values, q)))


def test_the_spread_is_infinite_for_few_samples_and_shrinks() -> None:
    assert spread([1.0, 1.0]) == float("inf")
    assert spread([1.0] * 10) == 0
    rng = np.random.default_rng(0)
    spreads = [spread(list(rng.normal(10, 1, n))) for n in (10, 100, 1000, 10000)]
    assert spreads == sorted(spreads, reverse=True) and spreads[-1] < 0.005


def test_the_interval_holds_the_median_about_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    for draw, median in ((rng.standard_exponential, np.log(2)), (rng.random, 0.5)):
        intervals = [interval(list(draw(40))) for _ in range(500)]
        assert 0.92 < np.mean([low <= median <= high for low, high in intervals]) < 0.99


def test_a_ratio_pairs_samples_of_one_run() -> None:
    drift = [1.0, 5.0, 2.0, 9.0, 3.0]
    fast = Latency.of(drift, runtime="torch", threads=1)
    slow = Latency.of([2 * d for d in drift], runtime="torch", threads=1)
    assert Ratio.of(fast, slow) == Ratio(0.5, 0.5, 0.5, 5)
    assert str(Ratio.of(slow, fast)) == "2x (2 to 2, 5 pairs)"
    with pytest.raises(ConfigError, match="`5` and `3` samples"):
        Ratio.of(fast, Latency.of(drift[:3], runtime="torch", threads=1))


def test_a_latency_prints_and_turns_into_json() -> None:
    found = Latency.of([0.0012, 0.0010, 0.0015], runtime="onnxruntime", threads=2)
    assert str(found) == "1.2 ms (1.04 to 1.44, 3 runs, onnxruntime, 2 threads)"
    assert json.loads(json.dumps(found.to_json())) == {
        "median": 1.2,
        "p10": 1.04,
        "p90": 1.44,
        "runs": 3,
        "runtime": "onnxruntime",
        "threads": 2,
    }


def test_modules_run_pinned_in_evaluation_without_gradients_and_are_as_before() -> None:
    seen: list[tuple[int, bool, bool]] = []

    class Spy(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append((torch.get_num_threads(), self.training, torch.is_grad_enabled()))
            return super().forward(x)

    model, frozen = nn.Sequential(Spy(3, 3), nn.Dropout()), Spy(3, 3).eval()
    before = torch.get_num_threads()
    found = time_modules({"one": model, "two": frozen, "three": torch.relu}, torch.ones(1, 3), threads=2, runs=2)
    assert set(seen) == {(2, False, False)} and list(found) == ["one", "two", "three"]
    assert torch.get_num_threads() == before and model.training and model[0].training and not frozen.training
    assert found["one"].runtime == "torch" and found["one"].threads == 2 and found["one"].runs == 2


def test_threads_are_back_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), torch_threads(before + 1):
        raise ZeroDivisionError
    assert torch.get_num_threads() == before


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """relu(x·w) + y as an ONNX file."""
    from onnx import TensorProto, helper, numpy_helper, save

    w = numpy_helper.from_array(np.ones((4, 3), np.float32), "w")
    x, y, z = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 4]), ("y", [1, 3]), ("z", [1, 3])))
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "product"),
        helper.make_node("Relu", ["a"], ["b"], "bend"),
        helper.make_node("Add", ["b", "y"], ["z"], "sum"),
    ]
    model = helper.make_model(helper.make_graph(nodes, "small", [x, y], [z], [w]), opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    path = tmp_path_factory.mktemp("onnx") / "small.onnx"
    save(model, path)
    return path


EXAMPLE = (torch.ones(1, 4), torch.zeros(1, 3))


def test_files_are_timed_in_turns(file: Path) -> None:
    found = time_files({"one": file, "two": str(file)}, EXAMPLE, runs=5)
    assert list(found) == ["one", "two"] and found["one"].runtime == "onnxruntime"
    assert found["one"].runs == 5 and Ratio.of(found["one"], found["two"]).pairs == 5


def test_samples_of_several_sessions_are_taken_together_and_still_pair(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = list[object]()
    monkeypatch.setattr(exports, "file_call", lambda path, example, threads: opened.append(path) or (lambda: None))
    monkeypatch.setattr(exports, "_RUN_BY", {})
    found = time_exports({"one": file, "two": file}, EXAMPLE[0], runs=5, sessions=3)
    assert len(opened) == 6 and {each.runs for each in found.values()} == {15}
    assert Ratio.of(found["one"], found["two"]).pairs == 15


@given(st.lists(st.lists(st.floats(1e-6, 1e-1), min_size=1, max_size=9), min_size=1, max_size=4))
def test_pooled_samples_are_all_of_them_in_their_order(parts: list[list[float]]) -> None:
    found = Latency.pooled([Latency.of(part, runtime="torch", threads=2) for part in parts])
    assert found.samples == pytest.approx([1e3 * s for part in parts for s in part])
    assert (found.runs, found.runtime, found.threads) == (sum(map(len, parts)), "torch", 2)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_session_is_pinned(file: Path, threads: int) -> None:
    import onnxruntime as ort

    opened = session(file, threads)
    options = opened.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (threads, 1)
    assert options.execution_mode == ort.ExecutionMode.ORT_SEQUENTIAL
    assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == ("0" if threads == 1 else "1")
    (out,) = opened.run(None, feeds(opened, EXAMPLE))
    assert out.tolist() == [[4.0, 4.0, 4.0]]


def test_a_file_that_cannot_be_timed_is_named(file: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a network")
    with pytest.raises(ModelError, match="no such file"):
        time_files({"a": tmp_path / "missing.onnx"}, EXAMPLE)
    with pytest.raises(ModelError, match=r"broken\.onnx: ONNX Runtime cannot load it"):
        time_files({"a": broken}, EXAMPLE)
    with pytest.raises(ModelError, match=r"takes `2` inputs \(x, y\) and the example has `1`"):
        time_files({"a": file}, torch.ones(1, 4))
    with pytest.raises(ModelError, match=r"small\.onnx: does not run on the example"):
        time_files({"a": file}, (torch.ones(1, 9), torch.ones(1, 3)))
