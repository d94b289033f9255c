"""Laws of training on the grid that a file will hold."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import network, task
from torch import nn

import lilliput as lp
from lilliput import kernels
from lilliput.core.fold import fold
from lilliput.errors import ConfigError
from lilliput.quant import Fold, Quantize
from lilliput.quant.grid import Grid
from lilliput.quant.held import FineGrid, HeldGrid, held
from lilliput.quant.hold import NARROWEST, WIDEST, HoldBits, coded
from lilliput.quant.rate import RateQuantize
from lilliput.quant.rate_penalty import RatePenalty
from lilliput.store import load, save
from lilliput.train import Fit
from lilliput.train import fit as train

pytestmark = pytest.mark.skipif(kernels.backend() != "native", reason="only the native core rounds")

ROUND = RateQuantize(step=0.002, turns=False, images=32)
KEEP = RateQuantize(step=0.002, turns=False, images=32, norms="keep")


def look() -> lp.Look:
    return lp.Look(task().example(), [next(iter(task().drawn()))])


def start(seed: int = 0) -> nn.Module:
    """A network whose norms have seen something, with slopes of both signs and one that is zero."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = network()
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            with torch.no_grad():
                norm.running_mean.normal_(0, 0.2)
                norm.running_var.uniform_(0.5, 2)
                norm.bias.normal_(0, 0.1)
                norm.weight[0], norm.weight[1] = -1.0, 0.0
    return model.eval()


def trained(model: nn.Module, *, hold: bool = True, **options: Any) -> nn.Module:
    plan = Fit(batch_size=20, epochs=options.pop("epochs", 2), lr=0.02, callbacks=(HoldBits(every=2),) if hold else ())
    return train(model, task(), plan, **options).model.eval()


def computed(model: nn.Module) -> torch.Tensor:
    x = torch.cat([x for x, _ in task().batches("val", 20)])
    with torch.no_grad():
        out: torch.Tensor = model.eval()(x)
    return out


def grids(model: nn.Module) -> dict[str, tuple[Any, Grid]]:
    found = ((site, m) for site, m in model.named_modules() if getattr(m, "weight_maps", None))
    return {site: (m, m.weight_maps[0]) for site, m in found}  # type: ignore[index]


def test_kept_norms_compute_what_folded_ones_do() -> None:
    folded, kept = ROUND(start(), look()), KEEP(start(), look())
    assert torch.allclose(computed(folded), computed(kept), atol=1e-4)
    for site, (layer, grid) in grids(kept).items():
        other, plain = grids(folded)[site]
        assert torch.equal(grid.encode(layer.weight).values.abs(), plain.encode(other.weight).values.abs())


@pytest.mark.parametrize("epochs", [0, 2])
def test_folding_keeps_the_codes_of_training(epochs: int, tmp_path: Path) -> None:
    """Rows are scaled by no more than fits them to sixteenths of an octave, and on average they return what they did."""
    model = KEEP(start(), look())
    model = trained(model, epochs=epochs) if epochs else model
    for _, grid in held(model):
        grid.bias_step.zero_()
    folded = Fold()(model, look())
    exact = lp.perform(lp.bake(model), fold(lp.bake(model), look().example))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    for site, (layer, grid) in grids(folded).items():
        before, maker = grids(model)[site]
        wanted = exact.get_submodule(site)
        rows = (slice(None), *[None] * (layer.weight.dim() - 1))
        living = (wanted.weight.flatten(1) != 0).any(1)
        codes, was = grid.encode(layer.weight).values, maker.encode(before.weight).values
        assert type(grid) is FineGrid and torch.equal(codes[living].abs(), was[living].abs()) and not codes[~living].any()
        scale = (layer.weight.flatten(1).abs().amax(1) / wanted.weight.flatten(1).abs().amax(1))[living]
        assert (scale.log2().abs() <= 1 / 32 + 1e-5).all()
        assert torch.allclose(layer.weight[living], wanted.weight[living] * scale[rows], rtol=1e-5)
    save(folded, tmp_path / "net.lil")
    assert torch.equal(computed(load(tmp_path / "net.lil")), computed(folded))


