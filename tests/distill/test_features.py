"""Losses of features and relations against their formulas written afresh, in plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lilliput import distill
from lilliput.distill.contrast import EPSILON, contrast
from lilliput.distill.review import hierarchical
from lilliput.errors import ConfigError

SEEDS = st.integers(0, 1000)


def features(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=draw, dtype=torch.double) for shape in shapes]


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).sum())


def huber(e: float) -> float:
    return e * e / 2 if abs(e) < 1 else abs(e) - 0.5


@given(SEEDS)
def test_hints_are_squared_differences(seed: int) -> None:
    s, t = features(seed, (2, 3, 4, 4), (2, 3, 4, 4))
    assert float(distill.Hints()([s], [t])) == pytest.approx(float(np.mean((s.numpy() - t.numpy()) ** 2)))
    larger = t.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert float(distill.Hints()([s], [larger])) == pytest.approx(float(distill.Hints()([s], [t])))


@given(SEEDS, st.floats(1, 4))
def test_attention_compares_maps_of_length_1(seed: int, power: float) -> None:
    s, t = features(seed, (3, 2, 4, 4), (3, 5, 4, 4))
    expected = 0.0
    for i in range(3):
        maps = [unit((np.abs(x[i].numpy()) ** power).mean(0)) for x in (s, t)]
        expected += ((maps[0] - maps[1]) ** 2).sum() / (3 * 16)
    assert float(distill.Attention(power=power)([s], [t])) == pytest.approx(expected, abs=1e-12)


@given(SEEDS)
def test_flow_is_a_gram_matrix_between_two_layers(seed: int) -> None:
    s, t = (features(seed + k, (2, 3, 4, 4), (2, 5, 2, 2)) for k in (0, 5000))
    grams = []
    for first, second in (s, t):
        small = first.numpy().reshape(2, 3, 2, 2, 2, 2).max((3, 5))  # the maxima of 2x2 cells
        grams.append(np.einsum("nihw,njhw->nij", small, second.numpy()) / 4)
    expected = ((grams[0] - grams[1]) ** 2).mean()
    assert float(distill.Flow()(s, t)) == pytest.approx(expected)


@given(SEEDS)
def test_similarity_compares_rows_of_length_1(seed: int) -> None:
    s, t = features(seed, (4, 2, 3, 3), (4, 7))
    rows = []
    for x in (s, t):
        flat = x.flatten(1).numpy()
        rows.append(np.stack([unit(row) for row in flat @ flat.T]))
    assert float(distill.Similarity()([s], [t])) == pytest.approx(((rows[0] - rows[1]) ** 2).sum() / 16)


@given(SEEDS)
def test_factors_are_compared_at_length_1(seed: int) -> None:
    s, t = features(seed, (3, 2, 3, 3), (3, 2, 3, 3))
    expected = np.mean([np.abs(unit(a.numpy()) - unit(b.numpy())).mean() for a, b in zip(s, t, strict=True)])
    assert float(distill.Factors()([s], [t])) == pytest.approx(expected)


@given(SEEDS)
def test_distances_are_compared_over_their_mean(seed: int) -> None:
    s, t = (x.numpy() for x in features(seed, (4, 3), (4, 6)))
    apart = [[math.dist(x[i], x[j]) for i in range(4) for j in range(4) if i != j] for x in (s, t)]
    scaled = [np.array(d) / np.mean(d) for d in apart]
    expected = np.mean([huber(a - b) for a, b in zip(*scaled, strict=True)])
    assert float(distill.Distance()([torch.tensor(s)], [torch.tensor(t)])) == pytest.approx(expected)


@given(SEEDS)
def test_angles_of_all_triples_are_compared(seed: int) -> None:
    s, t = (x.numpy() for x in features(seed, (4, 3), (4, 6)))

    def cosine(x: np.ndarray, i: int, j: int, k: int) -> float:
        return 0.0 if j in (i, k) else float(unit(x[i] - x[j]) @ unit(x[k] - x[j]))

    triples = [(i, j, k) for i in range(4) for j in range(4) for k in range(4)]
    expected = np.mean([huber(cosine(s, *c) - cosine(t, *c)) for c in triples])
    assert float(distill.Angle()([torch.tensor(s)], [torch.tensor(t)])) == pytest.approx(expected)


@given(SEEDS)
def test_correlation_tends_to_a_gaussian_kernel(seed: int) -> None:
    s, t = features(seed, (4, 3), (4, 6))
    kernels = []
    for x in (s, t):
        rows = [unit(row) for row in x.numpy()]
        kernels.append(np.array([[math.exp(-0.4 * ((a - b) ** 2).sum()) for b in rows] for a in rows]))
    expected = ((kernels[0] - kernels[1]) ** 2).mean()
    assert float(distill.Correlation(order=20)([s], [t])) == pytest.approx(expected, abs=1e-9)
    by_hand = [
        sum(math.exp(-0.8) * 0.8**p / math.factorial(p) * (unit(x[0].numpy()) @ unit(x[1].numpy())) ** p for p in range(3))
        for x in (s, t)
    ]
    assert [float(distill.Correlation().kernel(x)[0, 1]) for x in (s, t)] == pytest.approx(by_hand)


@given(SEEDS)
def test_contrast_is_the_likelihood_of_right_answers(seed: int) -> None:
    near, far = (x.exp() for x in features(seed, (3,), (3, 5)))
    other = torch.rand(3, 5, generator=torch.Generator().manual_seed(seed)) < 0.7
    expected = 0.0
    for i in range(3):
        noise = int(other[i].sum()) / 50
        expected -= math.log(float(near[i]) / (float(near[i]) + noise + EPSILON))
        expected -= sum(math.log(noise / (float(far[i, j]) + noise + EPSILON)) for j in range(5) if other[i, j])
    assert float(contrast(near, far, other, 50)) == pytest.approx(expected / 3)


@given(SEEDS)
def test_the_hierarchical_loss_weighs_scales(seed: int) -> None:
    s, t = (x.numpy() for x in features(seed, (2, 3, 8, 8), (2, 3, 8, 8)))
    total, weights = ((s - t) ** 2).mean(), 1.0
    for weight, size in ((0.5, 4), (0.25, 2), (0.125, 1)):
        cell = 8 // size
        one, two = (x.reshape(2, 3, size, cell, size, cell).mean((3, 5)) for x in (s, t))
        total, weights = total + weight * ((one - two) ** 2).mean(), weights + weight
    assert float(hierarchical(torch.tensor(s), torch.tensor(t))) == pytest.approx(total / weights)


ZERO = [
    distill.Hints(), distill.Attention(), distill.Flow(), distill.Similarity(), distill.Distance(), distill.Angle(),
    distill.Correlation(), distill.Factors(), distill.Review(),
]  # fmt: skip


@pytest.mark.parametrize("loss", ZERO, ids=lambda loss: loss.name)
def test_equal_features_cost_nothing_and_gradients_are_numbers(loss: distill.Feature) -> None:
    taps = features(0, (4, 3, 4, 4), (4, 5, 2, 2))
    assert float(loss(taps, taps)) == pytest.approx(0, abs=1e-10)
    taps[0][0] = taps[0][1]  # two images that are one point
    ours = [tap.clone().requires_grad_() for tap in taps]
    theirs = [tap.clone().requires_grad_() for tap in features(1, (4, 3, 4, 4), (4, 5, 2, 2))]
    loss(ours, [tap.detach() for tap in theirs]).backward()
    assert all(tap.grad is not None and torch.isfinite(tap.grad).all() for tap in ours)
    assert any(float(tap.grad.abs().sum()) > 0 for tap in ours if tap.grad is not None)


@pytest.mark.parametrize("loss", ZERO, ids=lambda loss: loss.name)
@pytest.mark.parametrize("dead", [0.0, 3.0], ids=["nothing", "one point"])
def test_no_gradient_explodes_where_images_give_the_same(loss: distill.Feature, dead: float) -> None:
    ours, theirs = features(0, (4, 3, 4, 4), (4, 5, 2, 2)), features(1, (4, 3, 4, 4), (4, 5, 2, 2))
    for tap in ours:
        tap[:2] = dead
    ours = [tap.requires_grad_() for tap in ours]
    loss(ours, theirs).backward()
    assert all(float(tap.grad.abs().max()) < 100 for tap in ours if tap.grad is not None)


def test_other_shapes_are_refused_with_both() -> None:
    s, t = features(0, (2, 3, 4, 4), (2, 6, 4, 4))
    for loss, ours, theirs in ((distill.Hints(), [s], [t]), (distill.Review(), [s], [t])):
        with pytest.raises(ConfigError, match=r"\(2, 3, 4, 4\) and the teacher \(2, 6, 4, 4\)"):
            loss(ours, theirs)
    with pytest.raises(ConfigError, match=r"\(2, 3, 3\) and the teacher \(2, 6, 6\); set `adapt=true`"):
        distill.Flow()([s, s], [t, t])
    with pytest.raises(ConfigError, match="flow runs between layers"):
        distill.Flow()([s], [t])
    with pytest.raises(ConfigError, match=r"attention is a map of places, and this tap has the shape \(2, 3\)"):
        distill.Attention()([s[:, :, 0, 0]], [t[:, :, 0, 0]])


@pytest.mark.parametrize(
    "loss",
    [
        distill.Attention(power=0.5), distill.Factors(first=0.0), distill.Factors(rate=0.0), distill.Contrast(negatives=0),
        distill.Contrast(temperature=0.0), distill.Correlation(order=0), distill.Review(middle=0), distill.Hints(weight=-1.0),
        distill.Similarity(hard=-1.0),
    ],
)  # fmt: skip
def test_options_that_cannot_work_are_refused(loss: distill.Distillation) -> None:
    with pytest.raises(ConfigError):
        loss.check()
