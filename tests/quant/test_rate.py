"""Laws of rounding with the rate in mind."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import lilliput as lp
from lilliput import kernels
from lilliput.core.edits import Swap
from lilliput.core.method import Look
from lilliput.core.record import edits
from lilliput.errors import ConfigError, DataError, WorkError
from lilliput.kernels import rounding
from lilliput.kernels.rounding import Job
from lilliput.kernels.turns import Trellis
from lilliput.quant import Quantize
from lilliput.quant.curvature import Curvature, curvature, upper
from lilliput.quant.rate import PRICE, RateQuantize, gridded, round_layer
from lilliput.store import load, save
from lilliput.store.tensors import Stored, stepped

pytestmark = pytest.mark.skipif(kernels.backend() != "native", reason="only the native core rounds")


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = lp.zoo.create("resnet8:width=0.5,classes=4").eval()
        with torch.no_grad():
            for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
                norm.running_mean.normal_(0, 0.2)
                norm.running_var.uniform_(0.5, 2)
    return model


def look(model: nn.Module, images: int = 32) -> Look:
    x = torch.randn(images, *model.input_shape, generator=torch.Generator().manual_seed(3))
    return Look(x[:1], [(x, torch.zeros(images, dtype=torch.long))])


def moved(a: nn.Module, b: nn.Module) -> float:
    x = torch.randn(16, *a.input_shape, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        return float((a(x) - b(x)).square().mean())


def spd(n: int, seed: int, groups: int = 1) -> torch.Tensor:
    x = torch.randn(groups, n, 3 * n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    x = x + 2 * x[:, :1]  # neighbours alike
    return x @ x.transpose(1, 2) / (3 * n)


def job(price: float = 0.0, seed: int = 0) -> tuple[Job, torch.Tensor, torch.Tensor]:
    """A weight of 6 rows, 4 kernels and 9 taps with a bias, and the factors behind its job."""
    a, g = spd(37, seed), spd(6, seed + 1)
    weights = np.random.default_rng(seed).normal(size=(6, 37))
    steps = np.full((6, 36), 0.5)
    made = Job((6, 4, 9), weights, steps, 0.0, upper(a, 0)[0].numpy(), upper(g, 0)[0].numpy(), price, 1000)
    return made, a[0], g[0]


def rise(error: np.ndarray, a: torch.Tensor, g: torch.Tensor) -> float:
    e = torch.from_numpy(error)
    return float(torch.einsum("rs,sj,jk,rk->", g, e, a, e)) / 2


def test_every_weight_becomes_a_multiple_of_its_step() -> None:
    made, _, _ = job()
    kernels.round_weights(made)
    codes = made.weights[:, :36] / made.steps
    assert np.abs(codes - codes.round()).max() < 1e-9


def test_the_error_is_smaller_than_that_of_rounding_to_the_nearest() -> None:
    for seed in range(5):
        made, a, g = job(seed=seed)
        before = made.weights.copy()
        nearest = before.copy()
        nearest[:, :36] = (before[:, :36] / 0.5).round() * 0.5
        kernels.round_weights(made)
        assert rise(made.weights - before, a, g) < 0.6 * rise(nearest - before, a, g)


def test_without_curvature_and_price_it_rounds_to_the_nearest() -> None:
    made, _, _ = job()
    made = made._replace(across=np.eye(37), down=np.eye(6))
    before = made.weights.copy()
    kernels.round_weights(made)
    assert np.array_equal(made.weights[:, :36], (before[:, :36] / 0.5).round() * 0.5)
    assert np.array_equal(made.weights[:, 36], before[:, 36])


def test_the_order_of_the_sum_is_that_of_the_factors() -> None:
    """What the greedy choices cost one by one adds up to the rise of the loss."""
    made, a, g = job()
    before = made.weights.copy()
    kernels.round_weights(made)
    error = torch.from_numpy(made.weights - before)
    up, down = torch.from_numpy(made.across), torch.from_numpy(made.down)
    parts = torch.linalg.inv(down).T @ error @ torch.linalg.inv(up)  # E = downᵀ · parts · across
    assert float(parts.square().sum()) / 2 == pytest.approx(rise(error.numpy(), a, g))
    assert parts[:, 36].abs().max() < 1e-9  # a free bias is never in error
    steps = 0.5 / torch.outer(down.diagonal(), up.diagonal()[:36])
    assert (parts[:, :36].abs() <= steps / 2 + 1e-9).all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("turns", [False, True])
def test_a_higher_price_takes_fewer_bits_and_more_loss(seed: int, turns: bool) -> None:
    found = []
    for price in (0.0, 0.05, 0.3, 2.0):
        made, a, g = turned(price, seed) if turns else job(price, seed)
        before = made.weights.copy()
        found.append((kernels.round_weights(made), rise(made.weights - before, a, g)))
    bits, rises = zip(*found, strict=True)
    assert list(bits) == sorted(bits, reverse=True)
    assert rises[0] < rises[-1]


def test_the_bits_are_those_of_the_coder() -> None:
    rng = np.random.default_rng(0)
    weights = rng.laplace(size=(64, 64 * 9)) * rng.uniform(0.2, 2, size=(64, 1))
    one = Job((64, 64, 9), weights, np.full_like(weights, 0.3), 0.0, np.eye(576), np.eye(64), 0.0, 32767)
    bits = kernels.round_weights(one)
    codes = (one.weights / 0.3).round().astype(np.int16)
    size = 8 * len(kernels.encode([kernels.Layout(64, 64, 9, -32767, 32767, 2, 0)], [codes.reshape(-1)]))
    assert 0.97 < bits / size < 1.01  # prices are those of a second pass, which knows the tensor


def test_zeros_stay() -> None:
    made, _, _ = job()
    made.weights[:, ::3] = 0
    kernels.round_weights(made)
    assert not made.weights[:, 0:36:3].any()


def turned(price: float = 0.0, seed: int = 0) -> tuple[Job, torch.Tensor, torch.Tensor]:
    """The same job for two quantizers of the same step that take turns."""
    made, a, g = job(price, seed)
    return made._replace(steps=made.steps / 2, turns=True), a, g


def test_numbers_that_take_turns_are_those_of_a_path() -> None:
    made, _, _ = turned()
    kernels.round_weights(made)
    numbers, trellis = made.weights[:, :36] / made.steps, Trellis()
    assert np.abs(numbers - numbers.round()).max() < 1e-9
    for number in numbers.round().astype(int).ravel():
        assert number == 0 or number % 2 == trellis.quantizer
        trellis.step((abs(number) + trellis.quantizer) // 2)


def test_taking_turns_errs_less_than_one_quantizer_of_the_same_step() -> None:
    """By about 1.2 dB."""
    rises = np.zeros((2, 10))
    for seed in range(10):
        for which, make in enumerate((job, turned)):
            made, a, g = make(seed=seed)
            before = made.weights.copy()
            kernels.round_weights(made)
            rises[which, seed] = rise(made.weights - before, a, g)
    assert 0.6 < rises[1].sum() / rises[0].sum() < 0.9


def test_zeros_stay_where_quantizers_take_turns() -> None:
    made, _, _ = turned(0.05)
    made.weights[:, ::3] = 0
    kernels.round_weights(made)
    assert not made.weights[:, 0:36:3].any() and made.weights[:, 1:36:3].any()


def test_the_bits_are_those_of_the_coder_where_quantizers_take_turns() -> None:
    rng = np.random.default_rng(0)
    weights = rng.laplace(size=(64, 64 * 9)) * rng.uniform(0.2, 2, size=(64, 1))
    one = Job((64, 64, 9), weights, np.full_like(weights, 0.15), 0.0, np.eye(576), np.eye(64), 0.0, 32767, True)
    bits = kernels.round_weights(one)
    codes = (one.weights / 0.15).round().astype(np.int16)
    size = 8 * len(kernels.encode([kernels.Layout(64, 64, 9, -32767, 32767, 2, 0)], [codes.reshape(-1)]))
    assert 0.95 < bits / size < 1.01


def test_arrays_that_do_not_fit_are_refused() -> None:
    made, _, _ = job()
    for wrong in (made._replace(down=np.eye(5)), made._replace(shape=(6, 4, 8)), made._replace(across=np.eye(36))):
        with pytest.raises(ValueError, match="do not fit"):
            kernels.round_weights(wrong)
    with pytest.raises(WorkError, match="native core"):
        rounding.round_weights(None, made)


def test_the_factor_is_upper_and_that_of_the_inverse() -> None:
    h = spd(5, 1, groups=2)
    u = upper(h, 0)
    assert torch.allclose(u.transpose(1, 2) @ u, torch.linalg.inv(h))
    assert torch.equal(u, u.triu())


def test_curvature_of_a_linear_layer_is_exact_on_average() -> None:
    """With logits z = W·x + b, A is the second moment of (x, 1), and G that of the softmax, at temperature 1."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4))
    x = torch.randn(20_000, 3)
    found = curvature(model, ["0"], [(x, x)], seed=1, temperature=1.0)["0"]
    ones = torch.cat([x, torch.ones(len(x), 1)], 1).double()
    assert torch.allclose(found.across[0], ones.T @ ones / len(x), atol=1e-5)
    p = model(x).softmax(1).detach().double()
    exact = torch.diag(p.mean(0)) - p.T @ p / len(x)
    assert torch.allclose(found.down[0], exact, atol=0.01)


