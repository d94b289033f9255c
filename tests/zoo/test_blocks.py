"""The building blocks do what their papers say, cost what they claim, and survive the loss of channels."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lilliput.errors import ConfigError
from lilliput.measure.counts import profile
from lilliput.zoo import blocks


def rand(*shape: int) -> Tensor:
    """A fixed random tensor."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def macs(block: nn.Module, *shape: int) -> int:
    """Multiply-adds of one image."""
    return profile(block, torch.zeros(1, *shape)).macs


@given(st.floats(1, 4000), st.sampled_from([4, 8, 16]))
def test_divisible_is_near_and_never_far_below(channels: float, by: int) -> None:
    made = blocks.divisible(channels, by)
    assert made % by == 0
    assert made >= max(by, 0.9 * channels)
    assert made <= max(by, channels + by)


@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_separable_costs_what_the_paper_says(multiplier: int) -> None:
    inputs, outputs, k = 12, 20, 3
    full = k * k * inputs * outputs * 64
    made = macs(blocks.DepthwiseSeparable(inputs, outputs, k, multiplier=multiplier), inputs, 8, 8)
    assert made == pytest.approx(full * multiplier * (1 / outputs + 1 / k**2))


def test_spatial_separable_costs_what_it_says_and_strides() -> None:
    block = blocks.SpatialSeparable(6, 10, 5, middle=4)
    assert macs(block, 6, 8, 8) == 5 * 4 * (6 + 10) * 64
    assert blocks.SpatialSeparable(6, 10, 3, stride=2)(rand(2, 6, 9, 9)).shape == (2, 10, 5, 5)


def test_a_rank_one_kernel_is_spatially_separable() -> None:
    column, row = rand(3), rand(3)
    full = F.conv2d(rand(1, 1, 8, 8), (column[:, None] * row)[None, None], padding=1)
    block = blocks.SpatialSeparable(1, 1)
    block.vertical[0].weight.data.copy_(column.view(1, 1, 3, 1))
    block.horizontal[0].weight.data.copy_(row.view(1, 1, 1, 3))
    assert torch.allclose(block.horizontal[0](block.vertical[0](rand(1, 1, 8, 8))), full, atol=1e-6)


@given(st.integers(1, 8), st.integers(1, 6))
def test_the_shuffle_is_a_permutation_that_regroups(groups: int, each: int) -> None:
    names = torch.arange(groups * each).view(1, -1, 1, 1)
    shuffled = blocks.ChannelShuffle(groups)(names).flatten()
    assert sorted(shuffled.tolist()) == list(range(groups * each))
    assert shuffled.view(each, groups).tolist() == names.view(groups, each).T.tolist()
    assert torch.equal(blocks.ChannelShuffle(each)(shuffled.view(1, -1, 1, 1)), names)  # its inverse swaps the factors


def test_the_shuffle_takes_any_memory_format() -> None:
    x = rand(2, 12, 4, 4)
    shuffle = blocks.ChannelShuffle(3)
    assert torch.equal(shuffle(x), shuffle(x.to(memory_format=torch.channels_last)))


@pytest.mark.parametrize(("shuffle", "heard"), [(blocks.ChannelShuffle(4), 16), (nn.Identity(), 4)])
def test_without_the_shuffle_groups_hear_nothing_of_each_other(shuffle: nn.Module, heard: int) -> None:
    x = rand(2, 16, 4, 4).requires_grad_()
    first = blocks.GroupedShuffle(16, 16, 4).conv[0]
    (grad,) = torch.autograd.grad(nn.Conv2d(16, 16, 1, groups=4)(shuffle(first(x)))[:, 0].sum(), x)
    assert (grad.abs().sum((0, 2, 3)) > 0).sum() == heard


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 8])
def test_shuffle_units_keep_or_halve_the_size(groups: int) -> None:
    x = rand(2, 24 * groups, 8, 8)
    outputs = 48 * groups
    assert blocks.ShuffleUnit(24 * groups, 24 * groups, groups)(x).shape == x.shape
    assert blocks.ShuffleUnit(24 * groups, outputs, groups, 2, shuffle=False, excite=True)(x).shape == (
        2,
        outputs,
        4,
        4,
    )


def test_the_strided_shuffle_unit_carries_the_mean_of_its_input() -> None:
    x = rand(2, 24, 8, 8)
    assert torch.allclose(blocks.ShuffleUnit(24, 60, 3, 2)(x)[:, :24], F.avg_pool2d(x, 3, 2, 1))


def test_fire_concatenates_what_it_expands() -> None:
    fire = blocks.Fire(6, 2, 3, 5)
    x = rand(1, 6, 4, 4)
    squeezed = fire.squeeze(x).relu()
    assert torch.equal(fire(x)[:, :3], fire.expand1x1(squeezed).relu())
    assert torch.equal(fire(x)[:, 3:], fire.expand3x3(squeezed).relu())


def test_a_gate_of_one_changes_nothing() -> None:
    block = blocks.SqueezeExcite(6, 2)
    block.fc2.weight.data.zero_()
    block.fc2.bias.data.fill_(50.0)
    assert torch.equal(block(rand(2, 6, 3, 3)), rand(2, 6, 3, 3))


