"""Taps: layers of student and teacher by name, what they give in one forward, and the hooks that catch it.

A tap follows the network as it is: the layer at a site may have lost channels, carry maps, or be a compressed layer that
was put there; what is tapped is its output. What a compressed or mapped layer consists of is its own affair.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from lilliput.core.layers import Compressed, Mapped
from lilliput.data import Task
from lilliput.distill.ensemble import Ensemble
from lilliput.errors import ConfigError, ModelError, UnknownName, at

Taps = tuple[str, ...] | dict[str, str]
Shape = tuple[int, ...]
INPUT = ":in"


@dataclass(frozen=True)
class Survey:
    """What a network gives where: shapes (n, ...) by site in the order in which layers finish, `site:in` for inputs.

    `head` is the classifier: the last layer with parameters that takes (n, features) and whose output is the network's.
    """

    shapes: dict[str, Shape]
    head: str | None

    def match(self, pattern: str) -> list[str]:
        """The sites that a pattern names, in the order in which they run; raises `UnknownName` if there are none."""
        inward = pattern.endswith(INPUT)
        found = [s for s in self.shapes if s.endswith(INPUT) == inward and fnmatchcase(s, pattern)]
        if not found:
            raise UnknownName("layer", pattern, [s for s in self.shapes if s.endswith(INPUT) == inward])
        return found

    def stages(self) -> dict[tuple[int, int], str]:
        """The last site of every size of image above one pixel: {(height, width): site}."""
        images = {s: shape for s, shape in self.shapes.items() if len(shape) == 4 and not s.endswith(INPUT)}
        return {(h, w): site for site, (_, _, h, w) in images.items() if h * w > 1}


@dataclass
class Scene:
    """What a loss may see before the first step: both networks, the task, the seed. `asked` collects the taps."""

    student: nn.Module
    teacher: nn.Module
    task: Task
    seed: int = 0
    asked: list[tuple[str, str]] = field(default_factory=list)

    @cached_property
    def ours(self) -> Survey:
        """The student's layers."""
        return survey(self.student, self.task.example(2))

    @cached_property
    def theirs(self) -> Survey:
        """The teacher's layers."""
        return survey(self.teacher, self.task.example(2))

    def pairs(self, taps: Taps, default: str) -> tuple[tuple[str, str], ...]:
        """Sites of student and teacher that belong together, in the order in which the student runs them."""
        named = taps if isinstance(taps, dict) else {pattern: pattern for pattern in taps}
        found = [pair for ours, theirs in named.items() for pair in self._matched(ours, theirs)] or self._default(default)
        order = {site: number for number, site in enumerate(self.ours.shapes)}
        chosen = tuple(sorted(dict.fromkeys(found), key=lambda pair: order[pair[0]]))
        self.asked += chosen
        return chosen

    def _matched(self, ours: str, theirs: str) -> Iterable[tuple[str, str]]:
        with at("`taps` of the student"):
            one = self.ours.match(ours)
        with at("`taps` of the teacher"):
            two = self.theirs.match(theirs)
        if len(one) != len(two):
            raise ConfigError(
                f"`taps`: `{ours}` names {len(one)} layers of the student ({_listed(one)}) and `{theirs}` {len(two)} of the "
                f"teacher ({_listed(two)}); they are paired in order, so name as many"
            )
        return zip(one, two, strict=True)

    def _default(self, kind: str) -> list[tuple[str, str]]:
        if isinstance(self.teacher, Ensemble):
            raise ConfigError(
                "the teacher is an ensemble, whose members are many: say which layers by `taps` (`0.layer1`, ...)"
            )
        if kind == "embedding":
            heads = self.ours.head, self.theirs.head
            if heads[0] is None or heads[1] is None:
                raise ConfigError("no classifier on features (n, c) was found in both networks; name the embedding by `taps`")
            return [(heads[0] + INPUT, heads[1] + INPUT)]
        ours, theirs = self.ours.stages(), self.theirs.stages()
        if list(ours) != list(theirs) or not ours:
            raise ConfigError(
                f"the student's stages end at {_sizes(ours)} and the teacher's at {_sizes(theirs)}; pair layers by `taps`"
            )
        found = [(ours[size], theirs[size]) for size in ours]
        place = {"middle": len(found) // 2, "last": len(found) - 1}.get(kind)
        return found if place is None else [found[place]]


class Watch:
    """Hooks that catch what layers give, while gradients are on (`grad`) or while they are off; `close` removes them.

    What is caught is a copy in single precision or better: a layer behind may work in place. It is an ordinary tensor also
    where the forward runs in inference mode, so that autograd may keep it.
    """

    def __init__(self, model: nn.Module, sites: Iterable[str], *, grad: bool) -> None:
        self.caught: dict[str, Tensor] = {}
        self.sites = tuple(dict.fromkeys(sites))
        self.handles = [self._hook(model, site, grad) for site in self.sites]

    def _hook(self, model: nn.Module, site: str, grad: bool) -> Any:
        def keep(value: Tensor) -> None:
            if torch.is_grad_enabled() == grad:  # so that a validation pass leaves nothing behind
                with torch.inference_mode(False):
                    self.caught[site] = value.float() if value.itemsize < 4 else value.clone()

        if site.endswith(INPUT):
            layer = model.get_submodule(site.removesuffix(INPUT))
            return layer.register_forward_pre_hook(lambda module, args: keep(args[0]))
        return model.get_submodule(site).register_forward_hook(lambda module, args, output: keep(output))

    def take(self) -> dict[str, Tensor]:
        """What was caught since the last time."""
        caught, self.caught = self.caught, {}
        for site in self.sites:
            if site not in caught:
                raise ModelError(f"{site}: the layer did not run in this forward, so there is nothing to tap")
        return caught

    def close(self) -> None:
        """Remove every hook."""
        for handle in self.handles:
            handle.remove()


def survey(model: nn.Module, example: Tensor) -> Survey:
    """Run one forward in eval mode without gradients and note what every layer gives; the model is left as it was."""
    shapes: dict[str, Shape] = {}
    given: dict[str, Tensor] = {}

    def note(site: str, args: Any, output: Any) -> None:
        if args and isinstance(args[0], Tensor):
            shapes[site + INPUT] = tuple(args[0].shape)
        if isinstance(output, Tensor):
            shapes.pop(site, None)  # a layer that runs twice stands where it finished last
            shapes[site], given[site] = tuple(output.shape), output

    outer = dict(_outer(model))
    handles = [m.register_forward_hook(lambda m, a, o, site=site: note(site, a, o)) for site, m in outer.items()]
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            like = next((p for p in model.parameters() if p.is_floating_point()), example)
            final = model.eval()(example.to(like.device, like.dtype))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    heads = [s for s in outer if given.get(s) is final and any(True for _ in outer[s].parameters())]
    flat = [s for s in heads if len(shapes.get(s + INPUT, ())) == 2]
    return Survey(shapes, flat[-1] if flat else None)


def _outer(model: nn.Module, site: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Every module below `model` with its site, without the insides of compressed and mapped layers."""
    for name, child in model.named_children():
        if name == "output_maps":
            continue
        path = f"{site}.{name}" if site else name
        yield path, child
        if not isinstance(child, Compressed | Mapped):
            yield from _outer(child, path)


def _listed(sites: list[str]) -> str:
    return ", ".join(f"`{s}`" for s in sites[:6]) + (", …" if len(sites) > 6 else "")


def _sizes(stages: dict[tuple[int, int], str]) -> str:
    return ", ".join(f"`{site}` ({h}x{w})" for (h, w), site in stages.items()) or "nothing"