def test_curvature_of_groups_is_by_group() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.Flatten(), nn.LazyLinear(3))
    model(torch.zeros(1, 4, 5, 5))
    found = curvature(model, ["0"], [(torch.randn(8, 4, 5, 5), torch.zeros(8))], seed=0)["0"]
    assert found.across.shape == (2, 19, 19) and found.down.shape == (2, 3, 3)


def test_curvature_needs_images_and_logits() -> None:
    with pytest.raises(DataError, match="at least one"):
        curvature(nn.Sequential(nn.Linear(2, 2)), ["0"], [], seed=0)
    image = torch.zeros(1, 1, 4, 4)
    with pytest.raises(DataError, match="logits"):
        curvature(nn.Sequential(nn.Conv2d(1, 1, 1)), ["0"], [(image, image)], seed=0)


def test_the_file_shrinks_and_the_error_grows_with_the_step(tmp_path: Path) -> None:
    model = network()
    found = []
    for step in (0.0003, 0.001, 0.003):
        rounded = RateQuantize(step=step)(model, look(model))
        found.append((save(rounded, tmp_path / "net.lil"), moved(model, rounded)))
        assert moved(rounded, load(tmp_path / "net.lil")) == 0
    sizes, errors = zip(*found, strict=True)
    assert sizes[0] > sizes[1] > sizes[2] and errors[0] < errors[1] < errors[2]


