"""One forward on names: on the meta device where the code allows it, on numbers where it looks at them."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lilliput.core.atoms import Channels, Slot
from lilliput.core.copies import copied, shell
from lilliput.core.follow import Follow, origin
from lilliput.errors import ModelError

STILL = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)  # what is told to train apart from its network


def followed(model: nn.Module, example: Tensor) -> Follow:
    """The names after one forward on the first image of `example`.

    Shapes are all that names need, so the forward runs on the meta device, where convolutions cost nothing; code that
    looks at numbers fails there, and runs on numbers instead.
    """
    if not isinstance(example, Tensor):
        raise ModelError(f"the example is one batch of images, a tensor (n, c, h, w), and not a `{type(example).__name__}`")
    image = example[:1] if example.dim() > 1 else example
    try:
        return _run(shell(model), torch.empty_like(image, device="meta"))
    except Exception:  # whatever is wrong with the network itself, the forward on numbers tells
        pass
    runner = copied(model)
    image = image.detach().clone().to(next(runner.parameters(), image))
    try:
        return _run(runner, image)
    except Exception as error:
        raise ModelError(
            f"the network does not run on one batch of images of shape {tuple(example.shape)}: "
            f"`{type(error).__name__}: {first_line(error)}`{origin(error, ' ({})')}. "
            "Channels are followed through networks whose forward takes the images alone."
        ) from error


def traced(model: nn.Module, image: Tensor) -> Follow:
    """The names and results of every operation of one forward, or of as much of it as runs."""
    runner = copied(model).eval()
    follow = Follow(runner, trace=True)
    with contextlib.suppress(Exception), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _forward(follow, runner, image.clone())
    return follow


def named(found: Follow) -> Channels:
    """Slots and atoms of what a forward met."""
    names, slots = found.names, found.slots
    made = torch.zeros(names.count, dtype=torch.bool)
    for vector in found.makers:
        made[names.roots(vector)] = True
    for _, _, vector in slots:
        homeless = ~made[names.roots(vector)]
        if homeless.any():
            names.pin(vector[homeless], "no layer makes it")
    rooted = tuple(Slot(site, axis, names.roots(vector)) for site, axis, vector in slots)
    pinned = names.pinned()
    for slot in rooted:
        if len(slot.atoms) and bool((slot.atoms == slot.atoms[0]).all()):
            whole = f"all {len(slot.atoms)} channels of `{slot.axis}` of `{slot.site}` are one, and nothing would be left"
            pinned.setdefault(int(slot.atoms[0]), whole)
    return Channels(rooted, pinned)


def train_branches(model: nn.Module) -> None:
    """Let a network take the branches of training, its norms and dropouts left in eval mode."""
    model.train()
    for module in model.modules():
        if isinstance(module, STILL):
            module.eval()


def tensors(value: Any) -> list[Tensor]:
    """The tensors in what a network returns: nested lists and dicts, and objects that hold them as attributes."""
    found = []
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif hasattr(leaf, "__dict__"):
            found += tensors(vars(leaf))
    return found


def first_line(error: Exception) -> str:
    """What an error says, on one line."""
    return (str(error).strip().splitlines() or [""])[0][:160]


def _run(runner: nn.Module, image: Tensor) -> Follow:
    follow = Follow(runner.eval())
    with torch.random.fork_rng(devices=[]):
        _forward(follow, runner, image)
        if follow.unmet():
            _branches(follow, runner, image)
    follow.finish()
    return follow


def _forward(follow: Follow, runner: nn.Module, image: Tensor) -> None:
    follow.give(image, follow.solid(image.shape, "it is the input of the network"))
    with torch.no_grad(), follow:
        outputs = runner(image)
    for output in tensors(outputs):
        follow.names.pin(follow.of(output), "it is an output of the network")


def _branches(follow: Follow, runner: nn.Module, image: Tensor) -> None:
    """Weights that eval mode does not use may stand in branches that only training takes: auxiliary classifiers.

    A network that cannot be run like this (it wants targets) is left at what eval mode showed.
    """
    train_branches(runner)
    try:
        _forward(follow, runner, image)
        follow.branches = True
    except Exception:
        if image.device.type == "meta":
            raise  # once more, on numbers
