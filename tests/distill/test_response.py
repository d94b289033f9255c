"""Losses of outputs against their formulas written afresh, and Hinton's gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from lilliput import distill
from lilliput.distill import Dist, Dkd, Ensemble, Hinton, Mutual, Scene, Seen, Turn
from lilliput.distill.response import standardize
from lilliput.errors import ConfigError


def softmax(z: np.ndarray, temperature: float) -> np.ndarray:
    e = np.exp(z / temperature - (z / temperature).max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def kl(p: np.ndarray, q: np.ndarray) -> float:
    return float((p * (np.log(p) - np.log(q))).sum(1).mean())


def formula(s: np.ndarray, t: np.ndarray, hard: float, temperature: float, alpha: float) -> float:
    return (1 - alpha) * hard + alpha * temperature**2 * kl(softmax(t, temperature), softmax(s, temperature))


@given(st.floats(0.5, 10), st.floats(0, 1), st.integers(0, 1000))
def test_it_equals_the_formula(temperature: float, alpha: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    s, t = draw.normal(size=(2, 5, 7))
    found = Hinton(temperature, alpha)(torch.tensor(s), torch.tensor(t), torch.tensor(1.3, dtype=torch.double))
    assert float(found) == pytest.approx(formula(s, t, 1.3, temperature, alpha), abs=1e-9)


def test_its_gradient_is_the_documented_one() -> None:
    torch.manual_seed(0)
    s, t = torch.randn(4, 6, dtype=torch.double, requires_grad=True), torch.randn(4, 6, dtype=torch.double)
    loss = Hinton(3.0, 0.8)(s, t, torch.zeros((), dtype=torch.double))
    (gradient,) = torch.autograd.grad(loss, s)
    expected = 0.8 * 3.0 * (torch.softmax(s / 3, 1) - torch.softmax(t / 3, 1)) / 4
    assert torch.allclose(gradient, expected)


def test_a_student_equal_to_its_teacher_only_has_the_hard_part() -> None:
    t = torch.randn(3, 5)
    assert float(Hinton(4.0, 0.9)(t, t, torch.tensor(2.0))) == pytest.approx(0.2, abs=1e-6)


def test_other_classes_and_impossible_options_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"the student gives \(2, 3\) and the teacher \(2, 4\)"):
        Hinton()(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(()))
    for loss in (Dkd(), Dist()):
        with pytest.raises(ConfigError, match="they need the same classes"):
            loss(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64))
    for wrong in (Hinton(temperature=0.0), Dkd(temperature=-1.0), Dist(temperature=float("nan")), Mutual(temperature=0.0)):
        with pytest.raises(ConfigError, match=r"`temperature` \(=.*\) must be above 0"):
            wrong.check()
    with pytest.raises(ConfigError, match="from 0 to 1"):
        Hinton(alpha=1.5).check()
    with pytest.raises(ConfigError, match="from 0"):
        Dkd(weight=-1.0).check()


@given(st.floats(0.5, 8), st.floats(0, 2), st.floats(0, 9), st.integers(0, 1000))
def test_dkd_is_two_divergences(temperature: float, alpha: float, beta: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    s, t = draw.normal(size=(2, 6, 5))
    y = draw.integers(0, 5, 6)
    binary, others = [], []
    for z in (t, s):
        p = softmax(z, temperature)
        own = p[np.arange(6), y]
        binary.append(np.stack([own, 1 - own], 1))
        rest = np.stack([np.delete(row, label) for row, label in zip(p, y, strict=True)])
        others.append(rest / rest.sum(1, keepdims=True))
    expected = temperature**2 * (alpha * kl(*binary) + beta * kl(*others))
    found = Dkd(alpha, beta, temperature)(torch.tensor(s), torch.tensor(t), torch.tensor(y))
    assert float(found) == pytest.approx(expected, abs=1e-9)


def test_dkd_of_a_sure_teacher_is_a_number() -> None:
    s, t = torch.tensor([[60.0, -60.0, 0.0]], requires_grad=True), torch.tensor([[90.0, -90.0, -90.0]])
    loss = Dkd(temperature=1.0)(s, t, torch.tensor([0]))
    loss.backward()
    assert torch.isfinite(loss) and s.grad is not None and torch.isfinite(s.grad).all()


@given(st.floats(0.5, 8), st.integers(0, 1000))
def test_dist_is_one_minus_correlations(temperature: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    s, t = draw.normal(size=(2, 6, 5))
    p, q = softmax(s, temperature), softmax(t, temperature)
    rows = np.mean([1 - np.corrcoef(p[i], q[i])[0, 1] for i in range(6)])
    columns = np.mean([1 - np.corrcoef(p[:, j], q[:, j])[0, 1] for j in range(5)])
    found = Dist(1.5, 0.5, temperature)(torch.tensor(s), torch.tensor(t), torch.zeros(6, dtype=torch.int64))
    assert float(found) == pytest.approx(temperature**2 * (1.5 * rows + 0.5 * columns), abs=1e-9)


def test_equal_outputs_cost_nothing() -> None:
    torch.manual_seed(0)
    t, y = torch.randn(4, 6), torch.arange(4)
    assert float(Dkd()(t, t, y)) == pytest.approx(0, abs=1e-5)
    assert float(Dist()(t, t, y)) == pytest.approx(0, abs=1e-4)
    assert float(Dist()(t, 3 + t, y)) == pytest.approx(0, abs=1e-4)


def test_standardised_outputs_have_mean_0_and_deviation_1() -> None:
    z = standardize(torch.tensor([[1.0, 2.0, 6.0], [10.0, 20.0, 60.0]]))
    assert torch.allclose(z[0], z[1], atol=1e-6)
    assert torch.allclose(z.mean(1), torch.zeros(2), atol=1e-6)
    assert torch.allclose(z.square().mean(1), torch.ones(2), atol=1e-5)


def part(loss: distill.Distillation, s: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The teacher's part of a training's loss."""
    judge = functional.cross_entropy
    scene = Scene(Says(s), Says(t), None)  # type: ignore[arg-type] # losses of outputs look at no task
    taught: torch.Tensor = loss.begin(scene)(Turn(Seen(s), Seen(t.detach()), y, judge(s, y), judge, peer=t))
    return taught