@pytest.mark.parametrize("expansion", [1, 6])
@pytest.mark.parametrize("linear", [True, False])
def test_inverted_residuals_are_their_two_halves(expansion: int, linear: bool) -> None:
    x = rand(2, 8, 6, 6)
    added = blocks.InvertedResidual(8, 8, 1, expansion, linear).eval()
    assert torch.allclose(added(x), x + added.narrow(added.widen(x)))
    plain = blocks.InvertedResidual(8, 8, 1, expansion, linear, "none").eval()
    plain.load_state_dict(added.state_dict())
    assert torch.allclose(added(x), x + plain(x))
    assert linear or plain(x).min() >= 0


def test_ghosts_are_filters_of_the_primary_channels() -> None:
    block = blocks.GhostModule(6, 12, ratio=3, relu=False).eval()
    x = rand(1, 6, 5, 5)
    primary = block.primary_conv(x)
    assert primary.shape[1] == 4
    assert torch.equal(block(x), torch.cat([primary, block.cheap_operation(primary)], 1))


def one_hot_filters(shift: blocks.Shift) -> Tensor:
    """The depthwise kernel that does what a shift does."""
    kernel = torch.zeros(len(shift.positions), shift.kernel**2)
    kernel[range(len(shift.positions)), list(shift.positions)] = 1
    return kernel.view(-1, 1, shift.kernel, shift.kernel)


@given(st.integers(1, 40), st.sampled_from([1, 3, 5]), st.randoms(use_true_random=False))
def test_a_shift_is_a_depthwise_kernel_of_one_one(channels: int, kernel: int, random: object) -> None:
    shift = blocks.Shift(channels, kernel)
    x = rand(2, channels, 6, 7)
    assert torch.equal(shift(x), F.conv2d(x, one_hot_filters(shift), padding=kernel // 2, groups=channels))
    shift.point([random.randrange(kernel**2) for _ in range(channels)])  # type: ignore[attr-defined]
    assert torch.equal(shift(x), F.conv2d(x, one_hot_filters(shift), padding=kernel // 2, groups=channels))


def test_a_shift_spreads_its_channels_evenly_and_costs_nothing() -> None:
    shift = blocks.Shift(29)
    assert [shift.positions.count(p) for p in range(9)] == [3, 3, 3, 3, 5, 3, 3, 3, 3]
    counted = profile(shift, torch.zeros(1, 29, 8, 8))
    assert (counted.macs, counted.params) == (0, 0)


@settings(max_examples=30)
@given(st.sets(st.integers(0, 11), min_size=1), st.sets(st.integers(0, 11), min_size=1))
def test_a_resized_shift_keeps_the_rest(inputs: set[int], outputs: set[int]) -> None:
    whole, x = blocks.Shift(12), rand(2, 12, 5, 5)
    kept, made = sorted(inputs), sorted(outputs)
    silenced = x * torch.tensor([float(i in inputs) for i in range(12)]).view(-1, 1, 1)
    for order in (("in", "out"), ("out", "in")):
        small = copy.deepcopy(whole)
        for axis in order:
            small.resize(axis, tuple(kept if axis == "in" else made))
        assert torch.equal(small(x[:, kept]), whole(silenced)[:, made])


def test_positions_travel_in_the_state_dict() -> None:
    taught = blocks.Shift(10)
    taught.point([3, 1, 4, 1, 5, 8, 2, 6, 5, 3])
    with torch.device("meta"):
        fresh = blocks.Shift(10)
    fresh.load_state_dict(taught.state_dict(), assign=True)
    assert fresh.positions == taught.positions
    assert torch.equal(fresh(rand(1, 10, 4, 4)), taught(rand(1, 10, 4, 4)))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: blocks.InvertedResidual(8, 8, shortcut="wide"), "`shortcut` (='wide')"),
        (lambda: blocks.ShuffleUnit(8, 16, 2), "`outputs` (=16) must equal `inputs` (=8)"),
        (lambda: blocks.GhostModule(8, 9), "`outputs` (=9) must be a multiple of `ratio` (=2)"),
    ],
)
def test_sizes_that_cannot_be_are_refused(build: object, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        build()  # type: ignore[operator]
    assert words in str(error.value)


def test_inception_modules_keep_the_size_and_the_reductions_pay() -> None:
    row = (64, 96, 128, 16, 32, 32)  # 3a of the paper, on 192 channels
    reduced, naive = blocks.Inception(192, row), blocks.NaiveInception(192, row)
    assert reduced(rand(1, 192, 8, 8)).shape == (1, 256, 8, 8)
    assert naive(rand(1, 192, 8, 8)).shape == (1, 64 + 128 + 32 + 192, 8, 8)
    pixels = 64 * (192 * (64 + 96 + 16 + 32) + 9 * 96 * 128 + 25 * 16 * 32)
    assert macs(reduced, 192, 8, 8) == pixels < macs(naive, 192, 8, 8)
