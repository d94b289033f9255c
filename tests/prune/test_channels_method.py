"""Channel pruning: which channels go, how many, and what cannot be asked."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lilliput import zoo
from lilliput.core.channels import channels
from lilliput.core.method import Look
from lilliput.errors import ConfigError, ModelError, UnknownName
from lilliput.prune import Channels, criteria

LOOK = Look(torch.randn(1, 3, 16, 16))


def net() -> nn.Module:
    torch.manual_seed(0)
    return zoo.create("resnet8").eval()


@given(keep=st.floats(0.05, 0.9), multiple=st.sampled_from([1, 4, 8]), allocate=st.sampled_from(["uniform", "global"]))
@settings(max_examples=12)
def test_the_result_runs_and_is_no_larger(keep: float, multiple: int, allocate: str) -> None:
    model = net()
    small = Channels(keep=keep, multiple=multiple, allocate=allocate)(model, LOOK)
    assert small(LOOK.example).shape == (1, 10)
    assert sum(p.numel() for p in small.parameters()) <= sum(p.numel() for p in model.parameters())
    assert all(m.out_channels % multiple == 0 for m in small.modules() if isinstance(m, nn.Conv2d))


def test_uniform_keeps_the_share_in_every_group() -> None:
    before = {g.name: len(g.atoms) for g in channels(net(), LOOK.example).groups}
    after = {g.name: len(g.atoms) for g in channels(Channels(keep=0.25)(net(), LOOK), LOOK.example).groups}
    assert after == {name: size // 4 for name, size in before.items()}


def test_the_smallest_filters_leave() -> None:
    model = net()
    layer = model.get_submodule("layer1.0.conv1")
    with torch.no_grad():
        layer.weight[[2, 5, 11]] *= 1e-3
    small = Channels(keep={"layer1.0.conv1": 13 / 16})(model, LOOK)
    kept = [i for i in range(16) if i not in (2, 5, 11)]
    assert torch.equal(small.get_submodule("layer1.0.conv1").weight, layer.weight[kept])


def test_inner_scope_leaves_the_residual_stream_alone() -> None:
    small = Channels(keep=0.5, scope="inner")(net(), LOOK)
    assert [small.get_submodule(f"layer{i}.0.conv1").out_channels for i in (1, 2, 3)] == [8, 16, 32]
    assert [small.get_submodule(f"layer{i}.0.conv2").out_channels for i in (1, 2, 3)] == [16, 32, 64]


def test_keeping_everything_is_no_edit() -> None:
    assert Channels().plan(net(), LOOK) == []


def test_skipped_layers_keep_their_channels() -> None:
    small = Channels(keep=0.5, skip=("layer2.*",))(net(), LOOK)
    assert small.get_submodule("layer2.0.conv1").out_channels == 32
    assert small.get_submodule("layer1.0.conv1").out_channels == 8


@pytest.mark.parametrize("name", [name for name, c in criteria.items() if c.needs == "weights"])
def test_criteria_score_each_channel_and_scale_with_it(name: str) -> None:
    torch.manual_seed(0)
    w = torch.rand(6, 20) + 0.1
    w[3] *= 10
    scores = criteria[name](w)
    assert scores.shape == (6,) and int(scores.argmax()) == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"keep": 0.0}, "above 0 and at most 1"),
        ({"keep": 1.5}, "above 0 and at most 1"),
        ({"keep": {"layer1.*": -1.0}}, "above 0 and at most 1"),
        ({"allocate": "evenly"}, "`allocate` (=evenly) is one of uniform, global"),
        ({"multiple": 0}, "at least 1"),
        ({"images": 0}, "`images` (=0) is at least 1"),
        ({"per": "layer"}, "`per` (=layer) is one of channel, macs, memory"),
        ({"couple": "median"}, "`couple` (=median) is one of mean, max, sum"),
        ({"keep": 0.5, "criterion": "random", "couple": "sum"}, "`random` sees all layers at once"),
        ({"keep": 0.5, "skip": ("nowhere",)}, "`skip`: `nowhere` matches no layer"),
        ({"keep": 0.99, "multiple": 8}, "leaves every group whole at `multiple` (=8): they have 16, 32, 64 channels"),
        ({"keep": {"nothing*": 0.5}}, "matches no group of channels"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict, words: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ConfigError) as caught:
        Channels(**options).plan(net(), LOOK)
    assert words in str(caught.value)


def test_a_network_that_cannot_shrink_says_why() -> None:
    with pytest.raises(ModelError, match=r"no channel can leave: it is an output of the network: "):
        Channels(keep=0.5).plan(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), LOOK)
    with pytest.raises(ModelError, match="`scope` and `skip` hold every group"):
        Channels(keep=0.5, skip=("*",)).plan(net(), LOOK)


def test_an_unknown_criterion_offers_the_known() -> None:
    with pytest.raises(UnknownName, match="no pruning criterion is called `l3`"):
        Channels(criterion="l3").plan(net(), LOOK)


def test_a_plan_that_is_not_silence_is_refused() -> None:
    class Counts(nn.Module):
        """Behaves at the width of the trial, and not at the width of the plan."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            return self.b(y * 2 if y.shape[1] == 8 else y).mean((2, 3))

    with pytest.raises(ModelError, match="counts on their number"):
        Channels(keep=0.25).plan(Counts(), LOOK)
    assert Channels(keep=0.5).plan(Counts(), LOOK)