def test_very_fine_steps_do_not_run_out_of_codes() -> None:
    model = network()
    fine, coarse = (moved(model, RateQuantize(step=step)(model, look(model))) for step in (2.0**-18, 0.001))
    assert fine < coarse / 1000


def test_it_is_better_than_rounding_to_the_nearest_on_the_same_steps() -> None:
    model = network()
    method = RateQuantize(step=0.003, price=0, turns=False)
    rounded = method(model, look(model))
    nearest = copy.deepcopy(lp.perform(model, method.plan(model, look(model))))
    for site in gridded(nearest):
        nearest.get_submodule(site).weight_maps[0].steps.copy_(rounded.get_submodule(site).weight_maps[0].steps)
    assert moved(model, rounded) < 0.5 * moved(model, nearest)


@pytest.mark.parametrize("how", ["nearest", "descent"])
def test_integers_may_follow_and_the_file_keeps_its_codes(how: str, tmp_path: Path) -> None:
    model = network()
    rounded = RateQuantize(step=0.003)(model, look(model))
    both = Quantize(weights="power", round=how, images=32)(rounded, look(model))
    x = look(model).example
    assert save(both, tmp_path / "both.lil") < 1.5 * save(rounded, tmp_path / "net.lil")
    assert torch.equal(load(tmp_path / "both.lil").eval()(x), both.eval()(x))
    for site in gridded(rounded):
        first, last = both.get_submodule(site).weight_maps
        weight = both.get_submodule(site).weight
        assert (first.name, last.name) == ("grid", "affine")
        assert torch.equal(first(weight), rounded.get_submodule(site).mapped_weight())


