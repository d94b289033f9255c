"""What every quantizer of weights keeps, whatever the weight; and the formulas each one claims."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from low_bit_specs import KERNELS, SPECS, fitted, weights
from torch import Tensor, nn

from lilliput.core.edits import Map, Resize
from lilliput.core.perform import perform
from lilliput.errors import EditError
from lilliput.quant.clusters import line, nearest, vectors
from lilliput.quant.frequency import transform
from lilliput.quant.powers import sums
from lilliput.quant.straight import straight

EVERY = [*SPECS, *KERNELS]


def example(name: str) -> Tensor:
    return torch.randn(6, 3, 3, 3, generator=torch.Generator().manual_seed(1)) * 0.4


def gradient(q: Any, w: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A drawn gradient of the output, and what arrives at the weight."""
    g = torch.randn(w.shape, generator=torch.Generator().manual_seed(seed))
    latent = w.clone().requires_grad_()
    q(latent).backward(g)
    assert latent.grad is not None
    return g, latent.grad


@pytest.mark.parametrize(("name", "spec"), SPECS, ids=str)
@settings(max_examples=15)
@given(w=weights())
def test_laws(name: str, spec: dict[str, Any], w: Tensor) -> None:
    hold(name, spec, w)


@pytest.mark.parametrize(("name", "spec"), KERNELS, ids=str)
@settings(max_examples=15)
@given(w=weights(kernels=True))
def test_laws_of_kernels(name: str, spec: dict[str, Any], w: Tensor) -> None:
    hold(name, spec, w)


def hold(name: str, spec: dict[str, Any], w: Tensor) -> None:
    q: Any = fitted(name, w, **spec)
    once, codes = q(w).detach(), q.encode(w)
    assert once.shape == w.shape and once.dtype == w.dtype
    assert torch.equal(q.decode(codes), once)  # what a file gives back is what was computed
    assert torch.equal(q(once), once)
    assert codes.values.shape == w.shape and not codes.values.is_floating_point()
    assert codes.low <= int(codes.values.min()) <= int(codes.values.max()) <= codes.high


@pytest.mark.parametrize(("name", "spec"), SPECS, ids=str)
@settings(max_examples=10)
@given(w=weights())
def test_levels_are_at_most_two_to_the_bits(name: str, spec: dict[str, Any], w: Tensor) -> None:
    q: Any = fitted(name, w, **spec)
    y = q(w).detach()
    if name == "pq":
        assert len(y.reshape(-1, q.size).unique(dim=0)) <= 2 ** round(q.bits * q.size)
        return
    by_filter = spec.get("axis", 0 if name in ("bwn", "birealnet", "irnet") else None) == 0 or spec.get("groups")
    for part in y if by_filter else [y]:
        assert len(part.unique()) <= 2**q.bits


@pytest.mark.parametrize(("name", "spec"), EVERY, ids=str)
def test_structure_on_meta_and_state_dict_are_the_quantizer(name: str, spec: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)).eval()
    edits = [Map("0", "weight", name, spec)]
    made = perform(model, edits)
    shell = perform(model.to("meta"), edits, weights=False).to_empty(device="cpu")
    shell.load_state_dict(made.state_dict())
    assert torch.equal(shell[0].mapped_weight(), made[0].mapped_weight())


