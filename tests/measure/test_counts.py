"""Counts equal the papers' formulas, whatever way a network computes; looking at a model never changes it."""

from __future__ import annotations

import copy
import json
import sys
from math import prod

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lilliput import zoo
from lilliput.errors import ConfigError, ModelError
from lilliput.measure.counts import Profile, profile
from lilliput.measure.rules import rules

CONVS = {1: (nn.Conv1d, nn.ConvTranspose1d), 2: (nn.Conv2d, nn.ConvTranspose2d), 3: (nn.Conv3d, nn.ConvTranspose3d)}


class Calls(nn.Module):
    """A module whose forward is a given function."""

    def __init__(self, function: object, **parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(self, *inputs)  # type: ignore[operator]


def macs(function: object, *inputs: Tensor) -> int:
    return profile(Calls(lambda _, *x: function(*x)), inputs, batch=1).macs  # type: ignore[operator]


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    dims, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    c1, c2 = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    kernel = [draw(st.integers(1, 3)) for _ in range(dims)]
    stride, dilation = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    kind = CONVS[dims][draw(st.booleans())]
    conv = kind(c1, c2, kernel, stride, 0, groups=groups, dilation=dilation, bias=draw(st.booleans()))
    return conv, torch.ones(1, c1, *(draw(st.integers(5, 7)) for _ in range(dims)))


@settings(max_examples=60)
@given(convolutions())
def test_a_convolution_without_padding_costs_as_many_macs_as_ones_add_up_to(case: tuple[nn.Module, Tensor]) -> None:
    """With all weights and inputs one and no bias, every multiply-add adds exactly one to the output."""
    conv, x = case
    counting = copy.deepcopy(conv)
    with torch.no_grad():
        counting.weight.fill_(1)
        counting.bias = None
        added = int(counting(x).sum())
    assert profile(conv, x).macs == added


@settings(max_examples=30)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 5), st.integers(0, 3), st.integers(1, 2))
def test_products_with_padding_count(groups: int, c: int, k: int, padding: int, stride: int) -> None:
    conv = nn.Conv2d(groups * c, groups * 2, k, stride, padding, groups=groups)
    x = torch.randn(1, groups * c, 9, 8)
    assert profile(conv, x).macs == conv(x).numel() * c * k * k


@settings(max_examples=20)
@given(st.integers(1, 4), st.integers(2, 5), st.integers(2, 5), st.integers(2, 5))
def test_matrix_products(b: int, n: int, m: int, p: int) -> None:
    one, two = torch.randn(n, m), torch.randn(m, p)
    several, others = torch.randn(b, n, m), torch.randn(b, m, p)
    assert macs(torch.matmul, one, two) == n * m * p
    assert macs(torch.bmm, several, others) == b * n * m * p
    assert macs(torch.baddbmm, torch.zeros(b, n, p), several, others) == b * n * m * p
    assert macs(torch.addmm, torch.zeros(n, p), one, two) == n * m * p
    assert macs(torch.mv, one, two[:, 0]) == n * m
    assert macs(torch.dot, two[:, 0], two[:, 0]) == m
    assert macs(lambda a, c: torch.einsum("bij,jk->bik", a, c), several, two) == b * n * m * p
    assert macs(lambda a, c: torch.einsum("bij,bjk->bik", a, c), several, others) == b * n * m * p
    assert macs(F.linear, several, two.t()) == b * n * m * p


@pytest.mark.parametrize("causal", [False, True])
def test_attention_costs_both_products(causal: bool) -> None:
    q, k, v = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 4)
    assert macs(lambda *x: F.scaled_dot_product_attention(*x, is_causal=causal), q, k, v) == 2 * 3 * 5 * 7 * (8 + 4)


@pytest.mark.parametrize("same", [False, True])
def test_an_attention_layer_is_seen_through(same: bool) -> None:
    """On its fast path PyTorch would run the layer as one operation."""
    layer = nn.MultiheadAttention(8, 2, batch_first=True)
    x, y = torch.randn(1, 5, 8), torch.randn(1, 5, 8)
    found = profile(layer, (x, x, x) if same else (x, y, y))
    assert found.macs == 4 * 5 * 8 * 8 + 2 * 5 * 5 * 8
    assert not found.uncounted and torch.backends.mha.get_fastpath_enabled()