def test_biases_stay_as_coarse_as_they_were_and_whole_for_integer_kernels() -> None:
    """A file keeps the whole numbers of a layer in few bits only where they have one step."""
    model = network()
    rounded = RateQuantize(step=0.003)(model, look(model))
    both = Quantize(weights="power", images=32)(rounded, look(model))
    inputs = {e.site: e.spec["input"] for e in edits(both) if isinstance(e, Swap) and e.layer == "whole_bias"}
    assert inputs
    for site, scale in inputs.items():
        before, after = (net.get_submodule(site).bias.detach().double() for net in (rounded, both))
        step, coarse = stepped(Stored(after.float(), None)).step, stepped(Stored(before.float(), None)).step
        assert step is not None and coarse is not None
        assert (after - before).abs().max() <= coarse / 4 + 1e-9
        units = after / (both.get_submodule(site).weight_maps[-1].scale.double() * np.float32(scale))
        living = (both.get_submodule(site).mapped_weight().flatten(1) != 0).any(1)
        assert torch.equal(units[living], units[living].round())


def test_biases_that_only_happen_to_be_round_are_not_made_coarse() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)
    ).eval()
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.bias.fill_(1.0)
    x = torch.randn(16, 3, 8, 8)
    made = Quantize(weights="power")(model, Look(x[:1], [(x, torch.zeros(16))]))
    assert all(float((made[n].bias.detach() - 1).abs().max()) < 0.01 for n in (0, 2))


def test_weights_that_loaded_are_ordinary_floats(tmp_path: Path) -> None:
    model = network()
    rounded = RateQuantize(step=0.001)(model, look(model))
    save(rounded, tmp_path / "net.lil")
    plain = lp.bake(load(tmp_path / "net.lil"))
    assert not any(type(m).__name__.startswith("Mapped") for m in plain.modules())
    assert moved(plain, rounded) == 0


def test_depthwise_and_grouped_layers_are_rounded() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 4, 1, groups=2), nn.Flatten(),
        nn.Linear(4 * 16, 5),
    ).eval()  # fmt: skip
    x = torch.randn(16, 3, 8, 8)
    rounded = RateQuantize(step=0.001)(model, Look(x[:1], [(x, torch.zeros(16))]))
    assert len(gridded(rounded)) == 4
    with torch.no_grad():
        assert (rounded(x) - model(x)).abs().max() < 0.2 * model(x).abs().max()


def test_a_layer_without_curvature_takes_no_bits() -> None:
    """What the loss does not depend on is rounded away, and nothing becomes infinite."""
    model = nn.Sequential(nn.Linear(6, 4, bias=False), nn.Linear(4, 3, bias=False))
    nothing = Curvature(torch.zeros(1, 6, 6, dtype=torch.float64), torch.zeros(1, 4, 4, dtype=torch.float64))
    after = lp.perform(model, RateQuantize().plan(model, Look(torch.zeros(1, 6))))
    round_layer(after[0], nothing, 0.001, PRICE, "0")
    assert torch.isfinite(after[0].weight).all() and not after[0].weight.any()


def test_options_are_checked() -> None:
    model = network()
    for wrong in ({"step": -1.0}, {"price": float("nan")}, {"images": 0}, {"temperature": 0.0}):
        with pytest.raises(ConfigError):
            RateQuantize(**wrong).plan(model, look(model))
    with pytest.raises(ConfigError, match="no layer is called"):
        RateQuantize(skip=("nowhere",)).plan(model, look(model))
    with pytest.raises(ConfigError, match="needs labelled images"):
        RateQuantize()(model, Look(look(model).example))