def test_what_rows_are_scaled_by_moves_no_mean() -> None:
    """At the mean of what came in, a scaled row returns what it did: there its bias makes up for it."""
    model = KEEP(start(), look())
    for _, grid in held(model):
        grid.bias_step.zero_()
    folded, exact = Fold()(model, look()), lp.perform(lp.bake(model), fold(lp.bake(model), look().example))
    norm, a, b = model.bn1, folded.conv1, exact.conv1
    scale = a.weight.flatten(1).abs().amax(1) / b.weight.flatten(1).abs().amax(1).clamp(min=1e-9)
    slope = norm.weight * (norm.running_var + norm.eps).rsqrt()
    living = slope != 0
    mean = slope * norm.running_mean
    assert torch.allclose((scale * mean + a.bias)[living], (mean + b.bias)[living], atol=1e-4)


def test_biases_end_as_multiples_of_what_rounding_made_them() -> None:
    model = trained(KEEP(start(), look()))
    folded = Fold()(model, look())
    units = [float(grid.bias_step) for _, grid in held(model)]
    assert all(unit > 0 and math.log2(unit).is_integer() for unit in units)
    for (site, (layer, _)), unit in zip(grids(folded).items(), units, strict=True):
        whole = layer.bias.double() / unit
        assert torch.equal(whole, whole.round()), site


@pytest.mark.parametrize("moved", [0.9, 1.1])
def test_the_bytes_come_back_to_what_they_were(moved: float) -> None:
    model = KEEP(start(), look())
    draw = torch.Generator().manual_seed(1)
    for layer, grid in held(model):
        grid.zone.fill_(0.75)
        spread = grid.spread().view(layer.weight.shape)
        layer.weight.data.add_(spread * torch.randn(layer.weight.shape, generator=draw) / 2)
    active, first = HoldBits(every=1).begin(model, 100, 0), coded(model)
    for layer, _ in held(model):
        layer.weight.data.mul_(moved)
    assert abs(math.log(coded(model) / first)) > 0.02
    for step in range(100):
        active.after_step(step)
    assert abs(math.log(coded(model) / first)) < 0.01 and float(held(model)[0][1].zone) > NARROWEST


def test_the_bytes_asked_for_are_those_that_come() -> None:
    model = KEEP(start(), look())
    plan = Fit(batch_size=20, epochs=30, lr=0.02, callbacks=(HoldBits(bytes=int(0.8 * coded(model)), every=1),))
    assert coded(train(model, task(), plan).model) == pytest.approx(0.8 * coded(model), rel=0.03)


def test_what_is_cheap_enough_is_not_penalized() -> None:
    """Weights beside steps that stay would shrink on and on."""
    model = KEEP(start(), look())
    active, x = HoldBits().begin(model, 1, 0), torch.zeros(1)
    found = []
    for zone in (0.5, 0.55, 0.6, 0.7):
        for _, grid in held(model):
            grid.zone.fill_(zone)
        added = active.loss(x, x, x)
        assert added is not None
        found.append(added.item())
    constant = RatePenalty(strength=2.0).begin(model, 1, 0).loss(x, x, x)
    assert constant is not None
    assert found == pytest.approx([share * constant.item() for share in (0.0, 0.5, 1.0, 1.0)], rel=1e-4)


def test_offsets_stay_since_training_takes_the_mean_away() -> None:
    before, kept = start(), KEEP(start(), look())
    norms = [(a, kept.get_submodule(site)) for site, a in before.named_modules() if isinstance(a, nn.BatchNorm2d)]
    assert norms and all(torch.equal(a.bias[a.weight != 0], b.bias[a.weight != 0]) for a, b in norms)
    assert not all(torch.equal(a.running_mean, b.running_mean) for a, b in norms)


def test_what_is_held_already_stays() -> None:
    first = RateQuantize(step=0.002, turns=False, images=32, norms="keep", skip=("conv1",))(start(), look())
    both = KEEP(first, look())
    assert len(held(both)) == len(held(first)) + 1
    for site, (layer, grid) in grids(first).items():
        other, same = grids(both)[site]
        assert torch.equal(layer.weight, other.weight) and torch.equal(grid.spread(), same.spread())


