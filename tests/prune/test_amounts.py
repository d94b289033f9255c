"""How many channels stay: shares and targets. Every target is checked against the profile of the network that was made."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lilliput import zoo
from lilliput.core.method import Look
from lilliput.errors import ConfigError
from lilliput.measure import profile
from lilliput.prune import Channels
from lilliput.prune.spread import gentlest

X = torch.zeros(1, 3, 32, 32)
LOOK = Look(X)


def net(name: str = "resnet8") -> nn.Module:
    torch.manual_seed(0)
    return zoo.create(name).eval()


def left(model: nn.Module, small: nn.Module, cost: str) -> float:
    return getattr(profile(small, X), cost) / getattr(profile(model, X), cost)


@given(
    cost=st.sampled_from(["macs", "params", "bytes"]),
    share=st.floats(0.15, 0.95),
    allocate=st.sampled_from(["uniform", "global"]),
)
@settings(max_examples=5)
def test_a_target_is_reached_and_little_more(cost: str, share: float, allocate: str) -> None:
    model = net()
    small = Channels(**{cost: share}, allocate=allocate)(model, LOOK)
    assert share - 0.06 <= left(model, small, cost) <= share


@pytest.mark.parametrize("name", ["mobilenet_v2_32:width=0.25", "shufflenet_v2_32:width=0.5"])
def test_depthwise_and_shuffled_networks_reach_it_too(name: str) -> None:
    model = net(name)
    small = Channels(macs=0.5)(model, LOOK)
    assert 0.4 <= left(model, small, "macs") <= 0.5


def test_a_target_of_everything_is_no_edit() -> None:
    assert Channels(macs=1.0).plan(net(), LOOK) == []
    assert Channels(latency=1.0, allocate="latency").plan(net(), LOOK) == []


def test_targets_go_with_multiples_scopes_and_skipped_layers() -> None:
    model = net()
    small = Channels(macs=0.6, multiple=8, scope="inner", skip=("layer1.*",))(model, LOOK)
    widths = {name: m.out_channels for name, m in small.named_modules() if isinstance(m, nn.Conv2d)}
    assert all(width % 8 == 0 for width in widths.values())
    assert widths["layer1.0.conv1"] == 16 and widths["layer2.0.conv2"] == 32 and left(model, small, "macs") <= 0.6


def test_the_first_groups_stay_wider_where_all_at_once_would_be_too_much() -> None:
    # One hundred groups of two channels: a uniform share allows half of the channels or all of them, and 0.8 is asked for.
    found = gentlest(lambda share: (1 if share < 0.75 else 2,) * 100, lambda counts: sum(counts) / 200, 0.8, "macs")
    assert found == (2,) * 60 + (1,) * 40


def test_the_smallest_share_that_can_be_reached_is_told_and_works() -> None:
    model = net()
    with pytest.raises(ConfigError, match=r"`macs` \(=0.01\) is out of reach.* Ask for ([0-9.]+) or more") as caught:
        Channels(macs=0.01, scope="inner").plan(model, LOOK)
    least = float(str(caught.value).split("Ask for ")[1].split(" ")[0])
    assert left(model, Channels(macs=least, scope="inner")(model, LOOK), "macs") <= least


def test_channels_behind_a_pin_are_no_part_of_what_can_be_reached() -> None:
    class Pinned(nn.Module):
        """Its first layer's channels are the network's output, so only the second shrinks."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.third = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            made = self.first(x)
            return made, self.third(self.second(made))

    model = Pinned()
    small = Channels(macs=0.3)(model, LOOK)
    assert small.second.out_channels == 1 and small.first.out_channels == 8
    least = (3 * 8 + 8 + 8) / (3 * 8 + 64 + 64)
    with pytest.raises(ConfigError, match=rf"{least:.4f} of the multiply-adds stays"):
        Channels(macs=0.2).plan(model, LOOK)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"macs": 0.0}, r"`macs` \(=0.0\) is the share of the multiply-adds that stays, above 0 and at most 1"),
        ({"params": 1.5}, r"`params` \(=1.5\) is the share"),
        ({"latency": -1.0}, r"`latency` \(=-1.0\) is the share"),
        ({"macs": 0.5, "keep": 0.5}, "`keep` and `macs` each say how much stays; give one"),
        ({"macs": 0.5, "bytes": 0.5}, "`macs` and `bytes` each say how much stays; give one"),
        ({"keep": {"a": 0.5}, "allocate": "latency"}, "leave out `allocate`"),
        ({"latency": 0.5}, "chooses by measured time, and this look has no `clock`"),
        ({"keep": 0.5, "allocate": "latency"}, "chooses by measured time, and this look has no `clock`"),
    ],
)
def test_what_cannot_be_asked(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Channels(**options).plan(net(), LOOK)  # type: ignore[arg-type]


def test_a_network_that_looks_at_numbers_is_counted_all_the_same() -> None:
    class Looks(nn.Module):
        """Cannot run on shapes alone."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x)) if x.isfinite().all().item() else x

    model = Looks()
    assert left(model, Channels(macs=0.5)(model, LOOK), "macs") <= 0.5
