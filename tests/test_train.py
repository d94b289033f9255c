"""Training: it learns, resumes bit-equal, is the same on two processes, and stops on what cannot go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small import network, task
from torch import nn

from lilliput.config import config, parse
from lilliput.core import state
from lilliput.core.callback import Active, Callback
from lilliput.distill import Hinton
from lilliput.errors import ConfigError, TrainError
from lilliput.train import BatchNorm, Event, Fit, Machine, fit, reestimate


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())


def test_it_learns_and_leaves_the_input_alone() -> None:
    model = network()
    before, mode, random = {k: v.clone() for k, v in model.state_dict().items()}, model.training, torch.get_rng_state()
    done = fit(model, task(), Fit(epochs=6, lr=0.2, batch_size=27))
    assert [row["epoch"] for row in done.history] == [1, 2, 3, 4, 5, 6]
    assert done.history[-1]["train_loss"] < 0.5 * done.history[0]["train_loss"]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training == mode and torch.equal(random, torch.get_rng_state())


def test_the_same_seed_gives_the_same_network_and_another_another() -> None:
    plan = Fit(epochs=1, batch_size=27)
    one, same, other = (fit(network(), task(), plan, seed=s).model for s in (0, 0, 1))
    assert equal(one, same) and not equal(one, other)


class Stop(Exception):
    """A process that dies after its first epoch."""


def test_a_run_that_stopped_ends_as_if_it_had_not(tmp_path: Path) -> None:
    plan = Fit(epochs=3, batch_size=27, distill=Hinton())
    straight = fit(network(), task(), plan, teacher=network(1.0))

    def die(event: Event) -> None:
        if event["event"] == "step" and event["epoch"] == 2 and event["step"] == 2:
            raise Stop

    with pytest.raises(Stop):
        fit(network(), task(), plan, teacher=network(1.0), folder=tmp_path, watch=die)
    assert state.read(tmp_path / "fit.safetensors")["epoch"] == 1
    resumed = fit(network(), task(), plan, teacher=network(1.0), folder=tmp_path)
    assert equal(straight.model, resumed.model)
    assert [r["train_loss"] for r in straight.history] == [r["train_loss"] for r in resumed.history]


def test_a_finished_fit_is_not_done_again(tmp_path: Path) -> None:
    plan = Fit(epochs=1, batch_size=27)
    once = fit(network(), task(), plan, folder=tmp_path)
    events: list[Event] = []
    again = fit(network(), task(), plan, folder=tmp_path, watch=events.append)
    assert not events and equal(once.model, again.model)


class NormFree(nn.Module):
    """No batch statistics, so that processes see the same function."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(1, 6, 3, padding=1), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.slow
def test_two_processes_give_the_same_network_as_one(tmp_path: Path) -> None:
    plan = Fit(epochs=2, batch_size=36, lr=0.1)
    one = fit(NormFree(), task(), plan)
    two = fit(NormFree(), task(), plan, machine=Machine("cpu", 2), folder=tmp_path)
    for name, value in one.model.state_dict().items():
        assert torch.allclose(value, two.model.state_dict()[name], atol=1e-4), name


def test_a_loss_that_is_no_number_stops_with_step_and_rate() -> None:
    with pytest.raises(TrainError, match=r"the loss is (nan|inf) at epoch \d+, step \d+, learning rate"):
        fit(network(), task(), Fit(epochs=30, lr=1e12, batch_size=27, schedule="constant"))


def test_a_teacher_is_needed_to_distil() -> None:
    with pytest.raises(ConfigError, match="needs a teacher"):
        fit(network(), task(), Fit(epochs=1, distill=Hinton()))


def test_no_epochs_is_the_identity() -> None:
    model = network()
    assert equal(fit(model, task(), Fit(epochs=0)).model, model)


