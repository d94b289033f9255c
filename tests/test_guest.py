"""A guest in a loop of one's own does what it does in `fit`, goes on where it stopped, and refuses what cannot work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from small import network, task
from torch import Tensor, nn

import lilliput as lp
from lilliput.errors import ConfigError
from lilliput.train import Fit, Guest, fit

EPOCHS, BATCH = 2, 27
PLANS: list[dict[str, Any]] = [
    {"callbacks": (lp.prune.Sparsify(strength=1e-3), lp.prune.Slim(strength=1e-3))},
    {"callbacks": (lp.prune.Gradual(rate=0.7, every=1),)},
    {"callbacks": (lp.quant.Clip(limit=0.05),)},
    {"distill": lp.distill.Hinton()},
    {"distill": lp.distill.Hints(), "callbacks": (lp.prune.Sparsify(strength=1e-3),)},
    {"distill": lp.distill.Contrast()},
    {"distill": lp.distill.Mutual()},
]


def student(plan: dict[str, Any]) -> nn.Module:
    """A network with the masks or the quantizers that the callbacks work on."""
    look = lp.Look(task().example())
    if any(isinstance(c, lp.prune.Gradual) for c in plan.get("callbacks", ())):
        return lp.prune.Weights(rate=0.0)(network(), look)
    if any(isinstance(c, lp.quant.Clip) for c in plan.get("callbacks", ())):
        return lp.quant.LowBit(scheme="bwn")(network(), look)
    return network()


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())


def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The batches of `fit`, with the places of their images."""
    from lilliput.distill.lesson import places_of

    found = task().batches("train", BATCH, shuffle_seed=0, epoch=epoch, drop_last=True, channels_last=True)
    for number, (x, y) in enumerate(found):
        yield x, y, places_of(found, number)


def loop(plan: dict[str, Any], stop: int | None = None) -> nn.Module:
    """A plain training loop with a guest; with `stop`, everything is made anew after that epoch, from a checkpoint."""
    data, model = task(), student(plan).train().to(memory_format=torch.channels_last)
    guest, optimizer = host(model, plan)
    for epoch in range(EPOCHS):
        if epoch == stop:
            kept = [model.state_dict(), optimizer.state_dict(), guest.state()]
            guest.close()
            model = student(plan).train().to(memory_format=torch.channels_last)
            model.load_state_dict(kept[0])
            guest, optimizer = host(model, plan)
            optimizer.load_state_dict(kept[1])
            guest.load_state(kept[2])
        torch.manual_seed(epoch * 1009)
        for x, y, places in batches(epoch):
            outputs = model(x)
            loss = guest.loss(x, outputs, y, data.loss(outputs, y), places)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    guest.end()
    guest.close()
    return model


def host(model: nn.Module, plan: dict[str, Any]) -> tuple[Guest, torch.optim.Optimizer]:
    teacher = network(1.0) if "distill" in plan else None
    guest = Guest(model, steps=EPOCHS * (108 // BATCH), teacher=teacher, task=task(), seed=0, **plan)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    guest.join(optimizer)
    return guest, optimizer


def named(plan: dict[str, Any]) -> str:
    return "+".join(c.name for c in (*plan.get("callbacks", ()), plan.get("distill")) if c is not None)


@pytest.mark.parametrize("plan", PLANS, ids=named)
def test_a_loop_with_a_guest_ends_where_fit_ends(plan: dict[str, Any]) -> None:
    step = Fit(epochs=EPOCHS, batch_size=BATCH, lr=0.05, schedule="constant", weight_decay=0.0, augment=False, **plan)
    trained = fit(student(plan), task(), step, teacher=network(1.0)).model
    assert equal(loop(plan), trained)


@pytest.mark.parametrize("plan", PLANS, ids=named)
def test_a_loop_goes_on_from_the_state_of_its_guest(plan: dict[str, Any]) -> None:
    assert equal(loop(plan), loop(plan, stop=1))


def test_the_student_and_the_teacher_are_left_as_they_were() -> None:
    model, teacher = network(), network(1.0)
    names, before = list(model.state_dict()), {k: v.clone() for k, v in teacher.state_dict().items()}
    guest = Guest(model, steps=1, distill=lp.distill.Hints(), teacher=teacher, task=task().example(2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    guest.join(optimizer)
    x, y = next(iter(task().batches("train", 9)))
    outputs = model.train()(x)
    guest.loss(x, outputs, y, task().loss(outputs, y)).backward()
    optimizer.step()
    assert list(guest.parameters()) and guest.step == 1
    guest.close()
    assert list(model.state_dict()) == names
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items()) and teacher.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for net in (model, teacher) for m in net.modules())
    optimizer.step()
    assert guest.step == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"steps": -1}, r"`steps` \(=-1\)"),
        ({"distill": lp.distill.Hinton()}, "`distill` without `teacher`"),
        ({"teacher": nn.Identity()}, "`teacher` without `distill`"),
        ({"callbacks": [nn.ReLU()]}, "holds a `ReLU`"),
        ({"callbacks": [lp.prune.Sparsify(strength=-1)]}, "`strength`"),
        ({"distill": lp.distill.Hints(), "teacher": network()}, "give `task`, a Task or a batch"),
        ({"distill": lp.distill.Contrast(), "teacher": network(), "task": torch.zeros(2, 1, 8, 8)}, "remembers each image"),
    ],
)
def test_what_cannot_work_is_refused_at_once(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Guest(network(), **{"steps": 4, **options})


def test_one_optimizer_without_a_closure() -> None:
    model = network()
    guest, optimizer = Guest(model, steps=4), torch.optim.SGD(model.parameters(), lr=0.1)
    guest.join(optimizer)
    with pytest.raises(ConfigError, match="one optimizer"):
        guest.join(torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(ConfigError, match="begins without gradients"):
        optimizer.step(lambda: 1.0)
    assert guest.step == 0