@pytest.mark.parametrize(("name", "spec"), EVERY, ids=str)
def test_quantizers_follow_channels_that_leave(name: str, spec: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = perform(nn.Sequential(nn.Conv2d(4, 6, 3)).eval(), [Map("0", "weight", name, spec)])
    small = perform(model, [Resize("0", "out", (0, 2, 5)), Resize("0", "in", (1, 3))])
    if name in ("pq",) and spec.get("size", 9) != 9:
        return  # runs across channels are other vectors now
    y = small[0].mapped_weight()
    assert y.shape == (3, 2, 3, 3) and torch.isfinite(y).all()
    if name in ("kmeans", "cnnpack", "ttq", "inq", "lognet"):  # levels that the map holds do not move
        kept = model[0].mapped_weight()[[0, 2, 5]][:, [1, 3]]
        assert torch.equal(y, kept) or name == "ttq"


@given(w=weights(), factor=st.floats(0.5, 1.5))
def test_the_scale_of_binary_weights_is_the_optimum(w: Tensor, factor: float) -> None:
    def error(scale: Tensor) -> Tensor:
        return (w - scale * torch.where(w >= 0, 1.0, -1.0)).square().flatten(1).sum(1)

    best = fitted("bwn", w).encode(w).side["scale"]
    assert (error(best) <= error(best * factor) * (1 + 1e-5)).all()


@pytest.mark.parametrize("draw", ["normal", "uniform"])
def test_the_threshold_of_ternary_weights_is_near_the_optimum(draw: str) -> None:
    generator = torch.Generator().manual_seed(0)
    size = (4000,)
    w = torch.randn(size, generator=generator) if draw == "normal" else torch.rand(size, generator=generator) * 2 - 1

    def error(kept: int) -> float:
        """The least squared error when so many of the largest weights are not zero: the scale is their mean."""
        return float(w.square().sum() - descending[:kept].sum() ** 2 / kept)

    descending = w.abs().sort(descending=True).values
    best = min(range(1, len(w) + 1), key=error)
    q = fitted("twn", w[:, None])
    found = float((q(w[:, None])[:, 0] - w).square().sum())
    assert found <= 1.01 * error(best)
    assert math.isclose(0.7 * float(w.abs().mean()), float(descending[best]), rel_tol=0.15)
    nonzero = q(w[:, None])[:, 0] != 0
    assert math.isclose(found, error(int(nonzero.sum())), rel_tol=1e-4)  # the scale is the best for this threshold


def test_clipping_needs_no_gradient_beyond_one() -> None:
    w = torch.tensor([[-2.0, -0.5, 0.3, 1.5]])
    g, arrived = gradient(fitted("twn", w), w)
    assert torch.equal(arrived, g * (w.abs() <= 1))
    g, arrived = gradient(fitted("birealnet", w), w)
    assert torch.allclose(arrived, g * w.abs().mean() * (w.abs() <= 1))
    g, arrived = gradient(fitted("binaryconnect", w), w)
    assert torch.equal(arrived, g)


def test_the_gradient_of_bwn() -> None:
    w = example("bwn") * 2
    g, arrived = gradient(fitted("bwn", w), w)
    for each, filter, found in zip(g, w, arrived, strict=True):
        signs = torch.where(filter >= 0, 1.0, -1.0)
        expected = filter.abs().mean() * each * (filter.abs() <= 1) + signs * (each * signs).sum() / filter.numel()
        assert torch.allclose(found, expected, atol=1e-6)


def test_the_gradient_of_irnet() -> None:
    w = example("irnet")
    q: Any = fitted("irnet", w)
    q.t = 2.5
    g, arrived = gradient(q, w)
    for each, filter, found in zip(g, w, arrived, strict=True):
        n, v = filter.numel(), (filter - filter.mean()) / filter.std(correction=0)
        inner = each * q(w).abs().max() * 2.5 * (1 - torch.tanh(2.5 * v) ** 2)
        expected = (inner - inner.mean() - v * (inner * v).sum() / n) / filter.std(correction=0)
        assert torch.allclose(found, expected, atol=1e-5)


def test_the_gradients_of_ttq() -> None:
    w = example("ttq")
    q: Any = fitted("ttq", w, threshold=0.3)
    g, arrived = gradient(q, w)
    limit, (p, n) = 0.3 * w.abs().max(), q.scales.detach()
    slopes = torch.where(w > limit, p, torch.where(w < -limit, n, 1.0))
    assert torch.allclose(arrived, g * slopes)
    sums = torch.stack([g[w > limit].sum(), -g[w < -limit].sum()])
    assert torch.allclose(q.scales.grad, sums / math.sqrt(w.numel()), atol=1e-5)


@pytest.mark.parametrize("normalize", [True, False])
def test_the_gradients_of_apot(normalize: bool) -> None:
    w = example("apot")
    q: Any = fitted("apot", w, bits=3, normalize=normalize)
    g, arrived = gradient(q, w)
    deviation = w.std(correction=0) if normalize else torch.ones(())
    u, end = ((w - w.mean()) / deviation if normalize else w), q.end.detach()
    inside = u.abs() <= end
    assert not inside.all() and torch.allclose(arrived, g * inside / deviation, atol=1e-5)
    slopes = torch.where(inside, (q(w) - u) / end, u.sign())
    assert torch.allclose(q.end.grad, (g * slopes).sum(), atol=1e-4)


@pytest.mark.parametrize(("name", "spec"), [("lognet", {}), ("cnnpack", {"centers": 3})])
def test_gradients_that_pass_as_they_are(name: str, spec: dict[str, Any]) -> None:
    w = example(name)
    g, arrived = gradient(fitted(name, w, **spec), w)
    assert torch.equal(arrived, g)


def test_the_gradient_of_abcnet() -> None:
    w = example("abcnet")
    q: Any = fitted("abcnet", w)
    g, arrived = gradient(q, w)
    assert torch.allclose(arrived, g * q.alpha.sum())


@pytest.mark.parametrize("more", [{}, {"groups": 2}, {"zero": True}, {"train": "both"}], ids=str)
def test_centroids_learn_by_summed_gradients(more: dict[str, Any]) -> None:
    w = example("kmeans")
    w[0, 0] = 0
    q: Any = fitted("kmeans", w, bits=2, **more)
    g, arrived = gradient(q, w)
    y, expected = q(w).detach(), torch.zeros_like(q.codebook)
    for group, place in itertools.product(*map(range, q.codebook.shape)):
        belongs = (y == q.codebook[group, place]) & (q.group == group).view(-1, 1, 1, 1)
        expected[group, place] = g[belongs].sum()
    assert torch.allclose(q.codebook.grad, expected, atol=1e-5)
    assert torch.equal(arrived, g if more.get("train") else torch.zeros_like(g))


def test_vectors_learn_by_summed_gradients() -> None:
    w = example("pq")
    q: Any = fitted("pq", w, centroids=4)
    g, arrived = gradient(q, w)
    runs, expected = g.reshape(-1, 9), torch.zeros_like(q.codebook)
    for run, value in zip(runs, q(w).detach().reshape(-1, 9), strict=True):
        expected[int((q.codebook == value).all(1).nonzero()[0])] += run
    assert torch.allclose(q.codebook.grad, expected, atol=1e-5) and not arrived.any()


def test_inq_rounds_as_the_paper_writes() -> None:
    w = torch.tensor([[1.49, 0.76, 0.74, 0.38, 0.37, 0.19, 0.18, 0.09, 0.06, -0.75, -1.4, 0.0]])
    q = fitted("inq", w, bits=4)  # 1, 1/2, 1/4, 1/8 and their opposites, and 0
    assert q(w).tolist() == [[1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0, -1, -1, 0]]


def test_inq_leaves_open_what_is_open() -> None:
    w = example("inq").requires_grad_()
    q: Any = fitted("inq", w.detach())
    q.done = w.detach().abs() > 0.3
    y = q(w)
    assert torch.equal(y[~q.done], w[~q.done]) and q.bits == 32
    y.sum().backward()
    assert w.grad is not None and torch.equal(w.grad, (~q.done).float())


def test_lognet_rounds_in_the_logarithm() -> None:
    w = torch.tensor([[1.0, 0.8, 0.7, 0.36, 0.34, 0.18, 0.1, -0.6, 0.0]])
    assert fitted("lognet", w, bits=3)(w).tolist() == [[1, 1, 0.5, 0.5, 0.25, 0.25, 0, -0.5, 0]]


def test_additive_powers_of_two() -> None:
    every = {a + b for a in (0, 1, 2**-2, 2**-4) for b in (0, 2**-1, 2**-3, 2**-5)}
    assert sums(4) == [level / 1.5 for level in sorted(every)]
    assert len(sums(6)) == 64 and sums(1) == [0, 1]


def test_bases_are_least_squares() -> None:
    w = example("abcnet")
    errors = [float((fitted("abcnet", w, bits=m)(w) - w).square().sum()) for m in (1, 2, 3, 5)]
    assert errors == sorted(errors, reverse=True)
    q: Any = fitted("abcnet", w, bits=2)
    basis = torch.stack([torch.where(w >= w.mean() + u * w.std(correction=0), 1.0, -1.0).flatten() for u in (-1, 1)], 1)
    expected = torch.linalg.lstsq(basis, w.flatten()[:, None]).solution[:, 0]
    assert torch.allclose(q.alpha, expected, atol=1e-5)


def test_bases_follow_the_weight_while_training() -> None:
    w = example("abcnet")
    q: Any = fitted("abcnet", w).train()
    before = q.alpha.clone()
    q((2 * w).requires_grad_())
    assert torch.allclose(q.alpha, 2 * before, rtol=1e-5)


def test_stochastic_signs_are_drawn_in_training_only() -> None:
    w = torch.full((4000, 1), 0.5)
    q = fitted("binaryconnect", w, draws="stochastic")
    assert (q(w) == 1).all()
    torch.manual_seed(0)
    assert abs(float((q.train()(w) == 1).float().mean()) - 0.75) < 0.03
    signs = torch.where(w > 0, 1.0, -1.0)
    assert torch.equal(q(signs), signs)


@pytest.mark.parametrize("start", ["linear", "density", "random"])
def test_lloyd_ends_where_nothing_moves(start: str) -> None:
    values = torch.randn(500, generator=torch.Generator().manual_seed(0))
    found = line(values, 8, start, rounds=1000)
    owners = (values[:, None] - found).abs().argmin(1)
    means = torch.stack([values[owners == k].mean() for k in range(8)])
    assert torch.allclose(found, means, atol=1e-5) and torch.equal(found, found.sort().values)


def test_well_apart_clusters_are_found() -> None:
    truth = torch.tensor([[0.0, 0, 0], [5, 0, 0], [0, 5, 0]])
    found = vectors(truth, 3, seed=1)
    assert sorted(found.tolist()) == sorted(truth.tolist()) and nearest(truth, truth).tolist() == [0, 1, 2]
    for values in ([0.0, 0, 1, 1, 5, 5], [0.0, 1, 5]):
        assert line(torch.tensor(values), 3, "density").tolist() == [0, 1, 5]


def test_neighbouring_floats_are_different_centroids() -> None:
    a = torch.tensor(0.1)
    b = torch.nextafter(a, torch.tensor(1.0))
    q: Any = fitted("kmeans", torch.stack([a, b, a, b])[:, None], bits=1)
    q.codebook.data = torch.stack([a, b])[None]
    w = torch.stack([a, b])[:, None]
    assert torch.equal(q(w), w)


@pytest.mark.parametrize("size", [2, 3, 5, 7])
def test_the_cosine_transform_is_orthonormal(size: int) -> None:
    kernels = torch.randn(4, 2, size, size, dtype=torch.float64)
    spectrum = transform(kernels)
    assert torch.allclose(transform(spectrum, inverse=True), kernels)
    assert torch.allclose(spectrum.square().sum(), kernels.square().sum())
    assert torch.allclose(transform(torch.ones(1, 1, size, size))[0, 0, 0, 0], torch.tensor(float(size), dtype=torch.float64))


def test_cnnpack_accounts_for_its_parts() -> None:
    w = example("cnnpack")
    q: Any = fitted("cnnpack", w, bits=4, centers=4)
    codes = q.encode(w)
    assert float((q(w) - w).abs().max()) < 2 * float(q.step)
    shares = torch.bincount((codes.values + 7).flatten().long()).double() / w.numel()
    entropy = -float((shares[shares > 0] * shares[shares > 0].log2()).sum())
    bits = entropy * w.numel() + 2 * 18 + 16 * 4 * 9 + 32
    assert math.isclose(q.ratio(w), 32 * w.numel() / bits, rel_tol=1e-6)
    assert fitted("cnnpack", w, bits=4, centers=4, dead=3).encode(w).values.abs().unique().tolist()[:2] == [0, 3]


def test_values_stand_in_front_of_gradients() -> None:
    x = torch.tensor([1e8, 1.0], requires_grad=True)
    value = torch.tensor([1.0, 0.1])
    y = straight(value, 3 * x)
    assert torch.equal(y, value)
    y.sum().backward()
    assert torch.equal(x.grad, torch.tensor([3.0, 3.0]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "spec", "message"),
    [
        ("binaryconnect", {"draws": "never"}, "`draws` \\(=never\\) is deterministic or stochastic"),
        ("bwn", {"axis": 1}, "`axis` \\(=1\\) is 0, one scale a filter, or none"),
        ("bwn", {"bits": 2}, "cannot be made with"),
        ("ttq", {"threshold": 1.0}, "`threshold` \\(=1.0\\) is a share"),
        ("inq", {"bits": 1}, "`inq` has no `bits` \\(=1\\); there are 2, 3, 4, 5, 6, 7"),
        ("lognet", {"base": 3}, "`base` \\(=3\\) is 2, or 1.414"),
        ("apot", {"bits": 6}, "`apot` has no `bits` \\(=6\\); there are 2, 3, 4, 5, 7"),
        ("abcnet", {"bits": 6}, "`abcnet` has no `bits` \\(=6\\)"),
        ("kmeans", {"bits": 8}, "`bits` \\(=8\\) make 256 values for the 162 weights of a group; take at most 7"),
        ("kmeans", {"groups": 7}, "`groups` \\(=7\\) is from 1 to the 6 output channels"),
        ("kmeans", {"start": "zero"}, "`start` \\(=zero\\) is one of linear, density, random"),
        ("kmeans", {"bits": 1, "codebook": [1.0]}, "`codebook` has 1 values, and `bits` \\(=1\\) make 2"),
        ("kmeans", {"train": "all"}, "`train` \\(=all\\) is one of centroids, both"),
        ("pq", {"size": 4}, "`size` \\(=4\\) does not divide the 27 weights of a filter; 1, 3, 9, 27 do"),
        ("pq", {"centroids": 12}, "`centroids` \\(=12\\) is a power of two"),
        ("pq", {"centroids": 64}, "`centroids` \\(=64\\) are more than the 18 vectors of the layer; take 16"),
        ("cnnpack", {"centers": 19}, "`centers` \\(=19\\) is from 1 to 18, for the 18 kernels"),
        ("cnnpack", {"bits": 3, "dead": 4, "centers": 2}, "`dead` \\(=4\\) is from 1 to 3"),
    ],
)
def test_specs_that_cannot_be_are_refused_with_the_site(name: str, spec: dict[str, Any], message: str) -> None:
    with pytest.raises(EditError, match=f"^0: .*{message}"):
        perform(nn.Sequential(nn.Conv2d(3, 6, 3)), [Map("0", "weight", name, spec)])


@pytest.mark.parametrize(("name", "spec"), EVERY, ids=str)
def test_a_weight_that_is_not_finite_is_refused(name: str, spec: dict[str, Any]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3))
    nn.init.constant_(model[0].weight, float("nan"))
    with pytest.raises(EditError, match="0: the weight holds NaN"):
        perform(model, [Map("0", "weight", name, spec)])


def test_kernels_of_one_weight_have_no_frequencies() -> None:
    with pytest.raises(EditError, match=r"0: .*larger than 1x1"):
        perform(nn.Sequential(nn.Linear(3, 6)), [Map("0", "weight", "cnnpack")])
