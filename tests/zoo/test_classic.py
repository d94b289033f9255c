"""The classic networks cost what their papers say, compute what torchvision computes, and learn."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lilliput import zoo
from lilliput.errors import ModelError
from lilliput.measure.counts import profile
from lilliput.zoo.googlenet import TABLE, Logits

# Parameters to the last one, and multiply-adds in G as published (the lowest and the highest of the published values),
# where they are published with two digits or more. docs/zoo_classic.md has the sources and the two exceptions.
COSTS: dict[str, tuple[int, tuple[float, float] | None]] = {
    "alexnet": (61_100_840, (0.66, 0.715)),
    "vgg11": (132_863_336, None),
    "vgg13": (133_047_848, None),
    "vgg16": (138_357_544, (15.35, 15.48)),
    "vgg19": (143_667_240, None),
    "vgg11_bn": (132_868_840, None),
    "vgg13_bn": (133_053_736, None),
    "vgg16_bn": (138_365_992, (15.35, 15.48)),
    "vgg19_bn": (143_678_248, None),
    "vgg11_bn_32": (9_231_114, None),
    "vgg13_bn_32": (9_416_010, None),
    "vgg16_bn_32": (14_728_266, (0.3137, 0.3137)),
    "vgg19_bn_32": (20_040_522, None),
    "googlenet": (6_624_904, (1.5, 1.6)),
    "googlenet:five=true": (7_005_832, (1.5, 1.6)),
    "googlenet:aux=true": (13_004_888, (1.5, 1.6)),
    "inception_naive": (97_531_080, None),
    "inception_v3": (23_834_568, None),
    "inception_v3:aux=true": (27_161_264, None),
    "inception_v4": (42_679_816, (12.25, 12.25)),
    "inception_resnet_v2": (55_843_464, None),
    "resnet18": (11_689_512, (1.8, 1.81)),
    "resnet18_32": (11_173_962, None),
    "resnet34": (21_797_672, None),
    "resnet50": (25_557_032, (3.88, 4.09)),
    "resnet50:stride_on=1x1": (25_557_032, (3.86, 3.88)),
    "resnet101": (44_549_160, None),
    "resnet101:stride_on=1x1": (44_549_160, (7.6, 7.6)),
    "resnet152": (60_192_808, None),
    "resnet152:stride_on=1x1": (60_192_808, (11.3, 11.3)),
    "resnext50_32x4d": (25_028_904, (4.26, 4.26)),
    "se_resnet50": (28_088_024, (3.88, 4.1)),
    "se_resnet50:stride_on=1x1": (28_088_024, (3.87, 3.88)),
    "densenet121": (7_978_856, (2.83, 2.87)),
    "densenet100_32": (769_162, None),
    "xception": (22_855_952, (8.36, 8.40)),
}

# the spelling whose torchvision twin is the whole network, and a small resolution that both take
TWINS = {
    **{"alexnet": 64, "googlenet:aux=true": 64, "inception_v3:aux=true": 96, "densenet121": 64},
    **{"vgg11": 32, "vgg19_bn": 32},
    **{name: 64 for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d")},
}

SHARED = [*(name.partition(":")[0] for name in TWINS), "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19"]

# sha256 of the sorted names and shapes of the state dicts of timm 1.0.31 (legacy_xception, seresnet50)
TIMM = {
    "inception_v4": "3802c76b5597c75d",
    "inception_resnet_v2": "dda8091d0fca7040",
    "xception": "70286d940e5d199d",
    "se_resnet50": "f09b8fa1240f9e00",
}

# options that leave training without noise, and about the smallest resolution at which batch norm of 8 images works
LEARNERS = {
    "alexnet:dropout=0.0": 64,
    "vgg11:dropout=0.0": 32,
    "vgg16_bn_32:width=0.25": 32,
    "googlenet:dropout=0.0,aux=true": 64,
    "inception_naive:dropout=0.0": 32,
    "inception_v3:dropout=0.0": 107,
    "inception_v4:dropout=0.0": 107,
    "inception_resnet_v2:dropout=0.0": 75,
    "resnet18": 32,
    "resnet18_32": 16,
    "resnet50": 32,
    "resnext50_32x4d": 32,
    "se_resnet50": 32,
    "densenet121": 32,
    "densenet100_32": 16,
    "xception:dropout=0.0": 48,
}


def on_meta(spec: str, **options: object) -> nn.Module:
    """A network of the zoo that takes no memory."""
    with torch.device("meta"):
        return zoo.create(spec, **options).eval()


def parameters(model: nn.Module) -> int:
    """How many numbers training can change."""
    return sum(p.numel() for p in model.parameters())


def noise(model: nn.Module) -> dict[str, Tensor]:
    """A state in which every tensor matters and no signal dies or explodes."""
    made = torch.Generator().manual_seed(0)

    def draw(name: str, like: Tensor) -> Tensor:
        if not like.is_floating_point():
            return torch.zeros(like.shape, dtype=like.dtype)
        if like.dim() > 1:
            return torch.randn(like.shape, generator=made) * (2 / like[0].numel()) ** 0.5
        spread = torch.rand(like.shape, generator=made)
        return spread + 0.5 if name.endswith(("running_var", "weight")) else 0.2 * spread - 0.1

    return {name: draw(name, like) for name, like in model.state_dict().items()}


@pytest.mark.parametrize("spec", COSTS)
def test_costs_are_the_published_ones(spec: str) -> None:
    params, published = COSTS[spec]
    model = on_meta(spec)
    counted = profile(model, torch.empty(1, *model.input_shape, device="meta"))
    assert counted.params == parameters(model) == params
    assert not counted.uncounted
    if published is not None:
        assert published[0] * 0.99 <= counted.macs / 1e9 <= published[1] * 1.01


@pytest.mark.parametrize("spec", [spec for spec in COSTS if "stride_on" not in spec])
def test_one_score_a_class_at_another_resolution(spec: str) -> None:
    model = on_meta(spec, classes=7, channels=2)
    assert model(torch.empty(3, 2, 96, 128, device="meta")).shape == (3, 7)


def twin(spec: str, torchvision: ModuleType) -> nn.Module:
    """torchvision's network of that name, with auxiliary heads if ours has them, without memory."""
    name = spec.partition(":")[0]
    options: dict[str, bool] = {"init_weights": False} if name.startswith(("vgg", "google", "inception")) else {}
    if name in ("googlenet", "inception_v3"):
        options["aux_logits"] = "aux=true" in spec
    with torch.device("meta"):
        built: nn.Module = getattr(torchvision.models, name)(**options)
    return built.eval()


