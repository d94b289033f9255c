"""Quantizers that learn: gradients as their papers say, codes as `Affine` has them, and folding in the end."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from integer_nets import images, look, outputs, resnet
from torch import Tensor, nn

from lilliput.core.edits import Map, Resize, from_json, to_json
from lilliput.core.maps import Quantizer, maps
from lilliput.core.perform import perform
from lilliput.core.record import edits
from lilliput.errors import ConfigError, EditError
from lilliput.quant import Fold, Quantize
from lilliput.quant.freeze import Freeze
from lilliput.quant.integer import Affine

STARTS: dict[str, dict[str, Any]] = {
    "lsq": {"bits": 3, "axis": 0}, "lsq+": {"bits": 3, "signed": False, "scale": 0.3, "zero": 2},
    "pact": {"bits": 3, "signed": False, "scale": 0.3}, "dorefa": {"bits": 3}, "syq": {"bits": 3},
    "dorefa_clip": {"bits": 3}, "float": {"kind": "bf16"},
}  # fmt: skip


def made(name: str, w: Tensor, **spec: Any) -> Any:
    with torch.no_grad():
        quantizer = maps[name].like(w, **(spec or STARTS[name]))
        quantizer.absorb(w)
    return quantizer


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*(shape or (4, 3, 3, 3)), generator=torch.Generator().manual_seed(seed))


@given(seed=st.integers(0, 1000), name=st.sampled_from(sorted(STARTS)), size=st.sampled_from([0.1, 1.0, 30.0]))
def test_codes_are_the_quantizer(seed: int, name: str, size: float) -> None:
    w = noise(seed) * size
    q: Quantizer = made(name, w)
    for x in (w, w.clone().requires_grad_()):
        codes = q.encode(x)
        assert torch.equal(q.decode(codes), q(x))
        assert codes.low <= int(codes.values.min()) <= int(codes.values.max()) <= codes.high
    assert len(codes.values.unique()) <= 2 ** int(q.bits)


@given(seed=st.integers(0, 200), name=st.sampled_from(["lsq", "lsq+", "pact", "syq", "float"]))
def test_it_is_idempotent(seed: int, name: str) -> None:
    w = noise(seed)
    q = made(name, w)
    with torch.no_grad():
        once = q(w)
        assert torch.allclose(q(once), once, atol=1e-6) if name != "syq" else True


def test_the_gradient_of_a_learned_step() -> None:
    x = torch.tensor([[0.2, 0.74, 5.0, -5.0, -0.6]], requires_grad=True)
    q = made("lsq", x, bits=3, scale=0.5)
    q(x).sum().backward()
    error = [0 - 0.4, 1 - 1.48, 3, -3, -1 + 1.2]
    assert q.scale.grad == pytest.approx(sum(error) / (5 * 3) ** 0.5, rel=1e-5)
    assert x.grad.tolist() == [[1, 1, 0, 0, 1]]


def test_the_gradient_of_a_learned_zero_point() -> None:
    x = torch.tensor([[-9.0, 0.1, 9.0]], requires_grad=True)
    q = made("lsq+", x, bits=2, signed=False, scale=1.0, zero=1)
    q(x).sum().backward()
    assert q.zero.grad == pytest.approx(-2.0 / (3 * 3) ** 0.5)
    assert x.grad.tolist() == [[0, 1, 0]]


def test_the_gradient_of_a_learned_clip() -> None:
    x = torch.tensor([[-1.0, 0.5, 2.0, 3.5, 4.0]], requires_grad=True)
    q = made("pact", x, bits=2, signed=False, scale=1.0)
    q(x).sum().backward()
    assert q.scale.grad == pytest.approx(2 * 3.0)  # two values lie beyond α = 3·s
    assert x.grad.tolist() == [[0, 1, 1, 0, 0]]


def test_scales_learn_to_cover_what_they_did_not() -> None:
    x = noise(0, 64, 10).abs()
    for name in ("lsq", "pact"):
        q = made(name, x, bits=4, signed=False, scale=0.02)
        optimizer = torch.optim.SGD(q.parameters(), lr=1e-5 if name == "lsq" else 1e-6)
        losses = []
        for _ in range(60):
            loss = (q(x) - x).square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < 0.5 * losses[0]


def test_a_scale_that_turned_negative_is_read_as_positive() -> None:
    q = made("lsq", noise(0), bits=4, scale=0.5)
    x = noise(1)
    with torch.no_grad():
        wanted = q(x)
        q.scale.neg_()
        assert torch.equal(q(x), wanted) and torch.equal(q.decode(q.encode(x)), wanted)


def test_dorefa_levels() -> None:
    w = torch.tensor([[-2.0, 0.1, 2.0]])
    assert made("dorefa", w, bits=2)(w).tolist() == [[-1, pytest.approx(1 / 3), 1]]
    assert made("dorefa", w, bits=1)(w).tolist() == [[pytest.approx(v * 4.1 / 3) for v in (-1, 1, 1)]]
    x = torch.tensor([-1.0, 0.4, 7.0])
    assert made("dorefa_clip", x, bits=1 + 1)(x).tolist() == [0, pytest.approx(1 / 3), 1]


@pytest.mark.parametrize("bits", [2, 6])
def test_gradients_have_few_levels_and_are_right_on_average(bits: int) -> None:
    torch.manual_seed(0)
    q = made("dorefa_gradient", torch.zeros(1), bits=bits).train()
    x, g, total = torch.zeros(2, 50, requires_grad=True), noise(3, 2, 50), torch.zeros(2, 50)
    for _ in range(400):
        (grad,) = torch.autograd.grad(q(x), x, g)
        total += grad
        assert all(len(row.unique()) <= 2**bits for row in grad)
    inner = g.abs() < 0.6 * g.abs().amax(1, keepdim=True)
    step = 2 * g.abs().amax(1, keepdim=True) / (2**bits - 1)
    assert ((total / 400 - g).abs() < 0.2 * step)[inner].all()


@pytest.mark.parametrize("value", [-0.001, 0.001, 0.05])
def test_gradients_are_right_on_average_in_bfloat16_too(value: float) -> None:
    torch.manual_seed(0)
    q, g = made("dorefa_gradient", torch.zeros(1), bits=6).train(), torch.full((1, 50), value, dtype=torch.bfloat16)
    g[0, 0] = 1  # a level is 0.03
    x = torch.zeros_like(g, requires_grad=True)
    found = [torch.autograd.grad(q(x), x, g)[0].float()[0, 1:] for _ in range(400)]
    assert torch.stack(found).mean() == pytest.approx(value, abs=0.0007)


def test_gradients_pass_unchanged_where_nothing_trains() -> None:
    q = made("dorefa_gradient", torch.zeros(1), bits=2).eval()
    x = torch.zeros(3, requires_grad=True)
    assert q(x) is x


def test_ternary_scales_by_pixel_are_the_least_squares_fit() -> None:
    w = noise(0, 6, 5, 3, 3)
    q = made("syq", w, bits=2)
    assert q.scale.shape == (1, 1, 3, 3) and set(q.encode(w).values.unique().tolist()) <= {-1, 0, 1}
    with torch.no_grad():
        least = (q(w) - w).square().sum()
        for factor in (0.9, 1.1):
            q.scale.mul_(factor)
            assert (q(w) - w).square().sum() > least
            q.scale.div_(factor)


@pytest.mark.parametrize(("group", "count"), [("layer", 1), ("row", 3), ("pixel", 9)])
def test_how_many_scales_there_are(group: str, count: int) -> None:
    assert made("syq", noise(0), bits=2, group=group).scale.numel() == count
    assert made("syq", noise(0, 4, 7), bits=2, group=group).scale.numel() == 1


def test_scales_follow_their_channels() -> None:
    model = perform(nn.Sequential(nn.Conv2d(3, 4, 3)), [Map("0", "weight", "lsq", {"bits": 4, "axis": 0})])
    small = perform(model, [Resize("0", "out", (0, 3))])
    assert small[0].weight_maps[0].scale.shape == (2,) and small[0].weight_maps[0].scale.requires_grad
    assert torch.equal(small[0].mapped_weight(), model[0].mapped_weight()[[0, 3]])


LEARNERS = ["lsq", "lsq+", "pact", "syq", "dorefa"]


@pytest.mark.parametrize("norms", ["fold", "keep"])
@pytest.mark.parametrize("learn", LEARNERS)
def test_a_network_learns_and_ends_in_integers(learn: str, norms: str) -> None:
    method = Quantize(bits=4, activations=4, learn=learn, norms=norms, gradients=8 if learn == "dorefa" else 32)
    made = method(resnet(), look()).train()
    x, optimizer = images(16), torch.optim.SGD(made.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        made(x).square().mean().backward()
        assert all(p.grad is not None for p in made.parameters())
        optimizer.step()
    done = Fold()(made, look())
    assert torch.allclose(outputs(done, x), outputs(made, x), atol=1e-4)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in done.modules())
    assert Fold().plan(done, look()) == []
    weights = [m for n, m in done.named_modules() if n.endswith("weight_maps.0")]
    assert len(weights) == (0 if learn == "syq" else 8) and all(type(w) is Affine for w in weights)


@pytest.mark.parametrize("learn", ["lsq+", "dorefa"])
def test_structure_and_state_dict_are_the_network(learn: str) -> None:
    made = Quantize(bits=4, activations=4, learn=learn, norms="keep", gradients=6)(resnet(), look())
    done = Fold()(made, look())
    shell = perform(resnet(), from_json(to_json(edits(done))), weights=False)
    shell.load_state_dict(done.state_dict())
    assert torch.equal(outputs(shell, images()), outputs(done, images()))


def test_a_negative_slope_turns_the_codes() -> None:
    model = resnet()
    with torch.no_grad():
        model.bn1.weight[::2] *= -1
    made = Quantize(bits=4, learn="lsq", norms="keep")(model, look())
    assert torch.allclose(outputs(Fold()(made, look()), images()), outputs(made, images()), atol=1e-4)


def test_kept_norms_are_where_quantizers_stand() -> None:
    model = resnet()
    kept, folded = (Quantize(norms=n)(model, look()) for n in ("keep", "fold"))
    assert (outputs(kept, images()) - outputs(folded, images())).norm() < 0.1 * outputs(folded, images()).norm()
    assert any(isinstance(m, nn.BatchNorm2d) for m in kept.modules())


def test_frozen_norms_keep_their_statistics_in_training() -> None:
    model, x = resnet(), images()
    made = Freeze()(model, look())
    assert torch.equal(outputs(made, x), outputs(model, x))
    before = copy.deepcopy(made.state_dict())
    made.train()(x).sum().backward()
    assert all(torch.equal(v, before[k]) for k, v in made.state_dict().items())
    assert made.bn1.weight.grad is not None
    assert torch.equal(made(x), outputs(model, x))
    assert Freeze().plan(made, look()) == [] and not made.bn1.track_running_stats
    assert torch.allclose(outputs(Fold()(made, look()), x), outputs(model, x), atol=1e-4)


def test_rounding_by_chance_is_right_on_average_and_rests_in_eval() -> None:
    torch.manual_seed(0)
    w = torch.full((1, 2000), 0.3)
    q = made("affine", w, bits=4, scale=1.0, rounding="stochastic").train()
    assert set(q(w).unique().tolist()) == {0.0, 1.0} and abs(float(q(w).mean()) - 0.3) < 0.05
    assert torch.equal(q.eval()(w), torch.zeros_like(w)) and torch.equal(q.decode(q.encode(w)), q(w))


def test_short_floats() -> None:
    w = noise(0)
    assert torch.equal(made("float", w, kind="fp16")(w), w.half().float())
    assert torch.equal(made("float", w, kind="bf16")(w), w.bfloat16().float())
    assert float(made("float", w, kind="fp16")(torch.tensor(1e6))) == 65504
    x = w.clone().requires_grad_()
    made("float", w)(x).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(w))


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_networks_of_short_floats(kind: str) -> None:
    made = Quantize(bits=kind, activations=kind)(resnet(), look())
    wanted = outputs(resnet(), images())
    assert (outputs(made, images()) - wanted).norm() < 0.02 * wanted.norm()


@pytest.mark.parametrize(
    ("name", "spec", "message"),
    [
        ("dorefa", {"bits": 9}, "`bits` \\(=9\\) is not a width of DoReFa"),
        ("dorefa_gradient", {"bits": 1}, "there are 2 to 8"),
        ("syq", {"bits": 1}, "`bits` \\(=1\\) is not a width of SYQ"),
        ("syq", {"group": "pixels"}, "Did you mean `pixel`"),
        ("float", {"kind": "fp8"}, "fp8"),
        ("affine", {"rounding": "up"}, "`rounding` \\(=up\\)"),
        ("lsq", {"bits": 9}, "`bits` \\(=9\\) is a width no integer quantizer has"),
    ],
)
def test_specs_that_cannot_be(name: str, spec: dict[str, Any], message: str) -> None:
    with pytest.raises(EditError, match=f"^0: .*{message}"):
        perform(nn.Sequential(nn.Conv2d(3, 4, 3)), [Map("0", "weight", name, spec)])


@pytest.mark.parametrize("name", ["syq", "float"])
def test_what_is_not_finite_is_refused(name: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    nn.init.constant_(model[0].weight, float("inf"))
    with pytest.raises(EditError, match="0: the weight holds NaN or infinity"):
        perform(model, [Map("0", "weight", name)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learn": "lsqq"}, "`learn` \\(=lsqq\\) is one of"),
        ({"learn": "lsq", "round": "descent"}, "use one"),
        ({"round": "up"}, "`round` \\(=up\\) is one of nearest, adaround, descent, block"),
        ({"gradients": 9}, "`gradients` \\(=9\\)"),
        ({"source": "noise"}, "`source` \\(=noise\\)"),
        ({"widths": {"conv1": 9}}, "`widths`: `conv1` \\(=9\\)"),
        ({"widths": {"conv9": 8}}, "no layer is called `conv9`"),
        ({"bits": "fp8"}, "`bits` \\(=fp8\\) is not a width"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Quantize(**options).plan(resnet(), look())
