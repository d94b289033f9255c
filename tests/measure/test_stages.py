"""The table of layers: what the papers print, and costs that add up to those of the profile."""

from __future__ import annotations

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from lilliput import zoo
from lilliput.measure import Stages, profile, stages
from lilliput.zoo.mobilenet_v2 import STAGES


def found(spec: str) -> Stages:
    with torch.device("meta"):
        model = zoo.create(spec)
        return stages(model, torch.zeros(1, *model.input_shape))  # type: ignore[misc]


def rows(table: Stages, *names: str) -> list[tuple[object, ...]]:
    return [tuple(getattr(row, name) for name in names) for row in table.rows]


def test_mobilenet_v2_is_table_2_of_its_paper() -> None:
    table = found("mobilenet_v2")
    blocks = [row for row in table.rows if row.operator == "bottleneck 3x3"]
    assert [(b.expansion, b.channels, b.repeats, b.stride) for b in blocks] == list(STAGES)
    assert [b.input[1] for b in blocks] == [112, 112, 56, 28, 14, 14, 7]
    others = [row.operator for row in table.rows if row not in blocks]
    assert others == ["conv2d 3x3", "conv2d 1x1", "avgpool 7x7", "linear"]


def test_resnet50_is_table_1_of_its_paper() -> None:
    assert rows(found("resnet50"), "operator", "channels", "repeats", "stride") == [
        ("conv2d 7x7", 64, 1, 2),
        ("maxpool 3x3", 64, 1, 2),
        ("bottleneck 3x3", 256, 3, 1),
        ("bottleneck 3x3", 512, 4, 2),
        ("bottleneck 3x3", 1024, 6, 2),
        ("bottleneck 3x3", 2048, 3, 2),
        ("avgpool 7x7", 2048, 1, None),
        ("linear", 1000, 1, None),
    ]


def test_dense_layers_fold_though_they_grow() -> None:
    dense = [row for row in found("densenet121").rows if row.operator == "dense layer 3x3"]
    assert [(d.repeats, d.channels) for d in dense] == [(6, 256), (12, 512), (24, 1024), (16, 1024)]


def test_inception_modules_of_one_width_do_not_fold() -> None:
    modules = [row for row in found("googlenet:five=true").rows if row.operator.startswith("inception")]
    assert [m.operator for m in modules] == ["inception 5x5"] * 9


@pytest.mark.parametrize(
    "spec",
    [
        *("alexnet", "vgg11_bn_32", "xception", "squeezenet_complex", "squeezenext23", "effnet", "ghostnet_32"),
        *("mobilenet_v1_32", "mobilenet_v3_small", "shufflenet_v1_32:groups=8", "shift_resnet20"),
        *("shift_attention_resnet20", "slimmable_resnet20", "se_resnet50", "googlenet:aux=true"),
    ],
)
def test_costs_add_up_to_the_profile(spec: str) -> None:
    with torch.device("meta"):
        model = zoo.create(spec)
        counted = profile(model, torch.zeros(1, *model.input_shape))  # type: ignore[misc]
    table = found(spec)
    assert (table.params, table.macs) == (counted.params, counted.macs)
    assert all(row.repeats >= 1 and row.operator for row in table.rows)
    assert table.to_json()["stages"][0]["input"] == [*table.rows[0].input]


def test_auxiliary_heads_are_told_apart() -> None:
    unused = [row for row in found("googlenet:aux=true").rows if row.operator == "not run in inference"]
    assert {row.name.split(".")[0] for row in unused} == {"aux1", "aux2"}


def shown(table: Stages) -> str:
    console = Console(width=140, no_color=True)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_columns_without_a_meaning_are_left_out() -> None:
    def head(spec: str) -> list[str]:
        return shown(found(spec)).splitlines()[2].split()

    assert head("mobilenet_v2_32") == ["input", "operator", "t", "c", "n", "s", "params", "MACs"]
    assert "t" not in head("resnet20") and "n" in head("resnet20")
    assert "SE" in head("mobilenet_v3_small_32") and "n" not in head("effnet")


class Own(nn.Module):
    """A network of no one's zoo: grouped and depthwise convolutions, a functional pool, its own normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 8, (1, 3), padding=(0, 1), groups=2)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.avg_pool2d(self.norm(self.first(x)), 2)
        return self.head(self.second(x).mean((2, 3)))


def test_a_network_of_ones_own_is_left_as_it_was() -> None:
    model = Own().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    table = stages(model, torch.rand(1, 4, 8, 8))
    words = ["conv2d 1x3, 2 groups", "avgpool 2x2", "depthwise 3x3", "avgpool 4x4", "linear"]
    assert [row.operator for row in table.rows] == words
    assert table.rows[0].params == 8 * 2 * 3 + 8 + 16  # the normalization's are in the row before it
    assert model.training and model.norm.training and not any(m._forward_hooks for m in model.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_single_layer_has_one_row() -> None:
    assert rows(stages(nn.Linear(4, 2), torch.rand(1, 4)), "operator", "input", "channels", "macs") == [("linear", (4,), 2, 8)]


def test_a_network_without_multiply_adds_has_a_table() -> None:
    assert stages(nn.Sequential(nn.ReLU()), torch.rand(1, 3, 4, 4)).macs == 0
