"""Removing blocks: which can go, which go first, how many, and what cannot be asked."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lilliput as lp
from lilliput import zoo
from lilliput.core.channels import channels
from lilliput.core.edits import Swap, from_json, to_json
from lilliput.core.method import Look
from lilliput.core.perform import perform
from lilliput.errors import BudgetError, ConfigError
from lilliput.measure import profile
from lilliput.prune import Channels, Layers
from lilliput.prune.blocks import blocks

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def look(loss: bool = True) -> Look:
    draw = torch.Generator().manual_seed(1)
    batches = [(torch.randn(4, 3, 16, 16, generator=draw), torch.randint(0, 10, (4,), generator=draw)) for _ in range(2)]
    return Look(X, batches, F.cross_entropy if loss else None, 0, lambda m: float(sum(p.numel() for p in m.parameters())))


def net(name: str = "resnet20") -> nn.Module:
    torch.manual_seed(0)
    model = zoo.create(name, width=0.25)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


def silence(model: nn.Module, site: str) -> None:
    """The branch of a block says nothing: its last norm multiplies by zero."""
    last = [m for m in model.get_submodule(site).modules() if isinstance(m, nn.BatchNorm2d)][-1]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)


FOUND = {
    "resnet20": ["layer1.0", "layer1.1", "layer1.2", "layer2.1", "layer2.2", "layer3.1", "layer3.2"],
    "mobilenet_v2": [f"features.{i}" for i in (3, 5, 6, 8, 9, 10, 12, 13, 15, 16)],
    "shufflenet_v2": [],
    "squeezenet1_1": [],
    "mobilenet_v1": [],
}


@pytest.mark.parametrize("name", FOUND)
def test_residual_blocks_are_found(name: str) -> None:
    assert list(blocks(zoo.create(name), torch.randn(1, 3, 32, 32)).sites) == FOUND[name]


class Nets:
    """Blocks as users write them; the comment says what is true of each."""

    class Before(nn.Module):  # activation before the layers
        def __init__(self) -> None:
            super().__init__()
            self.bn, self.conv = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.conv(F.relu(self.bn(x)))

    class InPlace(nn.Module):  # an addition in place, scaled
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            y += 0.5 * x
            return y.relu_()

    class Gate(nn.Module):  # no addition, but a product
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x * torch.sigmoid(self.conv(x.mean((2, 3), keepdim=True)) + 3)

    class Projected(nn.Module):  # a shortcut that mixes channels
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.short = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.short(x) + self.conv(x)

    class Wide(nn.Module):  # other channels
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x, x], 1) + self.conv(x)

    class Outside(nn.Module):  # the addition stands outside of the branch
        def __init__(self) -> None:
            super().__init__()
            self.branch = nn.Sequential(nn.Conv2d(4, 4, 1))
            self.norm = nn.Sequential(nn.BatchNorm2d(4))

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x + self.branch(x))


def around(block: nn.Module, width: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)).eval()


@pytest.mark.parametrize(
    ("block", "sites", "why"),
    [
        (Nets.Before(), ["1"], {}),
        (Nets.InPlace(), ["1"], {}),
        (nn.Sequential(Nets.Before()), ["1.0"], {}),
        (nn.Sequential(Nets.Before(), Nets.InPlace()), ["1.0", "1.1"], {}),
        (Nets.Gate(), [], {"1": "no addition joins its input, as it came, to its output"}),
        (Nets.Projected(), [], {"1": "no addition joins its input, as it came, to its output"}),
        (
            Nets.Outside(),
            ["1"],
            {"1.branch": "no addition joins its input, as it came, to its output", "1.norm": "it holds no convolution"},
        ),
    ],
)
def test_what_is_a_block(block: nn.Module, sites: list[str], why: dict[str, str]) -> None:
    found = blocks(around(block), X)
    assert (list(found.sites), found.reasons) == (sites, why)


def test_a_block_of_another_width_stays() -> None:
    assert blocks(around(Nets.Wide(), 8), X).reasons == {"1": "it makes 8x16x16 of 4x16x16"}


@pytest.mark.parametrize(
    ("name", "site", "criterion"),
    [("resnet20", "layer2.1", c) for c in ("loss", "kl", "distance")] + [("mobilenet_v2", "features.8", "distance")],
)
def test_a_branch_that_says_nothing_leaves_first_and_is_not_missed(name: str, site: str, criterion: str) -> None:
    model = net(name)
    silence(model, site)
    method, seen = Layers(remove=1, criterion=criterion, images=4), look()
    if criterion == "loss":  # labels by which every other block is needed
        x = torch.cat([x for x, _ in seen.batches])
        with torch.no_grad():
            seen = Look(X, [(x, model(x))], lambda out, y: (out - y).square().mean(), 0)
    assert method.plan(model, seen) == [Swap(site, "identity")]
    small = method(model, seen)
    with torch.no_grad():
        assert torch.equal(small(X), model(X))
    again = perform(net(name), from_json(json.loads(json.dumps(to_json(lp.edits(small))))), weights=False)
    again.load_state_dict(small.state_dict())
    with torch.no_grad():
        assert torch.equal(again(X), small(X))


def test_no_labels_are_needed_for_outputs() -> None:
    model = net()
    silence(model, "layer1.1")
    for criterion in ("kl", "distance"):
        assert Layers(remove=1, criterion=criterion).plan(model, Look(X)) == [Swap("layer1.1", "identity")]
    with pytest.raises(ConfigError, match="needs labelled images"):
        Layers(remove=1).plan(model, Look(X))
    with pytest.raises(ConfigError, match="needs the loss"):
        Layers(remove=1).plan(model, look(loss=False))


def test_greedy_tries_again_what_is_left() -> None:
    """Two branches that cancel: each alone is needed, and one of them is worth nothing once the other has left."""

    class Add(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1, bias=False)
            with torch.no_grad():
                self.conv.weight.zero_()
                self.conv.weight[:, 0, 0, 0] = factor

        def forward(self, x: Tensor) -> Tensor:
            return x + self.conv(x)

    model = around(nn.Sequential(Add(4.0), Add(-0.8), Add(0.05)))
    plan = Layers(remove=3, criterion="distance").plan(model, Look(X))
    assert [e.site for e in plan] == ["1.2", "1.1", "1.0"] or [e.site for e in plan] == ["1.2", "1.0", "1.1"]
    assert Layers(remove=2, criterion="distance").plan(model, Look(X)) == plan[:2]


@pytest.mark.parametrize("share", [0.95, 0.7])
def test_targets_are_reached_and_not_overshot(share: float) -> None:
    model, seen = net(), look()
    for option, cost in (("macs", lambda m: profile(m, X[:1]).macs), ("latency", seen.clock)):
        plan = Layers(criterion="distance", images=2, **{option: share}).plan(model, seen)
        assert plan and cost(perform(model, plan)) <= share * cost(model) < cost(perform(model, plan[:-1]))


def test_shares_and_skips() -> None:
    model, options = net(), {"criterion": "distance", "images": 2}
    assert len(Layers(keep=0.5, **options).plan(model, look())) == 4
    sites = {e.site for e in Layers(remove=3, skip=("layer1.*", "layer2.2"), **options).plan(model, look())}
    assert sites == {"layer2.1", "layer3.1", "layer3.2"}
    assert Layers(keep=1.0).plan(model, look()) == Layers(macs=1.0).plan(model, look()) == Layers().plan(model, look()) == []


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"remove": -1}, ConfigError, "`remove` (=-1) is at least 0"),
        ({"keep": 0.0}, ConfigError, "`keep` (=0.0) is the share that stays"),
        ({"remove": 1, "macs": 0.5}, ConfigError, "`macs` and `remove` both say how much leaves"),
        ({"remove": 1, "criterion": "l1"}, ConfigError, "`criterion` (=l1) is one of loss, kl, distance"),
        ({"remove": 1, "skip": ("stage*",)}, ConfigError, "`skip`: no layer is called `stage*`"),
        ({"remove": 8}, ConfigError, "`remove` (=8) exceeds the blocks that can go (=7)"),
        ({"macs": 0.1}, BudgetError, "without every block that can go (=7) `0.2"),
        ({"latency": 0.1}, BudgetError, "prune.layers: `latency` (=0.1) cannot be reached"),
    ],
)
def test_what_cannot_be_asked(options: dict, error: type[Exception], words: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(error) as caught:
        Layers(**options).plan(net(), look())
    assert words in str(caught.value)


def test_nothing_removable_says_why() -> None:
    with pytest.raises(ConfigError, match=r"blocks that can go \(=0\) \(`1`: no addition joins"):
        Layers(remove=1).plan(around(Nets.Gate()), look())


def test_before_and_after_channels() -> None:
    model, seen = net(), look()
    shallow = Layers(remove=2, images=4)(model, seen)
    names = {g.name for g in channels(shallow, X).groups}
    assert names < {g.name for g in channels(model, X).groups}
    both = Channels(keep=0.5)(shallow, seen)
    other = Layers(remove=2, images=4)(Channels(keep=0.5)(model, seen), seen)
    for small in (both, other):
        assert small(X).shape == (2, 10)
        assert sum(isinstance(m, nn.Identity) for m in small.modules()) >= 2
        assert profile(small, X[:1]).macs < profile(shallow, X[:1]).macs
