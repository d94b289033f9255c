"""The low-bit method: which layers it takes, what it puts there, what files of its networks cost, how they train."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small import network, task
from torch import Tensor, nn

import lilliput as lp
from lilliput import testing
from lilliput.config import parse
from lilliput.core.edits import Map
from lilliput.core.layers import Mapped, MappedConv2d
from lilliput.core.perform import perform
from lilliput.errors import ConfigError, EditError
from lilliput.quant.bases import Horq
from lilliput.quant.low_bit import LowBit
from lilliput.quant.schemes import schemes
from lilliput.quant.subtensors import ResidualSigns
from lilliput.quant.training import Centroids, Clip, ErrorDecay, Incremental, descending, two_step
from lilliput.recipe import Bake, Bench, run
from lilliput.store import account
from lilliput.train import BatchNorm, Fit, fit

NAMES = ["abcnet", "apot", "binaryconnect", "birealnet", "bwn", "cnnpack", "horq", "inq", "irnet", "kmeans", "lognet",
         "pq", "reactnet", "ttq", "twn", "xnor"]  # fmt: skip


def method(name: str, **options: Any) -> LowBit:
    return LowBit(name, skip=("first", "last", "linear") if name == "cnnpack" else None, **options)


def made(name: str, **options: Any) -> Any:
    return method(name, **options)(testing.subject_model(), testing.subject_look()).eval()


def quantized(model: nn.Module) -> list[str]:
    return [s.removesuffix(".layer") for s, m in model.named_modules() if isinstance(m, Mapped) and len(m.weight_maps)]


def test_every_scheme_is_there() -> None:
    assert list(schemes) == NAMES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "check",
    ["input_is_untouched", "same_seed_same_edits", "text_is_invertible", "edits_survive_json", "replay_is_bit_equal",
     "strength_zero_is_the_identity", "copies_are_independent"],
)  # fmt: skip
def test_contract(name: str, check: str) -> None:
    testing.check_method(method(name), only=[check])


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_everything(name: str) -> None:
    model, (x, y) = made(name), testing.subject_look().need_batches("the test").__iter__().__next__()  # type: ignore[attr-defined]
    F.cross_entropy(model(x), y).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("coder", ["plain", "context"])
@pytest.mark.parametrize("name", NAMES)
def test_files_hold_codes_and_load_bit_equal(name: str, coder: str, tmp_path: Path) -> None:
    model, look = made(name), testing.subject_look()
    lp.save(model, tmp_path / "net.lil", coder=coder)
    again = lp.load(tmp_path / "net.lil")
    assert torch.equal(again(look.example), model(look.example))
    rows = {row.name: row for row in account(tmp_path / "net.lil")}
    for site in quantized(model):
        wanted = f"{site}.layer.weight" if f"{site}.layer.weight" in rows else f"{site}.weight"
        assert rows[wanted].kind == "codes"


@pytest.mark.parametrize(
    ("name", "bits", "most"),
    [("binaryconnect", 1.0, 1.03), ("bwn", 1.0, 1.03), ("birealnet", 1.0, 1.03), ("irnet", 1.0, 1.03), ("xnor", 1.0, 1.03),
     ("reactnet", 1.0, 1.03), ("twn", 2.0, 1.61), ("ttq", 2.0, 1.61), ("kmeans", 4.0, 4.05), ("inq", 5.0, 4.0),
     ("apot", 4.0, 4.0), ("abcnet", 3.0, 2.0), ("pq", 8 / 9, 1.03)],
)  # fmt: skip
def test_weights_cost_the_bits_they_have(name: str, bits: float, most: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 64, 3), nn.Conv2d(64, 4, 1), nn.Flatten(), nn.Linear(64, 2))
    look = lp.Look(torch.randn(2, 3, 8, 8), [(torch.randn(8, 3, 8, 8), torch.zeros(8, dtype=torch.long))])
    low = LowBit(name, skip=("0", "2", "4"))(model, look).eval()
    layer = next(m for m in low.modules() if isinstance(m, MappedConv2d) and len(m.weight_maps))
    assert math.isclose(layer.weight_maps[-1].bits, bits)  # type: ignore[arg-type]
    file = tmp_path / "net.lil"
    lp.save(low, file, architecture="made_here.py:network", coder="context")
    cost = next(row.bits for row in account(file) if row.kind == "codes")
    assert 0.5 * bits < cost <= most


def test_ends_and_shortcuts_stay_real() -> None:
    torch.manual_seed(0)
    model = lp.zoo.create("resnet18", classes=3).eval() if "resnet18" in lp.zoo.names() else None
    if model is None:
        pytest.skip("this zoo has no network with projections")
    look = lp.Look(torch.randn(1, 3, 32, 32))
    low = LowBit("bwn")
    real = low.explain(model, look)
    assert {real["conv1"], real["fc"]} == {"`skip` has `first`", "`skip` has `last`"}
    assert all(word == "`skip` has `shortcuts`" for site, word in real.items() if site not in ("conv1", "fc"))
    assert len(real) == 5 and all("downsample" in site or "shortcut" in site for site in set(real) - {"conv1", "fc"})
    everything = [edit.site for edit in dataclasses.replace(low, skip=()).plan(model, look)]
    assert set(everything) == {edit.site for edit in low.plan(model, look)} | set(real)


@pytest.mark.parametrize("name", NAMES)
def test_any_subset_of_layers_will_do(name: str) -> None:
    low = LowBit(name, skip=("conv1", "layer2.*", "layer3.0.conv1", "linear"))
    model = low(testing.subject_model(), testing.subject_look())
    assert quantized(model) == ["layer1.0.conv1", "layer1.0.conv2", "layer3.0.conv2"]


def test_a_second_time_changes_nothing() -> None:
    model, look = made("twn"), testing.subject_look()
    assert LowBit("twn").plan(model, look) == []
    assert LowBit("twn").explain(model, look)["layer1.0.conv1"] == "it has a quantizer already"


def test_masked_weights_stay_zero_in_a_codebook() -> None:
    look = testing.subject_look()
    sparse = lp.prune.Weights(rate=0.7)(testing.subject_model(), look)
    low: Any = LowBit("kmeans", bits=3)(sparse, look)
    for was, now in zip(lp.bake(sparse).parameters(), lp.bake(low).parameters(), strict=True):
        assert was.shape != now.shape or was.dim() < 2 or torch.equal(was == 0, now == 0)
    assert all(len(p.unique()) <= 8 for n, p in lp.bake(low).named_parameters() if p.dim() > 1)


def test_one_codebook_for_all_layers() -> None:
    model: Any = made("kmeans", across=True, bits=3)
    values = {tuple(m.weight_maps[0].codebook.flatten().tolist()) for m in model.modules() if isinstance(m, Mapped)}
    assert len(values) == 1
    trained = fit(model, stripes(), Fit(epochs=1, batch_size=20, lr=1e-4, callbacks=(Centroids(across=True),))).model
    books = [m.weight_maps[0].codebook for m in trained.modules() if isinstance(m, Mapped)]
    assert all(torch.equal(book, books[0]) for book in books[1:]) and tuple(books[0].flatten().tolist()) not in values


def test_sub_tensors_of_order_one_are_xnor() -> None:
    look = testing.subject_look()
    one: Any = LowBit("xnor")(testing.subject_model(), look).eval()
    two: Any = copy.deepcopy(one)
    x = torch.randn(2, 16, 7, 7)
    scaled = one.layer2[0].conv1
    residual = ResidualSigns(two.layer2[0].conv1.layer, None)
    residual.layer.input_maps = nn.ModuleList([Horq(1)])
    assert torch.allclose(scaled(x), residual(x), atol=1e-4)


def test_the_scale_of_sub_tensors_is_the_optimum() -> None:
    conv = nn.Sequential(nn.Conv2d(3, 1, 2, bias=False), nn.Identity())
    low: Any = LowBit("xnor", skip=())(conv, lp.Look(torch.randn(1, 3, 2, 2)))
    x = torch.randn(1, 3, 2, 2)
    expected = x.abs().mean() * (torch.where(x >= 0, 1.0, -1.0) * low[0].layer.mapped_weight()).sum()
    assert torch.allclose(low(x).flatten(), expected)


def test_a_second_order_is_nearer() -> None:
    x = torch.randn(4, 30, 5)
    errors = []
    for order in (1, 2, 3, 4):
        q: Any = perform(nn.Sequential(nn.Conv1d(1, 1, 1), nn.Linear(2, 2)), [Map("1", "input", "horq", {"bits": order})])[1]
        errors.append(float((q.input_maps[0](x) - x).square().mean()))
    assert errors == sorted(errors, reverse=True)


INPUTS: list[tuple[str, dict[str, Any]]] = [
    ("sign", {}),
    ("sign", {"gradient": "polynomial"}),
    ("sign", {"gradient": "decay"}),
    ("rsign", {"channels": 3}),
    ("horq", {}),
    ("abcnet_input", {}),
    ("lognet", {"signed": False}),
    ("apot", {"signed": False, "bits": 3}),
]


@pytest.mark.parametrize(("name", "spec"), INPUTS, ids=str)
def test_codes_of_inputs(name: str, spec: dict[str, Any]) -> None:
    layer: Any = perform(nn.Sequential(nn.Conv2d(3, 2, 1)), [Map("0", "input", name, spec)])[0]
    q, x = layer.input_maps[0].eval(), torch.randn(2, 3, 5, 5)
    if name in ("abcnet_input", "lognet", "apot"):
        x = x.relu()
        q.absorb(x)
    codes = q.encode(x)
    assert torch.equal(q.decode(codes), q(x)) and codes.values.shape == x.shape
    assert 0 == codes.low <= int(codes.values.min()) <= int(codes.values.max()) <= codes.high <= 2**q.bits - 1
    if name in ("sign", "lognet", "apot"):
        assert torch.equal(q(q(x)), q(x))


def arrived(q: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    g = torch.randn(x.shape)
    x = x.clone().requires_grad_()
    q(x).backward(g)
    return g, x.grad  # type: ignore[return-value]


def test_gradients_of_signs() -> None:
    x = torch.tensor([[-1.5, -0.6, 0.0, 0.3, 1.2]])
    layer = nn.Sequential(nn.Linear(5, 2))
    slopes = {
        "clip": (x.abs() <= 1).float(),
        "polynomial": torch.where(x.abs() <= 1, torch.where(x < 0, 2 + 2 * x, 2 - 2 * x), torch.zeros(())),
        "decay": 10 * 0.1 * (1 - torch.tanh(0.1 * x) ** 2),
    }
    for kind, slope in slopes.items():
        q: Any = perform(layer, [Map("0", "input", "sign", {"gradient": kind})])[0].input_maps[0]
        g, found = arrived(q, x)
        assert torch.allclose(found, g * slope, atol=1e-6)
    q = perform(layer, [Map("0", "input", "rsign", {"channels": 5, "axis": -1})])[0].input_maps[0]
    q.threshold.data.fill_(0.2)
    g, found = arrived(q, x)
    slope = torch.where((x - 0.2).abs() <= 1, 2 - 2 * (x - 0.2).abs(), torch.zeros(()))
    assert torch.allclose(found, g * slope, atol=1e-6) and torch.allclose(q.threshold.grad, -(g * slope)[0], atol=1e-6)


def test_gradients_of_several_signs() -> None:
    x = torch.rand(2, 6) * 2
    layer = nn.Sequential(nn.Linear(6, 2))
    q: Any = perform(layer, [Map("0", "input", "abcnet_input", {"bits": 2})])[0].input_maps[0]
    q.absorb(x)
    g, found = arrived(q, x)
    v, beta = q.shift.detach(), q.scale.detach()
    inside = [((x + v[n] >= 0) & (x + v[n] <= 1)).float() for n in range(2)]
    assert torch.allclose(found, g * (beta[0] * inside[0] + beta[1] * inside[1]), atol=1e-6)
    signs = [torch.where(x + v[n] >= 0.5, 1.0, -1.0) for n in range(2)]
    assert torch.allclose(q.scale.grad, torch.stack([(g * s).sum() for s in signs]), atol=1e-5)
    assert torch.allclose(q.shift.grad, torch.stack([(g * b * i).sum() for b, i in zip(beta, inside, strict=True)]), atol=1e-5)
    q = perform(layer, [Map("0", "input", "horq")])[0].input_maps[0]
    g, found = arrived(q, x)
    first = x.abs().mean(1, keepdim=True)
    rest = x - first
    second = rest.abs().mean(1, keepdim=True)
    assert torch.allclose(found, g * (first * (x <= 1) + second * (rest.abs() <= 1)), atol=1e-6)


def stripes() -> lp.Task:
    return task(60)


def trained(steps: tuple[Any, ...], callbacks: tuple[Any, ...], folder: Path | None = None, **options: Any) -> Any:
    start = network()
    look = lp.Look(stripes().example(), [next(iter(stripes().drawn()))])
    for step in steps:
        start = step(start, look)
    plan = Fit(batch_size=20, epochs=options.pop("epochs", 2), lr=options.pop("lr", 0.01), callbacks=callbacks)
    return start, fit(start, stripes(), plan, folder=folder, **options).model


def test_latent_weights_are_clipped() -> None:
    _, model = trained((LowBit("binaryconnect", skip=()),), (Clip(limit=0.0625),), lr=1e-4)
    latent = [m.weight for m in model.modules() if isinstance(m, Mapped)]
    assert latent and all(float(w.detach().abs().max()) <= 0.0625 for w in latent)


def test_inq_ends_in_powers_of_two_and_never_moves_what_is_done() -> None:
    start, model = trained((LowBit("inq", bits=4),), (Incremental((0.5, 1.0)),), epochs=4)
    for one, two in zip(start.modules(), model.modules(), strict=True):
        if isinstance(two, MappedConv2d):
            assert two.weight_maps[-1].done is None and torch.equal(two.mapped_weight(), two.weight)  # type: ignore[union-attr]
            largest = int(one.weight.abs().argmax())  # type: ignore[union-attr, operator, arg-type]
            before = one.mapped_weight().flatten()[largest]  # type: ignore[operator]
            assert torch.allclose(two.weight.flatten()[largest], before, rtol=1e-6)


def test_portions_open_weights_and_close_them() -> None:
    model: Any = LowBit("inq")(testing.subject_model(), testing.subject_look())
    active = Incremental((0.25, 0.5, 1.0)).begin(model, 6, 0)
    layer, q = model.layer1[0].conv1, model.layer1[0].conv1.weight_maps[0]
    shares = []
    for step in range(6):
        active.after_step(step)
        shares.append(1.0 if q.done is None else float(q.done.float().mean()))
        if q.done is not None:
            assert torch.equal(q(layer.weight)[~q.done], layer.weight[~q.done])
            kept = layer.weight[q.done].clone()
            layer.weight.data += 0.01
            active.after_step(100)
            assert torch.equal(layer.weight[q.done], kept)
    assert shares == [0.25, 0.25, 0.5, 0.5, 1.0, 1.0] and q.bits == 5


def test_weights_follow_their_centroids() -> None:
    start, model = trained((LowBit("kmeans", bits=2),), (Centroids(),), lr=1e-4)
    for one, two in zip(start.modules(), model.modules(), strict=True):
        if isinstance(two, Mapped):
            a, b = (m.weight_maps[0].encode(m.weight).values for m in (one, two))  # type: ignore[union-attr, operator, arg-type]
            assert torch.equal(a, b) and torch.equal(two.mapped_weight(), two.weight)
            assert not torch.equal(one.weight_maps[0].codebook, two.weight_maps[0].codebook)  # type: ignore[union-attr]


@pytest.mark.parametrize(("gradient", "across"), [("sum", False), ("root", False), ("sum", True), ("root", True)])
def test_centroids_learn_by_summed_gradients(gradient: str, across: bool) -> None:
    model: Any = made("kmeans", across=across, bits=2)
    layers = [m for m in model.modules() if isinstance(m, Mapped)]
    active = Centroids(gradient=gradient, across=across).begin(model, 4, 0)
    single = []
    for layer in layers:
        layer.weight.grad = torch.randn_like(layer.weight)  # of each weight, as if it were by itself
        places, book = layer.weight_maps[0].encode(layer.weight.detach()).values.long(), layer.weight_maps[0].codebook
        sums, sizes = (
            torch.zeros(4).index_add(0, places.flatten(), g.flatten()) for g in (layer.weight.grad, torch.ones(places.shape))
        )
        book.grad = sums[None].clone()
        single.append((sums, sizes))
    if across:
        single = [(sum(s for s, _ in single), sum(n for _, n in single))] * len(layers)  # type: ignore[misc]
    active.before_step(0)
    for layer, (sums, sizes) in zip(layers, single, strict=True):
        expected = sums / sizes.sqrt() if gradient == "root" else sums
        assert torch.allclose(layer.weight_maps[0].codebook.grad[0], expected, rtol=1e-5, atol=1e-6)


def test_the_error_of_signs_decays() -> None:
    model: Any = made("irnet")
    active = ErrorDecay(0.1, 10.0).begin(model, 4, 0)
    layer, found = model.layer1[0].conv1, []
    for step in range(4):
        found.append(layer.weight_maps[0].t)
        assert layer.input_maps[0].t == found[-1]
        active.after_step(step)
    assert found == pytest.approx([0.1, 10**-0.5, 1.0, 10**0.5])


@pytest.mark.parametrize(
    ("steps", "callback"),
    [((LowBit("inq"),), Incremental()), ((LowBit("kmeans"),), Centroids()), ((LowBit("irnet"),), ErrorDecay())],
    ids=["inq", "kmeans", "irnet"],
)
def test_a_stopped_training_ends_bit_equal(steps: Any, callback: Any, tmp_path: Path) -> None:
    class Stop(Exception):
        """Ends a training."""

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "epoch" and event["epoch"] == 1:
            raise Stop

    options = {"epochs": 2, "lr": 1e-3}
    _, whole = trained(steps, (callback,), tmp_path / "one", **options)
    with pytest.raises(Stop):
        trained(steps, (callback,), tmp_path / "two", watch=stop, **options)
    _, again = trained(steps, (callback,), tmp_path / "two", **options)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())


def test_two_step_training_ends_with_both() -> None:
    one, _, two, _ = two_step(LowBit("reactnet"), Fit())
    model, look = testing.subject_model(), testing.subject_look()
    half = one(model, look)  # type: ignore[operator]
    assert quantized(half) == [] and len(half.layer1[0].conv1.input_maps) == 1
    whole = two(half, look)  # type: ignore[operator]
    direct = LowBit("reactnet")(model, look)
    assert torch.equal(whole(look.example), direct(look.example))


def test_two_step_training_of_layers_that_are_swapped() -> None:
    one, _, two, _ = two_step(LowBit("xnor"), Fit())
    model, look = testing.subject_model(), testing.subject_look()
    whole = two(one(model, look), look)  # type: ignore[operator]
    assert torch.equal(whole(look.example), LowBit("xnor")(model, look)(look.example))


def test_bits_descend() -> None:
    steps = descending(LowBit("kmeans"), Fit(), (5, 3))
    assert [step.text() for step in steps] == ["quant.low_bit(bits=5, scheme=kmeans)", "fit()", "bake()",
                                               "quant.low_bit(bits=3, scheme=kmeans)", "fit()"]  # fmt: skip
    assert isinstance(steps[2], Bake)
    with pytest.raises(ConfigError, match="fall"):
        descending(LowBit("kmeans"), Fit(), (3, 5))


def shortened(step: Any) -> Any:
    """A step of a recipe for a task that is learned in moments."""
    if isinstance(step, Fit):
        callbacks = tuple(dataclasses.replace(c, every=1) if hasattr(c, "every") else c for c in step.callbacks)
        return dataclasses.replace(step, epochs=2, batch_size=20, callbacks=callbacks)
    return BatchNorm(images=40, batch_size=20) if isinstance(step, BatchNorm) else step


def test_deep_compression_keeps_zeros_and_clusters(tmp_path: Path) -> None:
    steps = lp.Recipe.read(Path(__file__).parents[2] / "recipes/deep_compression.yaml").steps
    short = [shortened(step) for step in steps]
    bench = Bench(stripes(), tmp_path)
    made = run(network(), lp.Recipe(short), bench)
    again = run(network(), lp.Recipe(short), bench)
    assert all(stage.reused for stage in again.stages)
    assert all(torch.equal(value, again.model.state_dict()[name]) for name, value in made.model.state_dict().items())
    baked = [p for p in lp.bake(made.model).parameters() if p.dim() > 1]
    assert all(len(p.unique()) <= 16 for p in baked)
    assert sum(int((p == 0).sum()) for p in baked) / sum(p.numel() for p in baked) == pytest.approx(0.75, abs=0.01)
    float_bytes, bytes_ = lp.save(network(), tmp_path / "float.lil"), lp.save(made.model, tmp_path / "small.lil")
    assert bytes_ < float_bytes / 4  # most of so small a network's file is norms and the record
    x = stripes().example()
    assert torch.equal(lp.load(tmp_path / "small.lil")(x), made.model.eval()(x))


def test_binary_networks_export() -> None:
    testing.check_method(LowBit("reactnet"), only=["exports_and_agrees"])


@pytest.mark.parametrize(
    ("low", "message"),
    [
        (LowBit("bwm"), "no scheme is called `bwm`. Did you mean `bwn`"),
        (LowBit("bwn", bits=2), "`bits` (=2) is a width that bwn does not have; there are 1, 32"),
        (LowBit("apot", bits=6), "`bits` (=6) is a width that apot does not have; there are 2, 3, 4, 5, 7, 32"),
        (LowBit("bwn", activations=1), "`activations` (=1) is a width that bwn does not have; there are 32"),
        (LowBit("pq", bits=2), "`bits` (=2) is a width that pq does not have"),
        (LowBit("twn", across=True), "`across` (=true) is a choice of kmeans"),
        (LowBit("kmeans", across=True, options={"groups": 2}), "`across` (=true) has one codebook"),
        (LowBit("bwn", skip=("conv9",)), "`skip`: `conv9` matches no layer with weights; they are conv1, layer1.0.conv1"),
        (LowBit("cnnpack"), "linear: cnnpack serves convolutions with kernels larger than 1x1, and this is a Linear"),
        (LowBit("lognet", images=0), "`images` (=0) must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused(low: LowBit, message: str) -> None:
    with pytest.raises(Exception) as caught:
        low.plan(testing.subject_model(), testing.subject_look())
    assert message in str(caught.value) and caught.value.exit_code == 2  # type: ignore[attr-defined]


def test_codebooks_larger_than_a_layer_are_refused_with_the_layer() -> None:
    model, look = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Identity()), lp.Look(torch.zeros(1, 1, 2, 2))
    with pytest.raises(EditError, match=r"0: `bits` \(=4\) make 16 values for the 2 weights of a group; take at most 1"):
        LowBit("kmeans")(model, look)


def test_groups_have_no_scale_of_sub_tensors() -> None:
    model, look = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Identity()), lp.Look(torch.zeros(1, 4, 5, 5))
    with pytest.raises(ConfigError, match="0: xnor serves convolutions without groups, and this has 4"):
        LowBit("xnor", skip=()).plan(model, look)


def test_calibration_needs_images() -> None:
    with pytest.raises(ConfigError, match=r"`scheme` \(=apot\) needs labelled images"):
        LowBit("apot")(testing.subject_model(), lp.Look(torch.randn(1, 1, 8, 8)))


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (Clip(limit=0), "`limit` (=0) must be above 0"),
        (ErrorDecay(2.0, 1.0), "`low` (=2.0) is above 0 and at most `high` (=1.0)"),
        (Incremental((0.5, 0.75)), "`portions` (=(0.5, 0.75)) rise from above 0 to 1"),
        (Incremental((0.5, 0.4, 1.0)), "rise from above 0 to 1"),
        (Incremental(), "no layer has a map that this is for"),
        (Centroids(), "no layer has a map that this is for"),
        (Centroids(gradient="mean"), "is not one of root, sum"),
        (ErrorDecay(), "no map decays"),
    ],
)
def test_callbacks_that_cannot_be_are_refused(callback: Any, message: str) -> None:
    assert parse(callback.text()) == callback if "no " in message else True
    with pytest.raises(ConfigError) as caught:
        callback.begin(testing.subject_model(), 10, 0)
    assert message in str(caught.value)
