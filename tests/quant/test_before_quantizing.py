"""What comes before quantizers: equalized channels, images made from norms, widths shared out, names for recipes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from integer_nets import images, look, outputs, resnet
from torch import nn

from lilliput.cli import main
from lilliput.core.edits import Map
from lilliput.core.layers import Mapped
from lilliput.core.method import Look
from lilliput.errors import BudgetError, ConfigError, DataError, ExportError, ModelError, UnknownName
from lilliput.export import export
from lilliput.export.onnx import predictor
from lilliput.measure.precision import storage_bytes
from lilliput.quant import Equalize, Mixed, Quantize
from lilliput.quant.equalize import pairs
from lilliput.quant.mixed import Cost, fit_size
from lilliput.quant.shortcuts import SHORTCUTS, shortcut
from lilliput.quant.synthesize import synthesize


def uneven() -> nn.Module:
    """A chain with a depthwise layer in the middle, whose channels differ in range by a thousand."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8, padding=1), nn.ReLU(),
        nn.Conv2d(8, 4, 1), nn.ReLU6(), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(256, 5),
    )  # fmt: skip
    with torch.no_grad():
        factor = torch.logspace(-1.5, 1.5, 8)
        net[0].weight.mul_(factor.view(-1, 1, 1, 1))
        net[0].bias.mul_(factor)
        net[2].weight.div_(factor.view(-1, 1, 1, 1))
    return net.eval()


def test_equalizing_keeps_what_is_computed_and_brings_ranges_together() -> None:
    model, x = uneven(), images()
    made = Equalize()(model, Look(images(1)))
    assert torch.allclose(outputs(made, x), outputs(model, x), atol=1e-4 * float(outputs(model, x).abs().max()))
    ranges = made[0].weight.abs().amax((1, 2, 3))
    assert ranges.max() / ranges.min() < 3 < 30 < model[0].weight.abs().amax((1, 2, 3)).max() / ranges.min()
    assert torch.equal(made[6].weight, model[6].weight)  # behind the ReLU6


def test_equalized_networks_survive_one_scale_a_tensor() -> None:
    model, x = uneven(), images(32)
    one = Quantize(scales="tensor", saturation_free=False)
    error = [
        float((outputs(one(m, look()), x) - outputs(model, x)).norm()) for m in (model, Equalize()(model, Look(images(1))))
    ]
    assert error[1] < 0.5 * error[0]


def test_pairs() -> None:
    model = uneven()
    found = [(p.first, p.second) for p in pairs(model, images(1))]
    assert found == [(model[0], model[2]), (model[2], model[4])]
    opened = Equalize(relu6="open")(model, Look(images(1)))
    assert isinstance(opened[5], nn.ReLU) and len(pairs(opened, images(1))) == 3


def test_a_dead_channel_is_left_alone() -> None:
    model = uneven()
    with torch.no_grad():
        model[0].weight[1], model[4].weight[:, 2] = 0, 0
    made = Equalize()(model, Look(images(1)))
    assert all(torch.isfinite(p).all() for p in made.parameters())
    assert torch.allclose(outputs(made, images()), outputs(model, images()), atol=1e-3)


@pytest.mark.parametrize(("options", "word"), [({"rounds": -1}, "rounds"), ({"relu6": "drop"}, "relu6")])
def test_options_of_equalizing(options: dict, word: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ConfigError, match=f"`{word}`"):
        Equalize(**options).plan(uneven(), Look(images(1)))


def test_images_made_from_norms_are_what_norms_remember() -> None:
    model = resnet()
    (made,) = synthesize(model, images(1), 16)
    assert made.shape == (16, 3, 8, 8) and torch.equal(made, synthesize(model, images(1), 16)[0])

    def apart(x: torch.Tensor) -> float:
        found: list[torch.Tensor] = []
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        hooks = [m.register_forward_pre_hook(lambda n, a: found.append(a[0].mean((0, 2, 3)) - n.running_mean)) for m in norms]
        outputs(model, x)
        for hook in hooks:
            hook.remove()
        return float(torch.cat(found).square().sum())

    assert apart(made) < 0.5 * apart(images(16))
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_no_data_is_needed() -> None:
    model, x = resnet(), images(32)
    made = Quantize(source="norms", images=32, correct=True)(model, Look(images(1)))
    assert (outputs(made, x) - outputs(model, x)).norm() < 0.15 * outputs(model, x).norm()
    with pytest.raises(ModelError, match="no batch norm remembers"):
        Quantize(source="norms").plan(uneven(), Look(images(1)))


def test_no_calibration_image_at_all() -> None:
    with pytest.raises(DataError, match="at least one"):
        Quantize().plan(resnet(), Look(images(1), []))


