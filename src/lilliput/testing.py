"""The contract every method keeps, as named checks that anyone can run on a method of their own.

    >>> from lilliput import prune, testing
    >>> testing.check_method(prune.Channels(keep=0.5), only=("text_is_invertible", "input_is_untouched"))
    ['input_is_untouched', 'text_is_invertible']

The project's own suite runs them for everything registered.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lilliput import zoo
from lilliput.config import parse
from lilliput.core.edits import from_json, to_json
from lilliput.core.method import Look, Method
from lilliput.core.perform import bake, perform
from lilliput.core.record import edits
from lilliput.export import export
from lilliput.measure import profile

Check = Callable[[Method, nn.Module, Look], None]
CHECKS: dict[str, Check] = {}


def check_method(
    method: Method, model: nn.Module | None = None, look: Look | None = None, *, only: Sequence[str] | None = None
) -> list[str]:
    """Run every check of the contract on a method; return the names of those that ran.

    `model` and `look` stand for the network and what the method may see of it; by default a small residual network with
    random statistics, and two labelled batches. Raises `AssertionError` that names the first check that fails.
    """
    names = sorted(CHECKS) if only is None else sorted(only)
    for name in names:
        subject, seen = model or subject_model(), look or subject_look()
        try:
            CHECKS[name](method, subject, seen)
        except AssertionError as error:
            raise AssertionError(f"{method.text()} breaks `{name}`: {error}") from None
    return names


def subject_model() -> nn.Module:
    """A ResNet-8 for grey 8x8 images with norms of its own, in eval mode; the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = zoo.create("resnet8", channels=1, classes=4)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean, module.running_var = (
                    torch.randn(module.num_features) * 0.1,
                    torch.rand(module.num_features) + 0.5,
                )
    return model.eval()


def subject_look() -> Look:
    """Two batches of noise with labels, a loss, and a clock that counts parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        batches = [(torch.randn(16, 1, 8, 8), torch.randint(0, 4, (16,))) for _ in range(2)]
    return Look(batches[0][0][:2], batches, F.cross_entropy, 0, lambda m: float(sum(p.numel() for p in m.parameters())))


def _check(function: Check) -> Check:
    CHECKS[function.__name__] = function
    return function


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(value, other[name]) for name, value in one.items())


def _run(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(model).eval()(x)  # type: ignore[no-any-return]


@_check
def input_is_untouched(method: Method, model: nn.Module, look: Look) -> None:
    """Planning and performing leave the model, its mode, its hooks and the global random state as they were."""
    before, mode, drawn, text = _state(model), model.training, torch.get_rng_state(), repr(model)
    method(model, look)
    assert _same(before, _state(model)), "a tensor of the model changed"
    assert (model.training, repr(model)) == (mode, text), "the model's mode or structure changed"
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules()), "a hook was left on the model"
    assert torch.equal(drawn, torch.get_rng_state()), "the global random state moved"


@_check
def same_seed_same_edits(method: Method, model: nn.Module, look: Look) -> None:
    """Deciding twice decides the same."""
    assert method.plan(model, look) == method.plan(copy.deepcopy(model), look), "two plans differ"


@_check
def text_is_invertible(method: Method, model: nn.Module, look: Look) -> None:
    """The canonical text reads back as the same method."""
    assert parse(method.text()) == method, f"`{method.text()}` reads back as `{parse(method.text()).text()}`"


@_check
def edits_survive_json(method: Method, model: nn.Module, look: Look) -> None:
    """Edits are plain data."""
    plan = tuple(method.plan(model, look))
    assert from_json(json.loads(json.dumps(to_json(plan)))) == plan, "edits changed on their way through JSON"


@_check
def replay_is_bit_equal(method: Method, model: nn.Module, look: Look) -> None:
    """The edits alone (and what the method refits) make the same network again; so do structure and state dict."""
    made = method(model, look)
    again = perform(copy.deepcopy(model), from_json(json.loads(json.dumps(to_json(edits(made))))))
    method.refit(model, again, look)
    assert torch.equal(_run(made, look.example), _run(again, look.example)), "replaying the edits gives other outputs"
    shell = perform(model, edits(made), weights=False)
    shell.load_state_dict(made.state_dict())
    assert torch.equal(_run(made, look.example), _run(shell, look.example)), "structure and state dict give other outputs"


@_check
def strength_zero_is_the_identity(method: Method, model: nn.Module, look: Look) -> None:
    """With its options at no strength a method changes nothing of what the network computes."""
    idle = dataclasses.replace(method, **type(method).identity)  # type: ignore[type-var]
    assert torch.equal(_run(idle(model, look), look.example), _run(model, look.example)), f"{idle.text()} changes outputs"


@_check
def cost_does_not_grow_and_is_what_is_counted(method: Method, model: nn.Module, look: Look) -> None:
    """The profile counts what is there, and not more than there was."""
    made = method(model, look)
    before, after = profile(model, look.example), profile(made, look.example)
    weights = sum(m.weight.numel() for m in bake(made).modules() if isinstance(m, nn.Conv2d | nn.Linear))
    counted = sum(row.params for row in after.layers)
    assert counted == after.params, f"layers hold {counted} parameters and the profile claims {after.params}"
    assert after.params >= weights, f"the profile counts {after.params} parameters and the layers hold {weights}"
    assert (after.macs, after.bytes) <= (before.macs, before.bytes), "the network costs more than before"


@_check
def copies_are_independent(method: Method, model: nn.Module, look: Look) -> None:
    """A deep copy computes the same and shares nothing."""
    made = method(model, look)
    expected, other = _run(made, look.example), copy.deepcopy(made)
    assert torch.equal(_run(other, look.example), expected), "a copy computes something else"
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert torch.equal(_run(made, look.example), expected), "a copy shares tensors with the original"


@_check
def every_parameter_learns(method: Method, model: nn.Module, look: Look) -> None:
    """Every trainable parameter gets a gradient, and a few small steps lower the loss."""
    made = method(model, look).eval()
    x, y = next(iter(look.need_batches("the check")))
    losses = []
    optimizer = torch.optim.SGD(made.parameters(), lr=1e-2)
    for _ in range(5):
        loss = F.cross_entropy(made(x), y)
        optimizer.zero_grad()
        loss.backward()
        silent = [n for n, p in made.named_parameters() if p.requires_grad and p.grad is None]
        assert not silent, f"no gradient reaches {', '.join(silent[:3])}"
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0], f"five steps took the loss from {losses[0]:.4f} to {losses[-1]:.4f}"


@_check
def exports_and_agrees(method: Method, model: nn.Module, look: Look) -> None:
    """The ONNX file, read back and run, computes what the network does (`export` raises otherwise)."""
    made: Any = method(model, look)
    with tempfile.TemporaryDirectory() as folder:
        done = export(made, look.example, Path(folder) / "model.onnx")
        assert done.bytes > 0, "nothing was written"