def test_a_transformer_layer_is_seen_through() -> None:
    found = profile(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), torch.randn(2, 5, 8))
    assert found.macs == 4 * 5 * 8 * 8 + 2 * 5 * 5 * 8 + 2 * 5 * 8 * 16 and not found.uncounted


def test_a_recurrent_layer_costs_its_matrices_once_a_step() -> None:
    found = profile(nn.LSTM(4, 5, num_layers=2), torch.randn(3, 2, 4), batch=2)
    assert found.macs == 3 * (20 * 4 + 20 * 5 + 20 * 5 + 20 * 5)


def test_resnet20_has_the_published_counts() -> None:
    """0.27 M parameters and 41 M multiply-adds: He et al. 2015, arXiv:1512.03385, section 4.2."""
    found = profile(zoo.create("resnet20"), torch.randn(1, 3, 32, 32))
    assert found.params == 269_722
    assert found.macs == 40_551_040  # stem, three stages of 18·2.359 M less the strided halves, head
    assert not found.uncounted
    statistics = 2 * 4 * (16 * 7 + 32 * 6 + 64 * 6) + 8 * 19
    assert found.bytes == 4 * found.params + statistics


def test_totals_are_sums_of_layers() -> None:
    found = profile(zoo.create("resnet8"), torch.randn(1, 3, 32, 32))
    for field in ("params", "macs", "effective_macs", "bytes"):
        assert getattr(found, field) == sum(getattr(layer, field) for layer in found.layers)
    assert found.peak_activation_bytes == max(layer.peak_activation_bytes for layer in found.layers)
    assert found.layers[0].name == "conv1" and found.layers[0].kind == "Conv2d"
    assert found.layers[0].input_shape == (1, 3, 32, 32) and found.layers[0].output_shape == (1, 16, 32, 32)


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_counts_are_of_one_example(batch: int) -> None:
    model = zoo.create("resnet8")
    one, many = profile(model, torch.randn(1, 3, 32, 32)), profile(model, torch.randn(batch, 3, 32, 32))
    assert one.macs == many.macs and one.peak_activation_bytes == many.peak_activation_bytes


def test_a_model_on_meta_counts_the_same() -> None:
    model, x = zoo.create("resnet8"), torch.randn(2, 3, 32, 32)
    real, meta = profile(model, x), profile(copy.deepcopy(model).to("meta"), x)
    assert [(a.name, a.macs, a.params, a.bytes) for a in real.layers] == [
        (a.name, a.macs, a.params, a.bytes) for a in meta.layers
    ]
    assert meta.peak_activation_bytes == pytest.approx(real.peak_activation_bytes, rel=0.01)


def test_fake_tensors_count_the_same() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    real = profile(zoo.create("resnet8"), torch.randn(1, 3, 32, 32))
    with FakeTensorMode():
        fake = profile(zoo.create("resnet8"), torch.randn(1, 3, 32, 32))
    assert (fake.macs, fake.effective_macs, fake.params) == (real.macs, real.macs, real.params)


def test_a_shared_module_counts_each_call_and_its_parameters_once() -> None:
    conv = nn.Conv2d(4, 4, 3, padding=1)
    found = profile(Calls(lambda m, x: m.one(m.two(m.one(x))), one=conv, two=conv), torch.randn(1, 4, 6, 6))
    assert [(layer.name, layer.calls) for layer in found.layers] == [("one", 3)]
    assert found.macs == 3 * 36 * 4 * 4 * 9 and found.params == 4 * 4 * 9 + 4


def test_a_tied_weight_is_one_parameter() -> None:
    one, two = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
    two.weight = one.weight
    found = profile(nn.Sequential(one, two), torch.randn(1, 6))
    assert (found.params, found.bytes, found.macs) == (36, 144, 72)


