"""Supernets: all widths learn together, and what is taken out of one is what it computed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small import network, task
from torch import nn

import lilliput as lp
from lilliput import zoo
from lilliput.core.record import record
from lilliput.errors import ConfigError, ModelError
from lilliput.guest import Guest
from lilliput.prune import Channels
from lilliput.recipe import Bench, Recipe, Student, run
from lilliput.supernet import Slim, Widths
from lilliput.train import Fit, fit
from lilliput.zoo.slimmable import Slimmable

NAME = "slimmable_resnet20:classes=3,channels=1,widths=0.125/0.25/0.5"


def supernet() -> Slimmable:
    torch.manual_seed(0)
    made = zoo.create(NAME)
    assert isinstance(made, Slimmable)
    return made


def test_narrow_widths_learn_from_the_widest_and_not_the_other_way() -> None:
    model, (x, y) = supernet().train(), next(iter(task().batches("train", 27)))
    active = Widths().begin(model, 1, 0)
    loss = active.loss(x, model(x), y)
    assert loss is not None and loss > 0 and model.width == 0.5
    loss.backward()
    norms = model.net.get_submodule("layer1.0.bn1")
    assert [choice.weight.grad is not None for choice in norms.choices] == [True, True, False]
    shared = model.net.get_submodule("layer3.0.conv2").weight.grad
    assert shared[:16, :16].abs().sum() > 0 and shared[16:].abs().sum() == 0 and shared[:, 16:].abs().sum() == 0


def test_the_gradient_is_the_formula_s() -> None:
    model, (x, y) = supernet().eval(), next(iter(task().batches("train", 8)))
    bias = model.net.get_submodule("linear").bias
    outputs = model(x)
    grad = torch.autograd.grad(Widths(weight=2.0).begin(model, 1, 0).loss(x, outputs, y), bias)[0]
    wanted = torch.zeros_like(grad)
    for width in (0.125, 0.25):
        model.switch(width)
        wanted += 2 * (model(x).softmax(1) - outputs.softmax(1)).mean(0)
    assert torch.allclose(grad, wanted, atol=1e-6)


def test_every_width_learns_what_the_labels_say_to_one() -> None:
    trained = fit(supernet(), task(), Fit(epochs=8, batch_size=18, lr=0.1, callbacks=(Widths(),))).model
    assert isinstance(trained, Slimmable)
    right = {w: lp.evaluate(trained.slim(w).eval(), task(), split="val").value for w in trained.widths}
    assert min(right.values()) > 0.6, right


def test_a_width_of_a_supernet_is_a_network_like_any_other(tmp_path: Path) -> None:
    steps = (Student(NAME), Fit(epochs=1, batch_size=27, callbacks=(Widths(),)), Slim(0.25), Channels(keep=0.5))
    bench = Bench(task(), tmp_path / "store")
    made = run(network().eval(), Recipe(steps), bench).model
    again = run(network().eval(), Recipe(steps), bench)
    assert all(stage.reused for stage in again.stages) and record(made).architecture.startswith("resnet20:")
    lp.save(made, tmp_path / "small.lil")
    x = task().example()
    with torch.no_grad():
        assert torch.equal(lp.load(tmp_path / "small.lil")(x), again.model.eval()(x))


@pytest.mark.parametrize(
    ("do", "words"),
    [
        (lambda: Widths(weight=0).check(), "`weight`"),
        (lambda: Slim(width=-1.0).check(), "`width`"),
        (lambda: Slim(0.3)(supernet()), "none of the widths 0.125, 0.25, 0.5"),
        (lambda: Slim(1.0)(network()), "this is a `CifarResNet`"),
        (lambda: Widths().begin(network(), 1, 0), "trains a slimmable network"),
    ],
)
def test_what_cannot_be_is_refused(do: object, words: str) -> None:
    with pytest.raises((ConfigError, ModelError), match=words):
        do()  # type: ignore[operator]


def test_callbacks_run_the_model_in_the_precision_of_the_training() -> None:
    seen: list[torch.dtype] = []
    model = supernet()
    model.net.get_submodule("linear").register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    guest = Guest(model, steps=1, callbacks=[Widths()], autocast=lambda: torch.autocast("cpu", torch.bfloat16))
    x, y = next(iter(task().batches("train", 8)))
    out = model(x)
    guest.loss(x, out, y, nn.functional.cross_entropy(out, y))
    assert seen == [torch.float32, torch.bfloat16, torch.bfloat16]
