"""Recipe writers for channels: what they write is data, and what the steps do adds up."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lilliput import zoo
from lilliput.core.channels import channels
from lilliput.core.method import Look
from lilliput.errors import ConfigError
from lilliput.measure import profile
from lilliput.prune import Channels, Weights
from lilliput.prune.channels import widths
from lilliput.prune.schedules import greedy, iterative
from lilliput.recipe import Recipe
from lilliput.train import BatchNorm, Fit

X = torch.zeros(1, 3, 32, 32)


@given(share=st.floats(0.1, 1), rounds=st.integers(1, 6), name=st.sampled_from(["keep", "macs", "params", "bytes", "latency"]))
@settings(max_examples=20)
def test_rounds_multiply_to_what_is_asked(share: float, rounds: int, name: str) -> None:
    steps = iterative(Channels(**{name: share}), Fit(epochs=1), rounds)
    product = 1.0
    for step in steps[::2]:
        product *= getattr(step, name)
    assert len(steps) == 2 * rounds and product == pytest.approx(share, rel=1e-4)
    assert Recipe.from_yaml(Recipe(steps).to_yaml()) == Recipe(steps)


def test_several_steps_may_stand_between() -> None:
    steps = iterative(Channels({"layer1.*": 0.25}), [BatchNorm(), Fit()], 2)
    assert steps == [Channels({"layer1.*": 0.5}), BatchNorm(), Fit()] * 2


def test_single_weights_go_the_same_way() -> None:
    assert [type(s) for s in iterative(Weights(rate=0.8), Fit(), 2)] == [Weights, Fit] * 2


def test_what_the_rounds_prune_adds_up() -> None:
    torch.manual_seed(0)
    model = zoo.create("resnet8").eval()
    small = model
    for step in iterative(Channels(macs=0.4), (), 3):
        assert isinstance(step, Channels)
        small = step(small, Look(X))
    assert 0.36 <= profile(small, X).macs / profile(model, X).macs <= 0.4


def test_group_after_group() -> None:
    model = zoo.create("resnet8").eval()
    names = [w.name for w in widths(channels(model, X))]
    steps = greedy(Channels(0.5), (), names)
    small = model
    for step in steps:
        assert isinstance(step, Channels)
        small = step(small, Look(X))
    assert [w.channels for w in widths(channels(small, X))] == [w.channels // 2 for w in widths(channels(model, X))]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: iterative(Channels(0.5), Fit(), 0), r"`rounds` \(=0\)"),
        (lambda: iterative(Channels(2.0), Fit()), "above 0 and at most 1"),
        (lambda: greedy(Channels(macs=0.5), Fit(), ["a"]), "give `keep` as a number, and no target"),
        (lambda: greedy(Channels(0.5), Fit(), []), "`groups` is empty"),
        (lambda: iterative(Weights(rate=0.5), [Fit(), Fit()]), "one `fit`"),
    ],
)
def test_what_cannot_be_written(call, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match=words):
        call()