def test_functional_calls_belong_to_the_module_that_makes_them() -> None:
    inner = Calls(lambda m, x: F.conv2d(x, torch.ones(2, 3, 1, 1)) @ torch.ones(5, 5))
    found = profile(nn.Sequential(inner, nn.ReLU()), torch.randn(1, 3, 5, 5))
    assert {layer.name: layer.macs for layer in found.layers} == {"0": 25 * 6 + 2 * 125, "1": 0}


def test_a_part_that_is_used_but_never_called_still_owns_its_parameters() -> None:
    found = profile(Calls(lambda m, x: F.linear(x, m.part.weight), part=nn.Linear(3, 4)), torch.randn(1, 3))
    assert {layer.name: (layer.params, layer.macs, layer.calls) for layer in found.layers} == {
        "": (0, 12, 1),
        "part": (16, 0, 0),
    }


def test_inference_mode_hands_over_whole_layers_and_changes_nothing() -> None:
    model, x = zoo.create("resnet8"), torch.randn(1, 3, 32, 32)
    outside = profile(model, x)
    with torch.inference_mode():
        assert profile(model, x).macs == outside.macs


def test_positional_and_named_examples() -> None:
    add = Calls(lambda m, a, b: m.left(a) + m.right(b), left=nn.Linear(2, 4), right=nn.Linear(3, 4))
    assert profile(add, (torch.randn(1, 2), torch.randn(1, 3))).macs == 8 + 12
    named = nn.MultiheadAttention(8, 2)
    x = torch.randn(5, 1, 8)
    assert profile(named, {"query": x, "key": x, "value": x}, batch=1).macs > 0


def test_zero_weights_leave_effective_macs() -> None:
    conv = nn.Conv2d(4, 8, 3)
    with torch.no_grad():
        conv.weight[:6] = 0
    found = profile(nn.Sequential(conv, nn.Flatten(), nn.Linear(128, 10)), torch.randn(1, 4, 6, 6))
    assert found.layers[0].density == 0.25
    assert found.macs - found.effective_macs == found.layers[0].macs * 3 // 4


def test_a_mask_written_by_hand_is_seen() -> None:
    mask = torch.zeros(4, 4)
    mask[0] = 1
    model = Calls(lambda m, x: F.linear(x, m.part.weight * m.mask), part=nn.Linear(4, 4))
    model.register_buffer("mask", mask)
    assert profile(model, torch.randn(1, 4)).effective_macs == 4


def test_what_cannot_be_counted_is_named_with_its_number() -> None:
    def odd(_: nn.Module, x: Tensor) -> Tensor:
        return torch.cdist(x, x) + torch.fft.fft(torch.fft.fft(x)).real[:, :1]

    found = profile(Calls(odd), torch.randn(3, 4))
    assert found.uncounted == {"aten::_cdist_forward": 1, "aten::_fft_c2c": 1, "aten::_fft_r2c": 1}
    last = str(found).splitlines()[-1]
    assert last == "Could not be counted: aten::_cdist_forward (1x), aten::_fft_c2c (1x), aten::_fft_r2c (1x)."


