"""Widths chosen by time, under a clock that is made up: what it likes is known, and it never wavers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from made_up_clock import Eights
from torch import nn

from lilliput import zoo
from lilliput.core.channels import channels
from lilliput.core.method import Look
from lilliput.core.perform import perform
from lilliput.errors import ConfigError
from lilliput.measure import profile
from lilliput.prune import Channels
from lilliput.prune.criteria import criteria
from lilliput.prune.evidence import Evidence
from lilliput.prune.layout import Layout, candidates
from lilliput.prune.thinning import Thinning
from lilliput.prune.timed import confirm

X = torch.zeros(1, 3, 32, 32)


def net(name: str = "resnet8") -> nn.Module:
    torch.manual_seed(0)
    return zoo.create(name).eval()


def look(slack: float = 1.0, constant: float = 0.0) -> tuple[Look, Eights]:
    clock = Eights(X, slack, constant)
    return Look(X, clock=clock), clock


def widths(model: nn.Module) -> list[int]:
    return [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]


def macs(model: nn.Module) -> int:
    return profile(model, X).macs


@given(share=st.floats(0.3, 0.8), slack=st.floats(0.5, 3), constant=st.floats(0, 2))
@settings(max_examples=4)
@example(share=0.36328125, slack=1.0, constant=0.0)  # where eights leave a gap of more than five percent
def test_a_latency_target_is_met_within_five_percent_or_by_the_last_step_that_fits(
    share: float, slack: float, constant: float
) -> None:
    model = net("resnet20")
    seen, clock = look(slack, constant * 0.1)
    small = Channels(latency=share, allocate="latency")(model, seen)
    assert clock(small) <= share * clock(model)
    assert clock(small) >= 0.95 * share * clock(model) or not wider(model, small, share, clock)


def wider(model: nn.Module, small: nn.Module, share: float, clock: Eights) -> list[int]:
    """The groups that could be one candidate wider, alone, within a share of the time."""
    thinning = thinned(model)
    counts = tuple(len(group.atoms) for group in channels(small, X).groups)
    found = []
    for g, (size, count) in enumerate(zip(thinning.whole, counts, strict=True)):
        for width in [c for c in candidates(size, 1) if c > count]:
            if clock(thinning.performed((*counts[:g], width, *counts[g + 1 :]))) <= share * clock(model):
                found.append(g)
    return found


def thinned(model: nn.Module) -> Thinning:
    found = channels(model, X)
    return Thinning(model, X, found, found.groups, Evidence(model, found.groups, Look(X)).scores(criteria["l1"]))


def test_widths_that_the_runtime_likes_are_chosen() -> None:
    seen, _ = look()
    assert {w % 8 for w in widths(Channels(latency=0.4, allocate="latency")(net("resnet20"), seen))} == {0}


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2_32:width=0.25"])
def test_at_equal_multiply_adds_it_is_faster_than_uniform(name: str) -> None:
    model = net(name)
    seen, clock = look()
    timed, uniform = (Channels(macs=1 / 2.1, allocate=how)(model, seen) for how in ("latency", "uniform"))
    assert macs(timed) <= macs(model) / 2.1
    assert clock(timed) < 0.9 * clock(uniform)


def test_no_layer_is_thinned_away_alone() -> None:
    seen, _ = look()
    model = net("resnet20")
    shares = [a / b for a, b in zip(widths(Channels(latency=0.6, allocate="latency")(model, seen)), widths(model), strict=True)]
    assert min(shares) >= 0.25


def test_the_same_look_gives_the_same_edits() -> None:
    seen, _ = look()
    method = Channels(latency=0.5, allocate="latency")
    assert method.plan(net(), seen) == method.plan(net(), seen)


@pytest.mark.parametrize("allocate", ["uniform", "global"])
def test_other_ways_to_spread_meet_a_latency_too(allocate: str) -> None:
    model = net("resnet20")
    seen, clock = look()
    assert clock(Channels(latency=0.5, allocate=allocate)(model, seen)) <= 0.5 * clock(model)


def test_any_function_of_models_is_clock_enough_for_them() -> None:
    model = net("resnet20")
    small = Channels(latency=0.5)(model, Look(X, clock=lambda m: float(macs(m)) + 1e6))
    assert 0.45 <= (macs(small) + 1e6) / (macs(model) + 1e6) <= 0.5


def test_choosing_by_time_needs_times_of_layers() -> None:
    with pytest.raises(ConfigError, match="times of single layers, and this look's clock has none"):
        Channels(latency=0.5, allocate="latency").plan(net(), Look(X, clock=lambda m: 1.0))


def test_the_smallest_latency_that_can_be_reached_is_told() -> None:
    seen, _ = look()
    with pytest.raises(ConfigError, match=r"`latency` \(=0.01\) is out of reach: .*0\.[0-9]{4} of the latency stays"):
        Channels(latency=0.01, allocate="latency").plan(net(), seen)


def test_a_share_of_channels_can_be_chosen_by_time() -> None:
    seen, _ = look()
    model = net()
    small = perform(model, Channels(keep=0.5, allocate="latency").plan(model, seen))
    assert sum(widths(small)) < 0.7 * sum(widths(model)) and {w % 4 for w in widths(small)} == {0}


def test_multiples_are_kept() -> None:
    seen, _ = look()
    assert {w % 16 for w in widths(Channels(latency=0.6, allocate="latency", multiple=16)(net("resnet20"), seen))} == {0}


def test_grouped_and_depthwise_layers_are_counted_as_they_shrink() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 32, 1), nn.Conv2d(32, 32, 3, groups=4),
        nn.Flatten(), nn.Linear(32 * 26 * 26, 5),
    )  # fmt: skip
    thinning = thinned(model)
    layout = Layout(thinning, Eights(X).layers)
    for share in (1, 2, 4):
        counts = tuple(size // share for size in thinning.whole)
        small = thinning.performed(counts)
        assert layout.costs(counts)[1] == macs(small)
        assert layout.costs(counts)[2] == sum(p.numel() for p in small.parameters() if p.dim() > 1)


def test_confirming_corrects_a_wrong_prediction() -> None:
    # A thousand channels; the table believes that time is proportional to them, and it is not.
    tried: list[int] = []

    def measured(counts: tuple[int, ...]) -> float:
        tried.append(counts[0])
        return 0.3 + 0.7 * (counts[0] / 1000) ** 2

    (kept,) = confirm(lambda aim: (max(int(1000 * aim), 1),), lambda c: c[0] / 1000, measured, 0.5)
    assert 0.475 <= 0.3 + 0.7 * (kept / 1000) ** 2 <= 0.5 and len(tried) <= 5


def test_a_network_that_gets_slower_at_first_is_thinned_further() -> None:
    def measured(counts: tuple[int, ...]) -> float:
        return 1.2 if counts[0] > 400 else counts[0] / 500

    (kept,) = confirm(lambda aim: (max(int(1000 * aim), 1),), lambda c: c[0] / 1000, measured, 0.6)
    assert 0.57 <= kept / 500 <= 0.6


def test_candidates_are_few_and_hold_the_whole() -> None:
    for size in range(1, 700):
        found = candidates(size, 1)
        assert found[-1] == size and len(found) <= 13 and found == sorted(set(found))