@given(
    st.lists(st.tuples(st.integers(1, 999), st.floats(0.01, 1)), min_size=1, max_size=8),
    st.sampled_from([0.07, 0.1, 0.15, 0.2, 0.25]),
)
def test_widths_fit_and_a_layer_that_loses_more_is_not_narrower(layers: list[tuple[int, float]], share: float) -> None:
    costs = {str(i): Cost(n, {b: loss * 4.0**-b for b in (2, 4, 8)}) for i, (n, loss) in enumerate(layers)}
    found = fit_size(costs, share)
    assert sum(costs[s].weights * b for s, b in found.items()) <= 32 * share * sum(c.weights for c in costs.values())
    twin = {"a": Cost(100, costs["0"].losses), "b": Cost(100, {b: 9 * v for b, v in costs["0"].losses.items()})}
    assert fit_size(twin, share)["b"] >= fit_size(twin, share)["a"]


def test_a_size_below_the_floor_names_the_floor() -> None:
    with pytest.raises(BudgetError, match=r"`size` \(=0\.05\) is below the floor: 0\.0625"):
        fit_size({"a": Cost(10, {2: 1.0, 8: 0.0})}, 0.05)


def test_mixed_widths_meet_the_size_and_lose_less_than_one_width() -> None:
    model, x = resnet(), images(64)
    made = Mixed(size=0.1, widths=(2, 4, 8), images=32)(model, look())
    layers = [m for m in made.modules() if isinstance(m, Mapped)]
    bits = {int(m.weight_maps[0].bits) for m in layers}
    used = sum(m.weight.numel() * m.weight_maps[0].bits for m in layers)
    assert len(bits) > 1 and used <= 0.1 * 32 * sum(m.weight.numel() for m in layers)
    narrow = Quantize(bits=3)(model, look())
    wanted = outputs(model, x)
    assert (outputs(made, x) - wanted).norm() < (outputs(narrow, x) - wanted).norm()
    assert sum(storage_bytes(m) for m in made.modules()) < sum(storage_bytes(m) for m in model.modules())


def test_mixed_by_the_clock_leaves_the_most_sensitive_layers_in_floats() -> None:
    def clock(net: nn.Module) -> float:
        return sum(0.5 if len(m.weight_maps) else 1.0 for m in net.modules() if isinstance(m, Mapped)) + sum(
            1.0 for m in net.modules() if type(m) in (nn.Conv2d, nn.Linear)
        )

    seen = Look(images(1), look().batches, clock=clock)
    made = Mixed(size=None, latency=0.7, widths=(8,), images=16)(resnet(), seen)
    assert clock(made) <= 0.7 * clock(resnet()) < clock(made) + 0.5
    with pytest.raises(BudgetError, match=r"`latency` \(=0\.2\)"):
        Mixed(size=None, latency=0.2, widths=(8,), images=16).plan(resnet(), seen)


@pytest.mark.parametrize("options", [{"size": 0.0}, {"size": None}, {"widths": ()}, {"widths": (9,)}, {"images": 0}])
def test_options_of_mixed(options: dict) -> None:  # type: ignore[type-arg]
    with pytest.raises(ConfigError):
        Mixed(**options).plan(resnet(), look())


def test_widths_of_single_layers_and_inputs() -> None:
    plan = Quantize(bits=4, activations=4, widths={"conv1": 8}, input_widths={"conv1": 8, "linear": 8}).plan(resnet(), look())
    weights = {e.site: e.spec["bits"] for e in plan if isinstance(e, Map) and e.tensor == "weight"}
    inputs = [e.spec["bits"] for e in plan if isinstance(e, Map) and e.tensor != "weight"]
    assert weights["conv1"] == 8 and weights["linear"] == 4 and sorted(set(inputs)) == [4, 8] and inputs.count(8) == 2


@pytest.mark.parametrize("name", ["8", "w4a8", "mixed"])
def test_shortcuts_are_steps(name: str) -> None:
    for step in shortcut(name):
        step.check()
    with pytest.raises(UnknownName, match="`w4a8`"):
        shortcut("w2a2")
    assert name in SHORTCUTS


@pytest.mark.parametrize(
    ("options", "words"), [(["--bits", "w2"], "no width is called `w2`"), (["--bits", "8", "--recipe", "r.yaml"], "give one")]
)
def test_shortcuts_on_the_command_line(options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["compress", "resnet8:channels=1", "--data", "digits", "--out", "o", *options])
    assert stop.value.code == 2 and words in capsys.readouterr().err


def test_the_target_names_the_widths_it_can_run(tmp_path: Path) -> None:
    made = Quantize(bits=16, activations=16)(resnet(), look())
    with pytest.raises(ExportError, match="`bits` \\(=16\\); there are kernels for 2 to 8"):
        export(made, images(2), tmp_path / "wide.onnx")


def test_half_precision_files_are_half_the_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.Flatten(), nn.Linear(512, 5)).eval()
    short = Quantize(bits="fp16", activations=32)(model, look())
    done, plain = (export(net, images(2), tmp_path / f"{name}.onnx") for name, net in (("half", short), ("plain", model)))
    assert done.bytes < 0.55 * plain.bytes and done.max_error < 1e-5
    assert torch.allclose(predictor(done.path)(images(3)), outputs(short, images(3)), atol=1e-5)