FREE = {
    "elementwise": lambda x: (x * 2 + x.sigmoid()).clamp(0, 6).mul_(3),
    "activations": lambda x: F.gelu(F.hardswish(F.silu(F.leaky_relu(F.elu(F.relu6(x, True)), 0.1, True)), True)),
    "gates": lambda x: F.prelu(F.rrelu(F.hardsigmoid(F.softplus(F.mish(F.logsigmoid(F.glu(x, 1)))))), x[0, 0, 0, :1]),
    "softmax": lambda x: F.log_softmax(x.softmax(1), 1),
    "norms": lambda x: F.layer_norm(F.group_norm(F.instance_norm(x), 2), x.shape[1:]) + F.normalize(x),
    "local response": lambda x: F.local_response_norm(x, 3),
    "pools": lambda x: F.avg_pool2d(F.max_pool2d(x, 2), 2) + F.adaptive_avg_pool2d(F.adaptive_max_pool2d(x, 2), 2),
    "reductions": lambda x: x.mean((2, 3)).sum() + x.amax() + x.var() + x.norm() + x.prod(),
    "resize": lambda x: F.interpolate(F.interpolate(x, scale_factor=2), size=8, mode="bilinear"),
    "pads": lambda x: F.pad(F.pad(F.pad(x, (1,) * 4), (1,) * 4, "reflect"), (1,) * 4, "circular"),
    "layout": lambda x: torch.cat([x, x.flip(1)], 1).permute(0, 2, 3, 1).reshape(1, -1).contiguous(),
    "split": lambda x: torch.stack([*x.chunk(2, 1), *x.split(2, 1)]).roll(1, 0).repeat(1, 2, 1, 1, 1),
    "shuffles": lambda x: F.pixel_unshuffle(F.channel_shuffle(F.pixel_shuffle(x, 2), 1), 2),
    "indexing": lambda x: x[:, [0, 1]].gather(1, x[:, :2].long() * 0).index_select(1, torch.tensor([0])),
    "patches": lambda x: F.fold(F.unfold(x, 2, stride=2), (8, 8), 2, stride=2),
    "order": lambda x: x.sort().values + x.topk(8).values + x.cumsum(3),
    "masks": lambda x: torch.where(x > 0, x, x.masked_fill(x < 0, 1)).tril(),
    "new": lambda x: torch.zeros_like(x) + torch.ones(8) + torch.arange(8) + torch.rand_like(x) + torch.full((8,), 2.0),
    "dropout": lambda x: F.dropout(x, 0.5) + F.dropout2d(x, 0.5),
    "types": lambda x: x.half().float().to(torch.int8).int().bool().double(),
}


@pytest.mark.parametrize("name", FREE)
def test_known_free_operations_cost_nothing_and_are_known(name: str) -> None:
    found = profile(Calls(lambda _, x: FREE[name](x)), torch.rand(1, 4, 8, 8))  # type: ignore[no-untyped-call]
    assert (found.macs, found.uncounted) == (0, {})


def test_an_operator_of_another_library_gets_a_rule() -> None:
    name = "lilliput_test_counts::twice"
    library = torch.library.Library("lilliput_test_counts", "DEF")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: x * 2, "CompositeExplicitAutograd")
    double = Calls(lambda _, x: torch.ops.lilliput_test_counts.twice(x))
    assert profile(double, torch.randn(1, 5)).uncounted == {name: 1}
    rules.add(name, lambda out, x: 7 * out.numel())
    assert profile(double, torch.randn(1, 5)).macs == 35
    del rules._entries[name]