class Loud(nn.BatchNorm2d):
    """A norm that does more."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input).relu()


def test_norms_that_do_more_stay() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), Loud(4), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    folded = Fold()(KEEP(model, look()), look())
    assert isinstance(folded[1], Loud) and {type(grid) for _, grid in grids(folded).values()} == {FineGrid}
    assert torch.allclose(computed(folded), computed(KEEP(model, look())), atol=1e-3)


def test_what_stands_before_a_norm_that_stays_goes_on_as_it_is() -> None:
    model = KEEP(start(), look())
    assert {type(grid) for _, grid in grids(Fold(skip=("*",))(model, look())).values()} >= {HeldGrid}
    assert torch.allclose(computed(Fold(skip=("*",))(model, look())), computed(model), atol=1e-6)


def test_a_wider_zone_makes_more_zeros_and_a_smaller_file(tmp_path: Path) -> None:
    model = trained(KEEP(start(), look()), epochs=20)
    made = [Fold(zone=zone)(model, look()) for zone in (0.0, 0.75, 1.0)]
    zeros = [sum(int((layer.weight == 0).sum()) for layer, _ in grids(each).values()) for each in made]
    sizes = [save(each, tmp_path / "net.lil") for each in made]
    assert zeros[0] < zeros[1] < zeros[2] and sizes[0] > sizes[1] > sizes[2]
    assert torch.equal(computed(Fold()(model, look())), computed(made[0]))  # and the network stays as it was
    for _, grid in held(model):
        grid.zone.fill_(0.9)
    assert torch.equal(computed(Fold(zone=0.6)(model, look())), computed(Fold()(model, look()))), "none gets narrower"


def test_integers_may_follow(tmp_path: Path) -> None:
    folded = Fold()(trained(KEEP(start(), look())), look())
    both = Quantize(weights="power", images=32)(folded, look())
    save(both, tmp_path / "net.lil")
    assert torch.equal(computed(load(tmp_path / "net.lil")), computed(both))
    assert all([each.name for each in layer.weight_maps] == ["fine_grid", "affine"] for layer, _ in grids(both).values())


def test_a_network_that_is_trained_on_is_stored_exactly(tmp_path: Path) -> None:
    model = trained(KEEP(start(), look()))
    save(model, tmp_path / "net.lil")
    assert torch.equal(computed(load(tmp_path / "net.lil")), computed(model))


def test_a_stopped_training_ends_bit_equal(tmp_path: Path) -> None:
    class Stop(Exception):
        """Ends a training."""

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "epoch" and event["epoch"] == 1:
            raise Stop

    model = KEEP(start(), look())
    whole = trained(copy.deepcopy(model), folder=tmp_path / "one")
    with pytest.raises(Stop):
        trained(copy.deepcopy(model), folder=tmp_path / "two", watch=stop)
    again = trained(copy.deepcopy(model), folder=tmp_path / "two")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())


@settings(max_examples=30)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=4), st.floats(0.5, WIDEST), st.integers(0, 99))
def test_decoding_codes_is_forward_and_idempotent(shape: list[int], zone: float, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=draw)
    made = HeldGrid.like(weight)
    made.absorb(weight / 20)
    made.zone.fill_(zone)
    made.slopes.copy_(torch.rand(shape[0], generator=draw) + 0.1)
    codes = made.encode(weight)
    assert codes.low <= int(codes.values.min()) and int(codes.values.max()) <= codes.high
    assert torch.equal(made.decode(codes), made(weight)) and torch.equal(made(made(weight)), made(weight))
    step = made.spread().view(shape)
    kept = made(weight) != 0
    assert not kept[weight.abs() / step < made.zone].any() and kept[weight.abs() / step > made.zone + 0.5].all()
    assert ((made(weight) - weight).abs()[kept] <= 0.5001 * step[kept]).all()


@pytest.mark.parametrize("kind", [HeldGrid, FineGrid])
@pytest.mark.parametrize(("axis", "dim"), [("out", 0), ("in", 1)])
def test_grids_follow_the_channels_that_stay(kind: type[HeldGrid] | type[FineGrid], axis: str, dim: int) -> None:
    weight = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    made = kind.like(weight)
    made.absorb(weight / 10)
    for name in made.by_row:
        getattr(made, name).copy_(torch.tensor([1, 2, 3, 4, 5, 6]))
    keep, whole = [0, 2, 3], made(weight)
    made.resize(axis, keep, dim)
    assert torch.equal(made(weight.index_select(dim, torch.tensor(keep))), whole.index_select(dim, torch.tensor(keep)))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="turns"):
        RateQuantize(norms="keep").plan(start(), look())
    with pytest.raises(ConfigError, match="fold, keep"):
        RateQuantize(norms="away").plan(start(), look())
    with pytest.raises(ConfigError, match="held_grid"):
        HoldBits().begin(start(), 1, 0)
    for wrong in ({"every": 0}, {"bytes": -1}, {"strength": -1.0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            HoldBits(**wrong).check()
    with pytest.raises(ConfigError, match="zone"):
        Fold(zone=1.1).check()
