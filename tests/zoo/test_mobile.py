"""The efficient networks cost what their papers say, compute what torchvision computes, and learn."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import published_mobile as published
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lilliput import zoo
from lilliput.errors import ConfigError
from lilliput.zoo import shift, slimmable
from lilliput.zoo.blocks import Shift

PAGE = Path(__file__).parents[2] / "docs" / "zoo_mobile.md"
FAMILIES = ("squeezene", "mobilenet", "shufflenet", "ghostnet", "effnet", "shift", "slimmable")
NAMES = [name for name in zoo.names() if name.startswith(FAMILIES)]

TWINS = {
    "squeezenet1_0": "squeezenet1_0",
    "squeezenet1_1": "squeezenet1_1",
    "mobilenet_v2": "mobilenet_v2",
    "mobilenet_v3_small": "mobilenet_v3_small",
    "mobilenet_v3_large": "mobilenet_v3_large",
    "shufflenet_v2:width=0.5": "shufflenet_v2_x0_5",
    "shufflenet_v2:width=1.0": "shufflenet_v2_x1_0",
    "shufflenet_v2:width=1.5": "shufflenet_v2_x1_5",
    "shufflenet_v2:width=2.0": "shufflenet_v2_x2_0",
}

LEARNERS = [
    "squeezenet_32",
    "squeezenet_32:bypass=complex",
    "squeezenet_32:norm=true",
    "mobilenet_v1_32:width=0.25",
    "mobilenet_v2_32:width=0.25",
    "mobilenet_v2_32:linear=false,shortcut=expansion,width=0.25",
    "mobilenet_v3_small_32:width=0.35",
    "shufflenet_v1_32:width=0.25",
    "shufflenet_v1_32:excite=true,groups=8,shallow=true,shuffle=false,width=0.25",
    "shufflenet_v2_32:width=0.5",
    "ghostnet_32:width=0.25",
    "effnet:width=0.5",
    "shift_resnet20",
    "shift_attention_resnet20:growth=1.1,width=0.5",
    "shift_attention_resnet20:share=false,width=0.5",
    "slimmable_resnet20",
    "slimmable_mobilenet_v1_32:widths=0.125/0.25",
]

REMOVABLE = [
    "shufflenet_v1_32:groups=2,width=0.5",
    "ghostnet_32:width=0.25",
    "effnet:width=0.25",
    "shufflenet_v2_32:width=0.5",
    "mobilenet_v2_32:width=0.35",
    "shift_resnet20",
    "mobilenet_v3_small_32:width=0.35",
    "squeezenet_32:bypass=complex",
    "shift_attention_resnet20:frozen=true",
]


def rand(*shape: int) -> Tensor:
    """A fixed random tensor."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def create(spec: str, **options: object) -> nn.Module:
    """A network with fixed weights."""
    torch.manual_seed(3)
    return zoo.create(spec, **options)


def lively(model: nn.Module) -> nn.Module:
    """Give batch norms statistics and weights of their own, so that a swapped or forgotten one shows."""
    made = torch.Generator().manual_seed(4)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                tensor.data.copy_(torch.rand(tensor.shape, generator=made) + 0.5)
    return model.eval()


@pytest.mark.parametrize("row", published.ROWS, ids=lambda row: f"{row.spec}-{row.size}-{row.source[:9]}")
def test_costs_are_the_published_ones(row: published.Row) -> None:
    assert row.agrees() == (not row.reason), (published.count(row.spec, row.size), row)


def test_the_page_of_costs_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == published.table(), f"write it: python {published.__file__} > {PAGE.name}"


