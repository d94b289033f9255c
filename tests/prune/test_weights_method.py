"""Pruning single weights: what goes, what holds, what follows, and what cannot be asked."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

import lilliput as lp
from lilliput import testing
from lilliput.core.method import Look
from lilliput.errors import ConfigError, EditError, UnknownName
from lilliput.prune import Weights
from lilliput.prune.masks import Mask, masks
from lilliput.prune.rates import shares
from lilliput.prune.saliency import effective, gather, saliencies

CHECKS = [name for name in testing.CHECKS if name != "exports_and_agrees"]
LOOK = testing.subject_look()


def rate(model: nn.Module) -> float:
    """The share of zeros behind masks."""
    found = [m.kept for _, m in masks(model).values()]
    return 1 - sum(int(k.sum()) for k in found) / sum(k.numel() for k in found)


def small_look() -> Look:
    """Eight images of the subject's."""
    x, y = next(iter(LOOK.need_batches("the test")))
    return dataclasses.replace(LOOK, batches=[(x[:8], y[:8])])


@pytest.mark.parametrize("criterion", [n for n in saliencies if n != "obs"])
def test_the_contract_for_each_criterion(criterion: str) -> None:
    testing.check_method(Weights(criterion, rate=0.6), look=small_look(), only=CHECKS)


@pytest.mark.parametrize("allocate", shares)
def test_the_contract_for_each_way_to_share(allocate: str) -> None:
    only = ["replay_is_bit_equal", "input_is_untouched"] if allocate != "sensitivity" else ["replay_is_bit_equal"]
    testing.check_method(Weights(rate=0.6, allocate=allocate, images=8), only=only)


@pytest.mark.parametrize("grain", ["1x4", "kernel", "position", "filter", "2:4"])
def test_the_contract_for_each_pattern(grain: str) -> None:
    testing.check_method(Weights(pattern=grain, skip=("conv1",)), only=["replay_is_bit_equal", "strength_zero_is_the_identity"])
    made = Weights(pattern=grain, skip=("conv1",))(testing.subject_model(), LOOK)
    assert rate(made) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("criterion", [n for n in saliencies if n != "obs"])
def test_the_rate_is_met_and_the_zeros_are_where_the_masks_are(criterion: str) -> None:
    made = Weights(criterion, rate=0.8, allocate="global")(testing.subject_model(), small_look())
    assert rate(made) == pytest.approx(0.8, abs=1e-3)
    for layer, mask in masks(made).values():
        assert torch.equal(effective(layer) == 0, ~mask.kept)
        assert torch.equal(layer.weight, effective(layer))
        assert not torch.signbit(layer.weight[~mask.kept]).any()


def test_magnitude_keeps_the_largest() -> None:
    model = testing.subject_model()
    made = Weights(rate=0.5)(model, LOOK)
    for site, (_, mask) in masks(made).items():
        size = model.get_submodule(site).weight.abs()
        assert size[mask.kept].min() >= size[~mask.kept].max()


def test_scores_are_their_formulas() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval()
    x, y = torch.randn(6, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1, 2])
    look = Look(x[:1], [(x[:4], y[:4]), (x[4:], y[4:])], nn.functional.cross_entropy)
    w = model[1].weight
    single = [torch.autograd.grad(nn.functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1]), w)[0] for i in range(6)]
    mean, squares = torch.stack(single).mean(0), torch.stack(single).square().mean(0)
    torch.testing.assert_close(gather(model, ["1"], look, "gradient", 6, "")["1"], mean)
    torch.testing.assert_close(gather(model, ["1"], look, "curvature", 6, "")["1"], squares)
    torch.testing.assert_close(saliencies["gradient"].score(w, mean), (w * mean).abs())
    torch.testing.assert_close(saliencies["obd"].score(w, squares), squares * w**2 / 2)


def test_again_narrows_the_mask_and_revives_nothing() -> None:
    first = Weights("random", rate=0.5)(testing.subject_model(), LOOK)
    for criterion in ("magnitude", "random", "gradient"):
        second = Weights(criterion, rate=0.8)(first, LOOK)
        assert rate(second) == pytest.approx(0.8, abs=1e-3)
        assert lp.edits(second) == lp.edits(first)
        for site, (_, mask) in masks(second).items():
            assert not (mask.kept & ~masks(first)[site][1].kept).any()
    assert rate(Weights(rate=0.1)(second, LOOK)) == pytest.approx(0.8, abs=1e-3)


def test_rates_by_layer() -> None:
    made = Weights(rate={"layer1.*": 0.75, "linear": 0.25})(testing.subject_model(), LOOK)
    found = {site: mask.rate for site, (_, mask) in masks(made).items()}
    assert found["linear"] == pytest.approx(0.25, abs=0.01) and found["layer1.0.conv1"] == pytest.approx(0.75, abs=0.01)
    assert set(found) == {"layer1.0.conv1", "layer1.0.conv2", "linear"}