@given(st.floats(0.5, 5), st.integers(0, 1000))
def test_standardized_is_its_loss_of_standardised_outputs(temperature: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    s, t = draw.normal(2, 3, size=(2, 5, 7))
    z = [(x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True) for x in (s, t)]
    expected = 0.7 * temperature**2 * kl(softmax(z[1], temperature), softmax(z[0], temperature))
    loss = distill.Standardized(Hinton(temperature, 0.7))
    assert float(part(loss, torch.tensor(s), torch.tensor(t), torch.arange(5))) == pytest.approx(expected, abs=1e-5)
    for other in (Mutual(), distill.Attention()):
        with pytest.raises(ConfigError, match="is a loss of a teacher's outputs"):
            distill.Standardized(other).check()


@given(st.floats(0.5, 5), st.floats(0.1, 2), st.integers(0, 1000))
def test_peers_learn_from_labels_and_from_each_other(temperature: float, weight: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    s, t = draw.normal(size=(2, 5, 7))
    p, q = softmax(s, temperature), softmax(t, temperature)
    labels = -np.log(softmax(t, 1.0)[np.arange(5), np.arange(5)]).mean()
    expected = 0.5 * labels + weight * temperature**2 * (kl(q, p) + kl(p, q))
    ours, peer = (torch.tensor(x, requires_grad=True) for x in (s, t))
    found = part(Mutual(temperature, weight=weight, hard=0.5), ours, peer, torch.arange(5))
    assert found.item() == pytest.approx(expected, abs=1e-9)
    found.backward()
    assert torch.allclose(ours.grad, torch.tensor(weight * temperature * (p - q) / 5))  # type: ignore[arg-type]
    own = (softmax(t, 1.0) - np.eye(7)[:5]) / 5
    assert torch.allclose(peer.grad, torch.tensor(0.5 * own + weight * temperature * (q - p) / 5))  # type: ignore[arg-type]


class Says(nn.Module):
    """A network that always says the same."""

    def __init__(self, outputs: torch.Tensor) -> None:
        super().__init__()
        self.outputs = nn.Parameter(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.outputs


def test_an_ensemble_means_probabilities() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 3, 5)
    probable = [torch.softmax(z / 3, 1) for z in (a, b)]
    arithmetic = torch.softmax(Ensemble([Says(a), Says(b)], temperature=3.0)(a) / 3, 1)
    assert torch.allclose(arithmetic, (probable[0] + probable[1]) / 2, atol=1e-6)
    geometric = torch.softmax(Ensemble([Says(a), Says(b)])(a) / 3, 1)
    product = (probable[0] * probable[1]).sqrt()
    assert torch.allclose(geometric, product / product.sum(1, keepdim=True), atol=1e-6)
    assert torch.allclose(Ensemble([a_twice := Says(a), a_twice, Says(b)])(a), (2 * a + b) / 3, atol=1e-6)
    with pytest.raises(ConfigError, match=r"teachers give \(3, 5\) and \(3, 4\)"):
        Ensemble([Says(a), Says(b[:, :4])])(a)
    with pytest.raises(ConfigError, match="one or more"):
        Ensemble([])


def test_a_schedule_runs_between_its_points() -> None:
    plan = distill.Scheduled(Dkd(), points=[[0.2, 0.0], [0.4, 1.0], [1.0, 0.5]])
    found = [plan.factor(done) for done in (0, 0.2, 0.3, 0.4, 0.7, 1)]
    assert found == pytest.approx([0, 0, 0.5, 1, 0.75, 0.5])
    for points in ([], [[0.5, 1], [0.2, 0]], [[0, -1]], [[2, 1]]):
        with pytest.raises(ConfigError, match="`points`"):
            distill.Scheduled(Dkd(), points=points).check()


def test_a_sum_needs_a_weight_each() -> None:
    with pytest.raises(ConfigError, match="one weight each"):
        distill.Sum([Dkd()], [1.0, 2.0]).check()
    with pytest.raises(ConfigError, match="one weight each"):
        distill.Sum([]).check()
    with pytest.raises(ConfigError, match=r"distill\.dkd: `temperature`"):
        distill.Sum([Dkd(temperature=0.0)]).check()