@pytest.mark.parametrize(
    "options", [{"epochs": -1}, {"lr": 0.0}, {"batch_size": 0}, {"schedule": "linear"}, {"precision": "8"}, {"momentum": 1.5}]
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Fit(**options).check()


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(TrainError, match="lower `batch_size`"):
        fit(network(), task(), Fit(epochs=1, batch_size=5000))


def test_rates_rise_and_fall() -> None:
    plan = Fit(lr=1.0)
    rates = [plan.rate(i / 100) for i in range(101)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1.0) and rates[-1] == pytest.approx(0, abs=1e-9)
    assert Fit(lr=1.0, schedule="cosine").rate(0) == 1.0 and Fit(lr=0.3, schedule="constant").rate(0.9) == 0.3


def test_reestimated_statistics_are_those_of_the_data() -> None:
    model, data = network(), task()
    step = BatchNorm(images=96, batch_size=48)
    new = reestimate(model, data, step)
    first = [model.get_submodule("conv1")(x) for x, _ in data.calibration(96, 48)]
    mean = torch.stack([y.mean((0, 2, 3)) for y in first]).mean(0)
    assert torch.allclose(new.get_submodule("bn1").running_mean, mean, atol=1e-5)
    assert torch.equal(model.get_submodule("bn1").running_mean, torch.zeros(8))
    assert new.get_submodule("bn1").momentum == model.get_submodule("bn1").momentum
    assert all(torch.equal(p, dict(model.named_parameters())[n]) for n, p in new.named_parameters())


def test_mixed_precision_learns_too() -> None:
    done = fit(network(), task(), Fit(epochs=4, lr=0.2, batch_size=27, precision="bf16-mixed"))
    assert done.history[-1]["train_loss"] < done.history[0]["train_loss"]
    assert all(p.dtype == torch.float32 for p in done.model.parameters())


def test_an_accelerator_that_is_not_there_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"`accelerator` \(=abacus\)"):
        fit(network(), task(), Fit(epochs=1, batch_size=16), machine=Machine(accelerator="abacus"))


class _Shrinking(Active):
    """Adds a penalty, counts steps, and holds the first weight of the stem at zero."""

    def __init__(self, model: nn.Module, strength: float, steps: int) -> None:
        self.weight, self.strength, self.steps = next(model.parameters()), strength, steps
        self.count, self.moments = 0, list[str]()

    def loss(self, x: torch.Tensor, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self.strength * (1 + self.count) * self.weight.square().sum()

    def before_step(self, step: int) -> None:
        assert self.weight.grad is not None and step == self.count

    def after_step(self, step: int) -> None:
        self.count += 1
        with torch.no_grad():
            self.weight.flatten()[0] = 0

    def end(self) -> None:
        assert self.count == self.steps
        with torch.no_grad():
            self.weight.flatten()[1] = 7

    def state(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state(self, stored: dict[str, Any]) -> None:
        self.count = stored["count"]


@config("test.shrinking")
class Shrinking(Callback):
    """See `_Shrinking`."""

    strength: float = 0.1

    def check(self) -> None:
        if self.strength < 0:
            raise ConfigError("below 0")

    def begin(self, model: nn.Module, steps: int, seed: int) -> Active:
        return _Shrinking(model, self.strength, steps)


def test_a_callback_takes_part_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    plan = Fit(epochs=2, batch_size=27, callbacks=(Shrinking(),))
    assert parse(plan.text()) == plan
    straight, plain = fit(network(), task(), plan).model, fit(network(), task(), Fit(epochs=2, batch_size=27)).model
    weight, other = (next(m.parameters()).detach().flatten() for m in (straight, plain))
    assert weight[0] == 0 and weight[1] == 7 and weight[2:].norm() < other[2:].norm()

    def die(event: Event) -> None:
        if event["event"] == "step" and event["epoch"] == 2:
            raise Stop

    with pytest.raises(Stop):
        fit(network(), task(), plan, folder=tmp_path, watch=die)
    assert equal(fit(network(), task(), plan, folder=tmp_path).model, straight)
    with pytest.raises(ConfigError, match="below 0"):
        fit(network(), task(), Fit(callbacks=(Shrinking(strength=-1),)))
