"""Images from a teacher's batch norms."""

from __future__ import annotations

import pytest
import torch
from small import network, task
from torch import nn

from lilliput import distill
from lilliput.data import Task
from lilliput.distill.inversion import roughness, strangeness
from lilliput.errors import ConfigError
from lilliput.train import Fit, fit


def test_the_terms_are_their_formulas() -> None:
    torch.manual_seed(0)
    norm, x = nn.BatchNorm2d(3), torch.randn(4, 3, 5, 5)
    norm.running_mean, norm.running_var = torch.randn(3), torch.rand(3)
    expected = 0.0
    for c in range(3):
        values = x[:, c].flatten()
        expected += float((values.mean() - norm.running_mean[c]) ** 2 + (values.var(correction=0) - norm.running_var[c]) ** 2)
    assert float(strangeness(norm, x)) == pytest.approx(expected / 3, rel=1e-4)
    assert float(roughness(torch.ones(2, 1, 4, 4))) == 0
    assert float(roughness(torch.arange(4.0).expand(1, 1, 4, 4))) == pytest.approx(1)


def test_images_are_nearer_to_the_data_than_noise_and_show_their_class() -> None:
    teacher = fit(network(), task(), Fit(epochs=6, lr=0.2, batch_size=27)).model.eval()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    x, y = distill.synthesize(teacher, (1, 8, 8), images=20, steps=40, batch_size=12)
    again, _ = distill.synthesize(teacher, (1, 8, 8), images=20, steps=40, batch_size=12)
    assert x.shape == (20, 1, 8, 8) and y.tolist() == [i % 3 for i in range(20)] and torch.equal(x, again)
    with torch.no_grad():
        assert (teacher(x).argmax(1) == y).float().mean() > 0.9
        norm = teacher.bn1
        noise = torch.randn(20, 1, 8, 8)
        assert float(strangeness(norm, teacher.conv1(x))) < float(strangeness(norm, teacher.conv1(noise)))  # type: ignore[arg-type, operator]
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not norm._forward_pre_hooks and all(p.requires_grad for p in teacher.parameters())  # type: ignore[union-attr]


def test_what_was_made_is_a_task() -> None:
    data = task()
    x, y = distill.synthesize(network(), data.input_shape, images=30, steps=2)
    pixels = x * torch.tensor(data.std).view(-1, 1, 1) + torch.tensor(data.mean).view(-1, 1, 1)
    made = (255 * pixels).clamp(0, 255).byte().permute(0, 2, 3, 1)
    small = Task((made, y), data.test, data.val, normalize=(data.mean, data.std))
    assert torch.allclose(small.example(3), x[:3], atol=3) and small.classes == 3
    fit(network(), small, Fit(1, batch_size=15, augment=False, distill=distill.Hinton(alpha=1.0)), teacher=network(1.0))


def test_a_teacher_without_norms_is_refused() -> None:
    with pytest.raises(ConfigError, match="no batch norm"):
        distill.synthesize(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), (1, 2, 2))
    with pytest.raises(ConfigError, match="`images`"):
        distill.synthesize(network(), (1, 8, 8), images=1)