@pytest.mark.parametrize("spec", TWINS)
def test_torchvision_has_the_same_network(spec: str, torchvision: ModuleType) -> None:
    ours, theirs = create(spec), torchvision.models.get_model(TWINS[spec], weights=None)
    lively(theirs)
    assert {n: p.shape for n, p in ours.named_parameters()} == {n: p.shape for n, p in theirs.named_parameters()}
    ours.load_state_dict(theirs.state_dict())
    x = rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(ours.eval()(x), theirs(x), rtol=1e-4, atol=1e-5)
    norms = [[(m.eps, m.momentum) for m in model.modules() if isinstance(m, nn.BatchNorm2d)] for model in (ours, theirs)]
    assert norms[0] == norms[1]


@pytest.mark.parametrize("name", NAMES)
def test_every_network_scores_grey_images_of_its_papers_size(name: str) -> None:
    with torch.device("meta"):
        model = zoo.create(name, classes=7, channels=1)
        _, height, width = model.input_shape
        assert model.eval()(torch.empty(2, 1, height, width)).shape == (2, 7)


@pytest.mark.parametrize("name", [n for n in NAMES if zoo.architectures[n].input[1] == 32])
def test_small_forms_end_with_pixels_left(name: str) -> None:
    model, seen = create(name).eval(), []
    for module in model.modules():
        if isinstance(module, nn.Conv2d | shift.ShiftAttention | slimmable.SlimConv2d):
            module.register_forward_hook(lambda module, args, output: seen.append(tuple(output.shape[2:])))
    with torch.no_grad():
        model(rand(1, 3, 32, 32))
    assert min(size for size in seen if size != (1, 1)) >= (4, 4)


def widths(model: nn.Module) -> list[Callable[[], object]]:
    """What to call before each forward of a training step."""
    if isinstance(model, slimmable.Slimmable):
        return [lambda width=width: model.switch(width) for width in model.widths]
    return [lambda: None]


@pytest.mark.parametrize("spec", LEARNERS)
def test_three_steps_lower_the_loss(spec: str) -> None:
    model, x, y = create(spec), rand(8, 3, 32, 32), torch.arange(8)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    losses = []
    for _ in range(4):
        losses.append(0.0)
        optimizer.zero_grad()
        for choose in widths(model):
            choose()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            losses[-1] += loss.item()
        optimizer.step()
    assert losses[3] < losses[0], losses
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_frozen_attention_is_the_function_it_had_become(share: bool, stride: int) -> None:
    layer, x = shift.ShiftAttention(7, 5, 3, stride, share), rand(2, 7, 9, 8)
    frozen = layer.freeze()
    assert not torch.allclose(frozen(x), layer(x), atol=1e-2)
    layer.temperature.fill_(1e6)
    assert ((layer.shares() > 1e-6).sum(2) == 1).all()
    assert torch.allclose(frozen(x), layer(x), atol=1e-5)
    assert (frozen[1].kernel_size == (1, 1)) if share else (frozen.weight.count_nonzero((2, 3)) == 1).all()


def test_the_temperature_rises_with_every_step_and_never_else() -> None:
    layer, x = shift.ShiftAttention(4, 4, growth=2.0), rand(1, 4, 5, 5)
    for _ in range(3):
        layer(x)
    assert layer.temperature == 8
    layer.eval()(x)
    assert layer.temperature == 8
    assert torch.allclose(layer.shares().sum(2), torch.ones(1, 4))