@pytest.mark.parametrize("spec", [*SHARED, "googlenet:aux=true", "inception_v3:aux=true"])
def test_tensors_have_torchvisions_names_and_shapes(spec: str, torchvision: ModuleType) -> None:
    ours, theirs = on_meta(spec), twin(spec, torchvision)
    assert parameters(ours) == parameters(theirs)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


@pytest.mark.parametrize("spec", TWINS)
def test_torchvision_takes_the_same_state_and_gives_the_same_scores(spec: str, torchvision: ModuleType) -> None:
    ours, theirs = on_meta(spec), twin(spec, torchvision)
    state = noise(theirs)
    for model in (ours, theirs):
        model.load_state_dict(state, strict=True, assign=True)
    x = torch.randn(2, 3, TWINS[spec], TWINS[spec], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = theirs(x)
        assert wanted.std() > 1e-3
        torch.testing.assert_close(ours(x), wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("name", SHARED)
def test_parameters_and_multiply_adds_are_what_torchvision_states(name: str, torchvision: ModuleType) -> None:
    stated = torchvision.models.get_model_weights(name).DEFAULT.meta
    spec = name + ":aux=true" * (name == "inception_v3")  # counted with its head there, GoogLeNet without
    model = on_meta(spec)
    counted = profile(model, torch.empty(1, *model.input_shape, device="meta"))
    assert counted.params == stated["num_params"]
    assert counted.macs / 1e9 == pytest.approx(stated["_ops"], abs=6e-4)


@pytest.mark.parametrize("name", TIMM)
def test_tensors_have_timms_names_and_shapes(name: str) -> None:
    state = on_meta(name).state_dict()
    lines = sorted(f"{key} {tuple(tensor.shape)}" for key, tensor in state.items())
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == TIMM[name]


def test_naive_modules_cost_what_the_formula_says() -> None:
    inputs, wanted = 192, parameters(on_meta("googlenet").get_submodule("conv3"))
    wanted += 2 * 64 + 64 * 3 * 49 + 2 * 64 + 64 * 64  # the two units before
    for ones, _, threes, _, fives, _ in TABLE.values():
        wanted += inputs * (ones + 9 * threes + 25 * fives) + 2 * (ones + threes + fives)
        inputs += ones + threes + fives
    assert parameters(on_meta("inception_naive")) == wanted + (inputs + 1) * 1000


def test_the_papers_stride_saves_work_and_no_parameter() -> None:
    late, early = on_meta("resnet50"), on_meta("resnet50:stride_on=1x1")
    x = torch.empty(1, 3, 224, 224, device="meta")
    assert parameters(late) == parameters(early)
    # three blocks (of 256, 512, 1024 inputs, at 56, 28, 14 pixels) do their first 1x1 on a quarter of the pixels
    saved = sum(3 * inputs * inputs // 2 * side**2 // 4 for inputs, side in ((256, 56), (512, 28), (1024, 14)))
    assert profile(late, x).macs - profile(early, x).macs == saved


def test_a_stride_elsewhere_is_refused() -> None:
    with pytest.raises(ModelError, match=r"`stride_on`.*`1x1`.*`3x3`"):
        zoo.create("resnet50:stride_on=5x5")


@pytest.mark.parametrize(("spec", "heads"), [("googlenet:aux=true", 2), ("inception_v3:aux=true", 1)])
def test_auxiliary_heads_speak_in_training_only(spec: str, heads: int) -> None:
    model = on_meta(spec, classes=7)
    x = torch.empty(2, *model.input_shape, device="meta")
    assert isinstance(model(x), Tensor)
    said = model.train()(x)
    assert isinstance(said, Logits)
    assert [scores.shape for scores in (said.main, *said.aux)] == [(2, 7)] * (1 + heads)


def loss_of(model: Callable[[Tensor], Tensor | Logits], x: Tensor, y: Tensor) -> Tensor:
    """Cross entropy; auxiliary heads count 0.3, as in the paper."""
    said = model(x)
    if isinstance(said, Logits):
        return F.cross_entropy(said.main, y) + 0.3 * sum(F.cross_entropy(scores, y) for scores in said.aux)
    return F.cross_entropy(said, y)


@pytest.mark.parametrize("spec", LEARNERS)
def test_three_steps_lower_the_loss(spec: str) -> None:
    torch.manual_seed(0)
    model = zoo.create(spec, classes=4).train()
    x, y = torch.randn(8, 3, LEARNERS[spec], LEARNERS[spec]), torch.arange(8) % 4
    normed = any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    optimizer = torch.optim.Adam(model.parameters(), 1e-4) if normed else torch.optim.SGD(model.parameters(), 1e-3)
    first = loss = loss_of(model, x, y)
    for _ in range(3):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss = loss_of(model, x, y)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert loss < first