def test_seeds_draw_masks_and_other_seeds_draw_others() -> None:
    model = testing.subject_model()
    made = [Weights("random")(model, dataclasses.replace(LOOK, seed=s)) for s in (0, 0, 1)]
    kept = [torch.cat([m.kept.flatten() for _, m in masks(each).values()]) for each in made]
    assert torch.equal(kept[0], kept[1]) and not torch.equal(kept[0], kept[2])


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_pruned_weights_stay_zero_through_training(optimizer: str) -> None:
    made = Weights(rate=0.9, allocate="lamp")(testing.subject_model(), LOOK).train()
    make = {"sgd": lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=1e-2, nesterov=True),
            "adam": lambda p: torch.optim.AdamW(p, 1e-2)}[optimizer]  # fmt: skip
    steps = make(made.parameters())
    before = {site: (mask.kept.clone(), layer.weight.detach().clone()) for site, (layer, mask) in masks(made).items()}
    for x, y in [*LOOK.need_batches("the test")] * 4:
        steps.zero_grad()
        nn.functional.cross_entropy(made(x), y).backward()
        steps.step()
    for site, (layer, mask) in masks(made).items():
        assert torch.equal(mask.kept, before[site][0])
        assert not effective(layer)[~mask.kept].any()
        assert not torch.equal(layer.weight, before[site][1])
        if optimizer == "sgd":
            assert not layer.weight[~mask.kept].any()


def test_masks_are_saved_as_bits_and_come_back(tmp_path: Path) -> None:
    made = Weights("gradient", rate=0.9, pattern="kernel")(testing.subject_model(), LOOK)
    lp.save(made, tmp_path / "m.lil")
    back = lp.load(tmp_path / "m.lil")
    for site, (layer, mask) in masks(made).items():
        other, same = masks(back)[site]
        assert torch.equal(mask.kept, same.kept) and torch.equal(layer.weight, other.weight)
    with torch.no_grad():
        assert torch.equal(back(LOOK.example), made(LOOK.example))
    from lilliput.store import account

    rows = {row.name: row for row in account(tmp_path / "m.lil")}
    assert rows["layer3.0.conv1.weight_maps.0.kept"].bits < 1.1


def test_quantized_after_pruning_the_zeros_stay(tmp_path: Path) -> None:
    made = lp.quant.Quantize(activations=32)(Weights(rate=0.8)(testing.subject_model(), LOOK), LOOK)
    kept = {site: mask.kept for site, (_, mask) in masks(made).items()}
    for site, layer in [(s, made.get_submodule(s)) for s in kept]:
        assert not effective(layer)[~kept[site]].any()
    lp.save(made, tmp_path / "q.lil")
    with torch.no_grad():
        assert torch.equal(lp.load(tmp_path / "q.lil")(LOOK.example), made(LOOK.example))
    plain = lp.bake(made)
    assert all(not plain.get_submodule(site).weight[~kept[site]].any() for site in kept)


def test_masks_follow_channels_that_leave() -> None:
    pruned = Weights(rate=0.7)(testing.subject_model(), LOOK)
    small = lp.prune.Channels(keep=0.5)(pruned, LOOK)
    for site, (layer, mask) in masks(small).items():
        assert mask.kept.shape == layer.weight.shape
        assert torch.equal(effective(layer) == 0, ~mask.kept), site


def test_shared_structure_survives_copies() -> None:
    made = Weights(rate=0.5)(testing.subject_model(), LOOK)
    other = copy.deepcopy(made)
    next(m for m in other.modules() if isinstance(m, Mask)).kept.fill_(False)
    assert rate(made) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rate": 1.0}, r"`rate` \(=1.0\)"),
        ({"rate": -0.1}, r"`rate` \(=-0.1\)"),
        ({"rate": {"conv1": 1.5}}, r"`rate` \(=1.5\)"),
        ({"rate": {"conv9": 0.5}}, r"`rate`: `conv9` matches no layer"),
        ({"skip": ("nowhere",)}, r"`skip`: `nowhere` matches no layer"),
        ({"pattern": "2:4"}, r"conv1: `pattern` \(=2:4\) needs runs of 4 of 1 inputs"),
        ({"pattern": "1:4", "rate": 0.5}, r"`pattern` \(=1:4\) removes 0.75 of a layer"),
        ({"pattern": "1x3"}, r"needs blocks of 3"),
        ({"images": 0}, r"`images` \(=0\)"),
    ],
)
def test_what_cannot_be_asked(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Weights(**options)(testing.subject_model(), LOOK)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options", [{"criterion": "gradient"}, {"criterion": "obd"}, {"criterion": "obs"}, {"allocate": "sensitivity"}]
)
def test_what_needs_data_says_so(options: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"prune.weights: `(criterion|allocate)` \(=\w+\) needs (labelled images|the loss)"):
        Weights(**options)(testing.subject_model(), Look(LOOK.example))


def test_unknown_names_and_bad_specs() -> None:
    with pytest.raises(UnknownName, match="magnitude"):
        Weights("magnitud").check()
    with pytest.raises(UnknownName, match="lamp"):
        Weights(allocate="lampe").check()
    model = testing.subject_model()
    for spec in ({"zeros": -1}, {"zeros": 10**9}, {"by": "obd"}, {"pattern": "2:4"}, {"nothing": 1}):
        with pytest.raises(EditError, match="conv1"):
            lp.perform(model, [lp.core.edits.Map("conv1", "weight", "mask", spec)])
