"""The method: rules for ranks, budgets of whole networks, what stays and why, and numbers from data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lilliput as lp
from lilliput import factor, zoo
from lilliput.config import parse
from lilliput.core.edits import Swap
from lilliput.core.perform import perform
from lilliput.errors import BudgetError, ConfigError, EditError, ModelError, UnknownName
from lilliput.factor import Factorize, stages
from lilliput.factor.chain import Chain
from lilliput.measure.shape_times import LayerShape

EXAMPLE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(5))
CHEAP = [name for name in sorted(factor.forms) if name not in ("cp", "low_rank_sparse")]


def net() -> nn.Module:
    torch.manual_seed(0)
    return zoo.create("resnet8").eval()


def data(images: int = 24) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    mix = torch.randn(3, 3, generator=draw)
    x = torch.einsum("nchw,cd->ndhw", torch.randn(images, 3, 16, 16, generator=draw), mix).cumsum(2) / 4
    return [(part, torch.zeros(len(part), dtype=torch.long)) for part in x.split(16)]


LOOK = lp.Look(EXAMPLE, data(), F.cross_entropy)


class TableClock:
    """Milliseconds that grow with multiply-adds and with every layer, both for networks and for single layers."""

    each = 2000.0

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, model: nn.Module) -> float:
        self.calls += 1
        found = lp.profile(model, EXAMPLE)
        return sum((row.macs + self.each) / 1e6 for row in found.layers if row.kind in ("Conv2d", "Linear"))

    def layers(self, shapes: Sequence[LayerShape]) -> list[float]:
        return [(shape.macs + self.each) / 1e6 for shape in shapes]


class PlainClock:
    """The same without a table."""

    def __call__(self, model: nn.Module) -> float:
        return TableClock()(model)


def macs(model: nn.Module) -> int:
    return lp.profile(model, EXAMPLE).macs


@pytest.mark.parametrize("name", sorted(factor.forms))
def test_a_budget_is_met_and_nearly_used(name: str) -> None:
    model = net()
    small = Factorize(method=name, macs=0.5)(model, LOOK)
    counted = sum(row.effective_macs for row in lp.profile(small, EXAMPLE).layers)
    assert 0.4 * macs(model) < counted <= 0.501 * macs(model)  # zeros are counted, and half of one is rounded
    assert small(EXAMPLE).shape == (2, 10)


@pytest.mark.parametrize("allocate", ["sum", "max", "uniform"])
@pytest.mark.parametrize("rule", ["macs", "params"])
def test_every_way_to_share_meets_the_budget(allocate: str, rule: str) -> None:
    model = net()
    small = Factorize(method="tucker2", allocate=allocate, **{rule: 0.4})(model, LOOK)
    before, after = lp.profile(model, EXAMPLE), lp.profile(small, EXAMPLE)
    assert getattr(after, rule) <= 0.4 * getattr(before, rule)


def test_several_methods_lose_no_more_than_one() -> None:
    model = net()
    names = ("svd", "spatial", "tucker2")

    def lost(method: str | tuple[str, ...]) -> float:
        chains = Factorize(method=method, macs=0.5)(model, LOOK)
        made = {n: m.kernel() for n, m in chains.named_modules() if isinstance(m, Chain)}
        pairs = [(w, model.get_submodule(n).weight) for n, w in made.items()]
        return sum(float((a.reshape(b.shape) - b).detach().square().sum() / b.detach().square().sum()) for a, b in pairs)

    assert lost(names) <= min(lost(name) for name in names) * 1.02


@pytest.mark.parametrize("clock", [TableClock(), PlainClock()])
def test_a_latency_target_is_met_as_measured(clock: Any) -> None:
    model, look = net(), lp.Look(EXAMPLE, clock=clock)
    small = Factorize(method=("svd", "spatial"), latency=0.6)(model, look)
    assert clock(small) <= 0.6 * clock(model)


def test_a_layer_that_gets_slower_stays() -> None:
    model, clock = net(), TableClock()
    clock.each = 1e9  # every further layer costs a second
    method = Factorize(latency=1.0)
    assert method.plan(model, lp.Look(EXAMPLE, clock=clock)) == []
    assert set(method.explain(model, lp.Look(EXAMPLE, clock=clock)).values()) == {"no rank of it is cheaper"}
    with pytest.raises(BudgetError, match="below the floor"):
        Factorize(latency=0.9).plan(model, lp.Look(EXAMPLE, clock=clock))


def test_a_table_that_promises_too_much_is_not_believed() -> None:
    class Hopeful(TableClock):
        def layers(self, shapes: Sequence[LayerShape]) -> list[float]:
            return [
                ms if shape.kernel == (3, 3) else 0.3 * ms for ms, shape in zip(super().layers(shapes), shapes, strict=True)
            ]

    model, clock = net(), Hopeful()
    small = Factorize(latency=0.6)(model, lp.Look(EXAMPLE, clock=clock))
    assert clock(small) <= 0.6 * clock(model)


def test_a_table_of_a_slower_hour_changes_nothing() -> None:
    class Slow(TableClock):
        """Its table was made when the machine took three times as long."""

        def layers(self, shapes: Sequence[LayerShape]) -> list[float]:
            return [3 * ms for ms in super().layers(shapes)]

        def inside(self, model: nn.Module) -> dict[str, float]:
            rows = lp.profile(model, EXAMPLE).layers
            return {row.name: (row.macs + self.each) / 1e6 for row in rows if row.kind in ("Conv2d", "Linear")}

    model = net()
    for method in (Factorize(latency=0.6), Factorize(method="tucker2", latency=0.8)):
        assert method.plan(model, lp.Look(EXAMPLE, clock=Slow())) == method.plan(model, lp.Look(EXAMPLE, clock=TableClock()))


def test_a_latency_target_holds_when_it_is_measured_again() -> None:
    class Flattering(TableClock):
        """In whose comparisons a network seems a percent faster than it is, as noise may have it; its table is hopeful."""

        def layers(self, shapes: Sequence[LayerShape]) -> list[float]:
            return [ms if s.kernel == (3, 3) else 0.8 * ms for ms, s in zip(super().layers(shapes), shapes, strict=True)]

        def ratio(self, model: nn.Module, baseline: nn.Module) -> float:
            return self(model) / self(baseline) / 1.01

    model, clock = net(), Flattering()
    for share in (0.55, 0.65, 0.75, 0.85, 0.9, 0.95):
        small = Factorize(method=("svd", "spatial"), latency=share)(model, lp.Look(EXAMPLE, clock=clock))
        assert clock(small) <= share * clock(model)


@pytest.mark.parametrize("kind", [TableClock, PlainClock])
def test_no_network_that_is_timed_has_a_layer_of_zeros(kind: Any) -> None:
    """Such layers are packed on export, and would seem to take no time."""

    class Watching(kind):  # type: ignore[misc]
        def __call__(self, model: nn.Module) -> float:
            assert all(
                bool((p != 0).all()) for m in model.modules() if isinstance(m, Chain) for p in [c.weight for c in m.chain]
            )
            return float(super().__call__(model))

    Factorize(method=("svd", "tucker2"), latency=0.7).plan(net(), lp.Look(EXAMPLE, clock=Watching()))


def test_a_clock_is_needed_for_latency_and_batches_for_data() -> None:
    with pytest.raises(ConfigError, match="clock"):
        Factorize(latency=0.5).plan(net(), lp.Look(EXAMPLE))
    with pytest.raises(ConfigError, match="batches"):
        Factorize(macs=0.5, whiten=True).plan(net(), lp.Look(EXAMPLE))
    with pytest.raises(ConfigError, match="batches"):
        Factorize(macs=0.5, reconstruct="linear")(net(), lp.Look(EXAMPLE))


@pytest.mark.parametrize(
    "rule", [{"rank": 0.3}, {"rank": "vbmf"}, {"energy": 0.8}, {"error": 0.5}, {"rank": {"layer*.conv1": 8, "layer3.*": 0.25}}]
)
def test_only_what_gets_cheaper_is_factorized_and_the_rest_is_explained(rule: dict[str, Any]) -> None:
    model, method = net(), Factorize(**rule)
    plan, stays = method.plan(model, LOOK), method.explain(model, LOOK)
    layers = {n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert {e.site for e in plan} | set(stays) == layers and not {e.site for e in plan} & set(stays)
    assert plan and macs(method(model, LOOK)) < macs(model)


def test_layers_that_cannot_be_factorized_are_left_with_the_reason() -> None:
    model = zoo.create("mobilenet_v1_32", width=0.25).eval()
    method = Factorize(method="tucker2", rank=0.25)
    look = lp.Look(torch.zeros(1, 3, 32, 32))
    stays = method.explain(model, look)
    depthwise = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert depthwise and all("depthwise" in stays[name] for name in depthwise)
    made = {edit.site: edit.layer for edit in method.plan(model, look) if isinstance(edit, Swap)}
    pointwise = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert {made[name] for name in pointwise if name in made} == {"svd"}


def test_a_network_of_which_nothing_can_be_factorized_says_why() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3, groups=3), nn.ReLU())
    with pytest.raises(ModelError, match="no layer can be factorized: 0: it is depthwise"):
        Factorize(macs=0.9).plan(model, LOOK)


def test_a_shared_weight_and_a_mapped_one_stay() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
    model[2].weight = model[1].weight
    model = perform(model, [lp.core.edits.Map("3", "weight", "support")])
    stays = Factorize(rank=2).explain(model, LOOK)
    assert "another layer" in stays["1"] and "another layer" in stays["2"] and "bake" in stays["3"] and "0" not in stays


def test_without_a_rule_nothing_changes() -> None:
    assert Factorize().plan(net(), LOOK) == []


def test_skipped_layers_stay() -> None:
    method = Factorize(macs=0.6, skip=("conv1", "layer3.*"))
    assert not [e for e in method.plan(net(), LOOK) if e.site.startswith(("conv1", "layer3"))]
    assert method.explain(net(), LOOK)["conv1"] == "it is to be skipped"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank": 4, "macs": 0.5}, "`rank` and `macs` are two"),
        ({"macs": 0.0}, "`macs` (=0.0) is a share above 0"),
        ({"energy": 1.5}, "`energy` (=1.5) is a share"),
        ({"rank": 0}, "`rank` (=0) must be at least 1"),
        ({"rank": -3}, "`rank` (=-3) must be at least 1"),
        ({"rank": {"layer1.*": 0}}, "`rank` (=0) must be at least 1"),
        ({"rank": (4, 0), "method": "tucker2"}, "`rank_in` (=0) must be at least 1"),
        ({"rank": (4, 99), "method": "tucker2", "skip": ("conv1",)}, "`rank_in` (=99) exceeds the layer's largest rank (=16)"),
        ({"latency": 0.0}, "`latency` (=0.0) is a share above 0"),
        ({"params": -0.5}, "`params` (=-0.5) is a share above 0"),
        ({"rank": 2.5}, "write a rank as a whole number"),
        ({"rank": "some"}, "`rank` (=some)"),
        ({"rank": 10_000}, "exceeds the layer's largest rank (="),
        ({"rank": {"nothing*": 2}}, "`rank`: no layer that can be factorized is called `nothing*`"),
        ({"rank": 2, "skip": ("nothing*",)}, "`skip`: no layer is called `nothing*`"),
        ({"rank": (2, 2)}, "does not give them"),
        ({"rank": 2, "allocate": "fair"}, "`allocate` (=fair) is one of max, sum, uniform"),
        ({"rank": 2, "options": {"groups": 2}}, "no option of the form is called `groups`"),
        ({"rank": 2, "method": "separable", "whiten": True}, "`whiten` does nothing for separable"),
        ({"rank": 2, "reconstruct": "some"}, "`reconstruct` (=some)"),
        ({"rank": 2, "multiple": 0}, "`multiple` (=0)"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Factorize(**options).plan(net(), LOOK)
    assert words in str(caught.value)


def test_an_unknown_method_offers_the_known() -> None:
    with pytest.raises(UnknownName, match="Did you mean `tucker2`"):
        Factorize(method="tucker", rank=2).plan(net(), LOOK)


def test_a_budget_below_the_floor_says_where_the_floor_is() -> None:
    with pytest.raises(BudgetError, match=r"`macs` \(=0.001\) is below the floor: at the smallest ranks 0\.\d+ of the cost"):
        Factorize(macs=0.001).plan(net(), LOOK)


def outputs_differ(model: nn.Module, small: nn.Module) -> float:
    with torch.no_grad():
        x = torch.cat([x for x, _ in data()])
        return float((model(x) - small(x)).norm() / model(x).norm())


@pytest.mark.parametrize("name", [n for n in CHEAP if n != "separable"])
def test_whitening_lowers_the_error_of_activations(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 12, 3, bias=False)).eval()
    plain, white = (Factorize(method=name, rank=0.3, skip=("0",), whiten=w)(model, LOOK) for w in (False, True))
    assert outputs_differ(model, white) < outputs_differ(model, plain)


@pytest.mark.parametrize("name", sorted(factor.forms))
def test_reconstruction_lowers_the_error_of_activations(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 12, 3, bias=False)).eval()
    plain, linear = (Factorize(method=name, rank=0.3, skip=("0",), reconstruct=how)(model, LOOK) for how in ("none", "linear"))
    assert outputs_differ(model, linear) < outputs_differ(model, plain)


def test_reconstruction_behind_the_relu_is_better_there() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 1)).eval()
    model[1].running_mean += 0.3
    x = torch.cat([x for x, _ in data()])

    def error(how: str) -> float:
        small = Factorize(rank=5, skip=("3",), reconstruct=how)(model, LOOK)
        with torch.no_grad():
            return float((small[:3](x) - model[:3](x)).norm())

    assert error("relu") < error("linear") < error("none")


def test_reconstruction_at_full_rank_changes_nothing() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    edits = [Swap("0", "svd", {"rank": 8}), Swap("2", "spatial", {"rank": 12})]
    after = perform(model, edits)
    Factorize(rank=2, reconstruct="relu").refit(model, after, LOOK)
    assert outputs_differ(model, after) < 1e-3


def test_a_relu_between_depthwise_and_pointwise_is_fitted() -> None:
    options = {"method": "separable", "options": {"relu": True}, "rank": 4, "skip": ("linear",)}
    model = net()
    plain, fitted = (Factorize(**options, reconstruct=how)(model, LOOK) for how in ("none", "linear"))
    assert outputs_differ(model, fitted) < outputs_differ(model, plain)


def test_factorized_networks_are_factorized_further() -> None:
    model = net()
    first = Factorize(macs=0.7)(model, LOOK)
    second = Factorize(macs=0.7)(first, LOOK)
    assert macs(second) <= 0.7 * macs(first) and not any("." in e.site.rpartition("conv")[2] for e in lp.edits(second))


def test_stages_reach_the_budget_in_equal_parts() -> None:
    steps = stages(Factorize(method="tucker2", macs=0.512), 3, [lp.BatchNorm()])
    assert [s.text() for s in steps[::2]] == ["factor.factorize(macs=0.8, method=tucker2)"] * 3
    assert lp.Recipe(tuple(steps)).check() is None
    parts = stages(Factorize(rank="vbmf"), 2, [])
    assert [part.fields()["strength"] for part in parts[:1]] == [0.5] and parts[1] == Factorize(rank="vbmf")
    with pytest.raises(ConfigError, match="stages need a budget"):
        stages(Factorize(energy=0.5), 2, [])


def test_the_text_holds_everything() -> None:
    method = Factorize(method=("svd", "group"), rank={"a.*": (3, 2), "b": "vbmf"}, options={"groups": 4, "shuffle": True})
    assert parse(method.text()) == method


def test_pruning_and_quantization_see_ordinary_layers() -> None:
    model = Factorize(method="tucker2", macs=0.5)(net(), LOOK)
    pruned = lp.prune.Channels(keep=0.5)(model, LOOK)
    assert macs(pruned) < 0.6 * macs(model)
    small = lp.quant.Quantize()(pruned, LOOK)
    assert small(EXAMPLE).isfinite().all() and lp.profile(small, EXAMPLE).bytes < 0.4 * lp.profile(pruned, EXAMPLE).bytes


@pytest.mark.parametrize("name", sorted(factor.forms))
def test_weights_that_are_all_zero_have_ranks_all_the_same(name: str) -> None:
    model = net()
    for layer in (model.layer1[0].conv1, model.layer2[0].conv2):
        nn.init.zeros_(layer.weight)
    for rule in ({"rank": "vbmf"}, {"energy": 0.9}, {"error": 0.1}, {"macs": 0.7}):
        small = Factorize(method=name, **rule)(model, LOOK)
        assert small(EXAMPLE).isfinite().all()
        for chain in (m for m in small.modules() if isinstance(m, Chain)):
            assert min(chain.ranks_made) >= 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("rule", [{"rank": 2}, {"rank": "vbmf"}, {"macs": 0.7}])
def test_a_weight_that_is_not_finite_stays_and_cannot_be_decomposed(rule: dict[str, Any], bad: float) -> None:
    model = net()
    with torch.no_grad():
        model.layer1[0].conv1.weight[0, 0, 0, 0] = bad
    stays = Factorize(**rule).explain(model, LOOK)
    assert "NaN" in stays["layer1.0.conv1"]
    assert "layer1.0.conv1" not in {edit.site for edit in Factorize(**rule).plan(model, LOOK)}
    with pytest.raises(EditError, match=r"layer1\.0\.conv1: .*NaN"):
        perform(model, [Swap("layer1.0.conv1", "svd", {"rank": 2})])


@pytest.mark.parametrize("allocate", ["sum", "max", "uniform"])
@pytest.mark.parametrize("rule", ["macs", "params"])
def test_below_the_floor_nothing_is_made_and_at_the_floor_that_is_named_it_is(rule: str, allocate: str) -> None:
    with pytest.raises(BudgetError, match="below the floor") as caught:
        Factorize(allocate=allocate, **{rule: 0.01}).plan(net(), LOOK)
    named = float(re.search(r"smallest ranks (\d\.\d+)", str(caught.value)).group(1))  # type: ignore[union-attr]
    made = Factorize(allocate=allocate, **{rule: named})(net(), LOOK)
    assert getattr(lp.profile(made, EXAMPLE), rule) <= named * getattr(lp.profile(net(), EXAMPLE), rule)


def test_a_layer_that_no_form_serves_says_why() -> None:
    stays = Factorize(method="group", options={"groups": 5}, rank=1).explain(net(), LOOK)
    assert "`16` inputs do not fall into `5` groups" in stays["layer1.0.conv1"]
