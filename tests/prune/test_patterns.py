"""Granularities: what goes together goes together, and exactly as many weights go as were asked for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lilliput.errors import ConfigError, UnknownName
from lilliput.prune.patterns import pattern

NAMES = ["weight", "kernel", "position", "filter", "1x2", "1x4", "2:4", "1:2"]


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(NAMES), st.integers(1, 3), st.integers(1, 3), st.sampled_from([1, 3]), st.data())
def test_so_many_go_and_what_goes_together_goes_together(name: str, o: int, i: int, k: int, data: st.DataObject) -> None:
    grain, shape = pattern(name), (4 * o, 4 * i, k, k)
    scores = torch.rand(shape, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    size = grain.size(shape)
    groups = scores.numel() // size
    lost = data.draw(st.integers(0, groups))
    kept = grain.mask(scores, lost * size)
    assert kept.shape == scores.shape
    if grain.most:
        runs = kept.reshape(4 * o, -1, grain.among, k * k)
        assert bool((runs.sum(2) == grain.most).all())
    else:
        assert int((~kept).sum()) == lost * size
        whole = grain.pool(kept.double())
        assert bool(((whole == 0) | (whole == size)).all())
        pooled = grain.pool(scores)
        if 0 < lost < groups:
            assert pooled[whole == 0].max() <= pooled[whole > 0].min()


@pytest.mark.parametrize("name", NAMES)
def test_groups_are_spread_as_they_are_pooled(name: str) -> None:
    grain, shape = pattern(name), (8, 4, 3, 3)
    if not grain.most:
        values = torch.arange(8 * 4 * 9 // grain.size(shape)).double()
        assert torch.equal(grain.pool(grain.spread(values, shape)), values * grain.size(shape))


def test_each_pattern_is_what_it_is_called() -> None:
    scores = torch.zeros(4, 4, 3, 3)
    scores[:, :, 1, 1] = 1.0
    kept = pattern("position").mask(scores, 4 * 4 * 8)
    assert torch.equal(kept, scores > 0)
    scores = torch.zeros(4, 4, 3, 3)
    scores[2] = 1.0
    assert torch.equal(pattern("filter").mask(scores, 3 * 36), scores > 0)
    scores = torch.zeros(4, 4, 3, 3)
    scores[2:, 1] = 1.0
    assert torch.equal(pattern("1x2").mask(scores, (8 - 1) * 18), scores > 0)
    scores = torch.zeros(4, 4)
    scores[:, 3] = 1.0
    assert torch.equal(pattern("1:4").mask(scores, 0), scores > 0)


def test_what_does_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"`pattern` \(=2:4\) needs runs of 4 of 3 inputs"):
        pattern("2:4").mask(torch.rand(8, 3, 3, 3), 0)
    with pytest.raises(ConfigError, match=r"needs blocks of 4 of 6 outputs"):
        pattern("1x4").mask(torch.rand(6, 4), 0)
    for name in ("4:2", "0:4", "1x0", "2:", "kernels", "weigth"):
        with pytest.raises(UnknownName):
            pattern(name)
