"""Folding keeps the function, and refuses where it would not."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from integer_nets import NETS, images, norms_of_their_own, outputs
from torch import Tensor, nn

from lilliput.core.edits import Map, Swap
from lilliput.core.fold import fold, unfolded
from lilliput.core.perform import perform
from lilliput.errors import EditError
from lilliput.quant import Fold

PAIRS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "bias": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)), (3, 8, 8)),
    "no bias": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6)), (3, 8, 8)),
    "groups": (lambda: nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.BatchNorm2d(8)), (4, 8, 8)),
    "depthwise": (lambda: nn.Sequential(nn.Conv2d(4, 8, 3, groups=4), nn.BatchNorm2d(8)), (4, 8, 8)),
    "linear": (lambda: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)), (6,)),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)), (3, 9)),
    "conv3d": (lambda: nn.Sequential(nn.Conv3d(2, 4, 2), nn.BatchNorm3d(4)), (2, 4, 4, 4)),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(3, 6, 2), nn.BatchNorm2d(6)), (3, 5, 5)),
    "transposed, groups": (lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 2, groups=2), nn.BatchNorm2d(6)), (4, 5, 5)),
}


def norms(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@pytest.mark.parametrize("name", PAIRS)
def test_folding_keeps_the_function(name: str) -> None:
    make, shape = PAIRS[name]
    torch.manual_seed(0)
    model, x = norms_of_their_own(make()), torch.randn(4, *shape)
    folded = perform(model, fold(model, x))
    assert norms(folded) == []
    assert torch.allclose(outputs(folded, x), outputs(model, x), rtol=1e-5, atol=1e-5)


def test_a_norm_without_scale_and_offset() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, affine=False)).eval()
    nn.init.uniform_(model[1].running_var, 0.5, 2)
    x = images(4)
    assert torch.allclose(outputs(perform(model, fold(model, x)), x), outputs(model, x), atol=1e-5)


@pytest.mark.parametrize("name", NETS)
def test_folding_networks_keeps_the_function(name: str) -> None:
    model, x = NETS[name](), images()
    folded = perform(model, fold(model, x))
    assert norms(folded) == []
    assert torch.allclose(outputs(folded, x), outputs(model, x), rtol=1e-5, atol=1e-5)


def test_structure_and_state_dict_are_the_network() -> None:
    model, x = NETS["resnet"](), images()
    edits = fold(model, x)
    folded = perform(model, edits)
    shell = perform(copy.deepcopy(model), edits, weights=False)
    shell.load_state_dict(folded.state_dict())
    assert torch.equal(outputs(shell, x), outputs(folded, x))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(self.norm(self.conv(x))))


class Both(Twice):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.norm(x) + x


class First(Twice):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(x))


@pytest.mark.parametrize(
    ("model", "why"), [(Twice(), "more than once"), (Both(), "something else reads"), (First(), "the input, not a conv")]
)
def test_a_norm_that_cannot_be_folded_stays_with_a_reason(model: nn.Module, why: str) -> None:
    assert fold(model, images(1)) == []
    assert why in unfolded(model, images(1))["norm"]


def test_a_norm_of_batch_statistics_stays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False))
    assert fold(model, images(2)) == []
    assert "no running statistics" in unfolded(model, images(2))["1"]


def test_a_shared_weight_is_not_folded() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)).eval()
    model[2].weight = model[0].weight
    assert fold(model, images(1)) == []


def test_a_mapped_layer_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval()
    mapped = perform(model, [Map("0", "weight", "affine", {"axis": 0})])
    assert "bake the model first" in unfolded(mapped, images(1))["1"]
    with pytest.raises(EditError, match="0: its weight passes through maps"):
        perform(mapped, [Swap("0", "folded", {"norm": "1"})])


def test_widths_that_do_not_fit_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(3))
    with pytest.raises(EditError, match="0: the layer has `4` outputs and the norm `1` has `3` channels"):
        perform(model, [Swap("0", "folded", {"norm": "1"})])


class Bent(nn.BatchNorm2d):
    """A norm with an activation of its own."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).relu()


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6))
    model[1].register_forward_hook(lambda module, args, output: output * 2)
    return model


def doubled() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6))
    model[0].register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    return model


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: nn.Sequential(nn.Conv2d(3, 6, 3), Bent(6)), "`1` is a `Bent`"),
        (hooked, "`1` has hooks"),
        (doubled, "`0` has hooks"),
    ],
)
def test_what_does_more_than_its_numbers_say_stays(make: Callable[[], nn.Module], why: str) -> None:
    model, x = make().eval(), torch.randn(4, 3, 8, 8)
    assert fold(model, x) == [] and unfolded(model, x)["1"].startswith(why)


@pytest.mark.parametrize(
    ("model", "cuts"),
    [
        (nn.Sequential(nn.Sequential(nn.Conv2d(3, 6, 3)), nn.BatchNorm2d(6)), {"0": True, "0.0": True, "1": True}),
        (nn.Sequential(nn.Conv2d(3, 6, 3), nn.Sequential(nn.BatchNorm2d(6), nn.ReLU())), {"0": True, "1": True, "1.1": False}),
        (nn.Sequential(nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)), nn.ReLU()), {"0": False, "0.0": True, "1": False}),
    ],
)
def test_a_layer_that_ends_or_begins_between_keeps_a_pair(model: nn.Module, cuts: dict[str, bool]) -> None:
    for site, cut in cuts.items():
        assert (fold(model.eval(), torch.randn(1, 3, 8, 8), [site]) == []) == cut, site


def test_norms_can_be_skipped() -> None:
    from integer_nets import look

    plan = Fold(skip=("layer1.*",)).plan(NETS["resnet"](), look())
    assert {e.site for e in plan}.isdisjoint({"layer1.0.conv1", "layer1.0.bn1"})
    assert len(plan) == 2 * 5