@pytest.mark.parametrize("share", [True, False])
def test_a_frozen_network_is_rebuilt_from_its_spelling_and_state(share: bool) -> None:
    model = lively(create("shift_attention_resnet20", width=0.5, share=share))
    before, x = copy.deepcopy(model.state_dict()), rand(2, 3, 16, 16)
    frozen = shift.freeze(model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    with torch.device("meta"):
        again = zoo.create(frozen.architecture)
    again.load_state_dict(frozen.state_dict(), assign=True)
    assert torch.equal(again.eval()(x), frozen(x))
    for layer in model.modules():
        if isinstance(layer, shift.ShiftAttention):
            layer.temperature.fill_(1e6)
    assert torch.allclose(frozen(x), model(x), atol=1e-4)


def test_attention_loses_channels_with_their_slices() -> None:
    layer, x = shift.ShiftAttention(6, 5, share=False).eval(), rand(2, 6, 5, 5)
    small = copy.deepcopy(layer)
    small.resize("in", (0, 2, 3))
    small.resize("out", (1, 4))
    silenced = x * torch.tensor([1.0, 0, 1, 1, 0, 0]).view(-1, 1, 1)
    assert torch.allclose(small(x[:, (0, 2, 3)]), layer(silenced)[:, (1, 4)], atol=1e-6)


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("slimmable")])
def test_a_slimmed_network_is_the_switched_one(name: str) -> None:
    model = lively(create(name, classes=5))
    x = rand(2, 3, 64, 64)
    with torch.no_grad():
        for width in model.widths:
            model.switch(width)
            plain = model.slim(width)
            assert torch.allclose(plain(x), model(x), rtol=1e-4, atol=1e-4)
            assert model.width == width
            assert plain.architecture == zoo.create(plain.architecture).architecture


def test_widths_share_their_weights_but_not_their_norms() -> None:
    model = create("slimmable_resnet20")
    plain = sum(p.numel() for p in zoo.create("resnet20").parameters())
    norms = [sum(m.num_features * 2 for m in zoo.create("resnet20", width=w).modules() if isinstance(m, nn.BatchNorm2d))
             for w in model.widths]  # fmt: skip
    assert sum(p.numel() for p in model.parameters()) == plain + sum(norms[:-1])


@pytest.mark.parametrize("spec", REMOVABLE)
def test_removed_channels_are_as_silenced_ones(spec: str) -> None:
    """Half of the channels of every group are set to zero where they are made and read; then they are removed."""
    from lilliput.core.channels import channels
    from lilliput.core.perform import perform

    model, x = lively(create(spec)), rand(2, 3, 32, 32)
    found = channels(model, x)
    gone = [atom for group in found.groups for atom in group.atoms[::2][: len(group.atoms) - 1]]
    edits = found.remove(gone)
    for edit in edits:
        layer = model.get_submodule(edit.site)
        for tensor in (getattr(layer, "weight", None), getattr(layer, "bias", None)):
            if edit.axis == "out" and isinstance(tensor, nn.Parameter):
                tensor.data[[i for i in range(len(tensor)) if i not in set(edit.keep)]] = 0
    small = perform(model, edits)
    with torch.no_grad():
        assert torch.allclose(small(x), model(x), rtol=1e-4, atol=1e-4)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())


def test_shifts_learned_elsewhere_are_followed_after_loading() -> None:
    model = create("shift_resnet20").eval()
    state = {n: t.flip(0) if n.endswith("position") else t for n, t in model.state_dict().items()}
    model.load_state_dict(state)
    first = next(m for m in model.modules() if isinstance(m, Shift))
    assert first.positions == tuple(state["stages.0.shift.position"].tolist())


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("shufflenet_v1:groups=5", "`groups` (=5) is none of 1, 2, 3, 4, 8"),
        ("shufflenet_v2:width=0.7", "`width` (=0.7) is none of 0.5, 1.0, 1.5, 2.0"),
        ("shufflenet_v2_plus:size=huge", "`size` (='huge') is none of small, medium, large"),
        ("mobilenet_v2:shortcut=wide", "`shortcut` (='wide') is none of"),
        ("squeezenet_32:bypass=double", "`bypass` (='double') is none of"),
        ("slimmable_resnet20:widths=half", "`widths` (='half') are numbers with slashes"),
        ("shift_attention_resnet20:growth=0.5", "`growth` (=0.5) must be at least 1"),
    ],
)
def test_options_that_cannot_be_are_refused(spec: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        zoo.create(spec)
    assert words in str(error.value)


def test_a_width_that_was_not_built_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"`width` \(=0.3\) is none of the widths 0.25, 0.5, 0.75, 1.0"):
        zoo.create("slimmable_resnet20").switch(0.3)