class Restless(nn.Module):
    """Writes wherever a forward can write."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.frozen = nn.BatchNorm2d(3).eval()
        self.scale = nn.Parameter(torch.ones(3))
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("last", torch.zeros(1))
        self.note = "before"

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2)
        self.seen += 1
        self.last = x.mean().reshape(1)
        self.scale.data.add_(1)
        self.note, self.fresh = "after", x
        self.register_buffer("extra", torch.ones(2))
        F.batch_norm(x, self.norm.running_mean, self.norm.running_var, training=True)
        return self.frozen(self.norm(x)) + torch.rand(1)


def test_looking_changes_nothing() -> None:
    model, x = Restless(), torch.randn(2, 3, 4, 4)
    kept, state, random = x.clone(), copy.deepcopy(model.state_dict()), torch.get_rng_state()
    modes = [m.training for m in model.modules()]
    attributes = [dict(vars(m)) for m in model.modules()]
    profile(model, x)
    assert torch.equal(x, kept) and torch.equal(torch.get_rng_state(), random)
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(model.state_dict()[k], v) for k, v in state.items())
    assert [m.training for m in model.modules()] == modes == [True, True, False]
    assert [dict(vars(m)) for m in model.modules()] == attributes and model.note == "before"
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_a_failed_forward_names_the_layer_and_changes_nothing() -> None:
    model = zoo.create("resnet8").train()
    with pytest.raises(ModelError, match=r"conv1: .*The example is of shape `\(1, 5, 32, 32\)`"):
        profile(model, torch.randn(1, 5, 32, 32))
    assert all(m.training for m in model.modules())
    assert profile(model, torch.randn(1, 3, 32, 32)).macs > 0
    assert not torch.nn.modules.module._global_forward_hooks


def test_bad_calls_are_refused() -> None:
    with pytest.raises(ConfigError, match="`batch`"):
        profile(nn.ReLU(), torch.ones(1), batch=0)
    with pytest.raises(ModelError, match="has no shape yet"):
        profile(nn.LazyLinear(3), torch.ones(1, 2))


def test_what_a_module_catches_does_not_confuse_the_places() -> None:
    def tries(m: nn.Module, x: Tensor) -> Tensor:
        try:
            m.bad(x)
        except RuntimeError:
            return m.good(x)
        raise AssertionError

    model = nn.Sequential(Calls(tries, bad=nn.Sequential(nn.Linear(9, 9)), good=nn.Linear(3, 4)), nn.Linear(4, 5))
    found = profile(model, torch.randn(1, 3))
    assert {layer.name: layer.macs for layer in found.layers if layer.macs} == {"0.good": 12, "1": 20}


def test_a_compiled_model_is_profiled_as_what_it_was() -> None:
    model = nn.Sequential(nn.Linear(3, 4))
    compiled = torch.compile(model, backend="eager")
    assert profile(compiled, torch.randn(1, 3)) == profile(model, torch.randn(1, 3))


def test_json_is_plain_and_complete() -> None:
    found = profile(zoo.create("resnet8"), torch.randn(1, 3, 32, 32))
    read = json.loads(json.dumps(found.to_json()))
    assert read["macs"] == found.macs and read["uncounted"] == {}
    assert [layer["name"] for layer in read["layers"]] == [layer.name for layer in found.layers]
    assert read["layers"][0]["density"] == 1.0


def test_the_table_has_every_working_layer_and_the_totals() -> None:
    found = profile(zoo.create("resnet8"), torch.randn(1, 3, 32, 32))
    lines = str(found).splitlines()
    assert all(any(line.split()[:1] == [layer.name] for line in lines) for layer in found.layers if layer.macs)
    assert any(line.split()[:1] == ["total"] for line in lines)
    assert lines[-1] == "Every operation was counted."
    assert isinstance(found, Profile) and found.__rich__() is not None


def test_the_whole_is_what_the_layers_formulas_say() -> None:
    model = zoo.create("resnet20")
    found = {layer.name: layer for layer in profile(model, torch.randn(1, 3, 32, 32)).layers}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            out = found[name].output_shape
            assert out is not None
            assert found[name].macs == prod(out) * module.in_channels // module.groups * prod(module.kernel_size)


PEERS = ["resnet20", "mobilenet_v2_32", "shufflenet_v2_32", "ghostnet_32"]


@pytest.mark.parametrize("name", PEERS)
def test_fvcore_agrees(name: str) -> None:
    analysis = pytest.importorskip("fvcore.nn", reason="fvcore is not installed")
    model, x = zoo.create(name).eval(), torch.randn(1, 3, 32, 32)
    theirs = analysis.FlopCountAnalysis(model, x).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    counted = theirs.by_operator()
    assert profile(model, x).macs == sum(counted[kind] for kind in ("conv", "linear", "matmul"))


@pytest.mark.parametrize("name", PEERS)
def test_ptflops_agrees(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """ptflops adds biases, norms, activations and pools, a few percent here. It can do without torchvision."""
    monkeypatch.setitem(sys.modules, "torchvision", None)  # type: ignore[arg-type]
    ptflops = pytest.importorskip("ptflops", reason="ptflops is not installed")
    model = zoo.create(name).eval()
    theirs, params = ptflops.get_model_complexity_info(
        model, (3, 32, 32), as_strings=False, print_per_layer_stat=False, backend="pytorch"
    )
    ours = profile(model, torch.randn(1, 3, 32, 32))
    assert params == ours.params and ours.macs <= theirs <= 1.07 * ours.macs
