"""Hinton's loss against the formula written afresh, and its gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lilliput.distill import Hinton
from lilliput.errors import ConfigError


def formula(s: np.ndarray, t: np.ndarray, hard: float, temperature: float, alpha: float) -> float:
    def soft(z: np.ndarray) -> np.ndarray:
        e = np.exp(z / temperature - (z / temperature).max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    p, q = soft(t), soft(s)
    kl = (p * (np.log(p) - np.log(q))).sum(1).mean()
    return float((1 - alpha) * hard + alpha * temperature**2 * kl)


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
    with pytest.raises(ConfigError, match="above 0"):
        Hinton(temperature=0.0).check()
    with pytest.raises(ConfigError, match="from 0 to 1"):
        Hinton(alpha=1.5).check()
