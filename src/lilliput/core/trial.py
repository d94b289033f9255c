"""A trial of channel names: some channels of every group are removed, and the result is compared with silence.

Names follow what the code does to channels, not what it counts: `view(b, 512)`, `y[:, :4]` or a scale of `1 / 64` written
into a forward look like numbers computed from the width. On one smaller network the difference shows, as an error or in the
outputs. The trial runs on a copy whose constant scales and offsets have been made to differ, on noise, on an image as small
as the network takes: 64 pixels a side, or else the example's. It takes single precision first, and what is not equal there is
decided in double precision. Groups that differ are searched for by halving and pinned, with the line that is responsible.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lilliput.core.atoms import Channels, Group
from lilliput.core.blame import blame, close
from lilliput.core.copies import sharing
from lilliput.core.edits import Resize
from lilliput.core.follow import origin
from lilliput.core.naming import first_line, tensors, train_branches
from lilliput.core.resize import resize_at
from lilliput.core.silence import silence
from lilliput.errors import EditError, at

SIDE = 64
PRECISIONS = (torch.float32, torch.float64)
EXACT = (torch.float64,)


def tried(model: nn.Module, example: Tensor, found: Channels, branches: bool = False) -> Channels:
    """The same channels, those pinned whose removal is not the same as silence. With `branches`, training must run as well."""
    trial = Trial(model, example, found, branches)
    left, pinned = list(found.groups), dict(found.pinned)
    while left and trial.fails(left):
        for group in _culprits(trial, left):
            left.remove(group)
            pinned |= dict.fromkeys(group.atoms, trial.why(group))
    return Channels(found.slots, pinned)


def _culprits(trial: Trial, groups: list[Group]) -> list[Group]:
    """The groups that differ: each alone, or all of them where only their company does. Not empty."""
    if len(groups) == 1:
        return groups
    halves = groups[: len(groups) // 2], groups[len(groups) // 2 :]
    return [g for half in halves if trial.fails(half, EXACT) for g in _culprits(trial, half)] or groups


class Trial:
    """One network whose channels are removed, and silenced, for comparison."""

    def __init__(self, model: nn.Module, example: Tensor, found: Channels, branches: bool) -> None:
        self.model, self.example, self.found, self.branches = model, example, found, branches
        self._models: dict[torch.dtype, nn.Module] = {}
        self.own = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)

    def fails(self, groups: Sequence[Group], dtypes: Sequence[torch.dtype] = PRECISIONS) -> bool:
        """Whether removing some of each of these groups differs from silence, in each of these precisions."""
        said = []
        for dtype in dtypes:
            said.append(self._differs(groups, dtype))
            if said[-1] is False:
                return False
        if all(each is None for each in said) and self.own not in dtypes:
            return self._differs(groups, self.own) is not False
        return True

    def _differs(self, groups: Sequence[Group], dtype: torch.dtype) -> bool | None:
        """None where the network does not run in this precision."""
        try:
            large, small = self.pair(groups, dtype)
        except EditError:
            return True
        for image in self.images(dtype):
            try:
                expected = self.outputs(large, image)
            except Exception:  # too small an image, or a type the code does not take: the next one
                continue
            try:
                return not _same(expected, self.outputs(small, image))
            except Exception:  # the smaller network fails where the larger one runs: that is what is looked for
                return True
        return None

    def why(self, group: Group) -> str:
        """What is wrong with removing channels of a group, and where in the code."""
        for dtype in dict.fromkeys((*PRECISIONS[::-1], self.own)):
            try:
                large, small = self.pair([group], dtype)
            except EditError as error:
                return f"they cannot be removed: {error}"
            for image in self.images(dtype):
                try:
                    expected = self.outputs(large, image)
                except Exception:  # as in `_differs`
                    continue
                return self._told(expected, large, small, image, blame(large, small, image, self.edits([group])))
        return "what their removal does cannot be tried out"

    def _told(self, expected: list[Tensor], large: nn.Module, small: nn.Module, image: Tensor, line: str | None) -> str:
        try:
            if _same(expected, self.outputs(small, image)):
                return "their removal shows once channels of other groups go as well"
        except Exception as error:
            return f"the code counts on their number ({line or origin(error) or 'unknown place'}): {first_line(error)}"
        return f"the code counts on their number ({line or 'unknown place'})"

    def edits(self, groups: Sequence[Group]) -> list[Resize]:
        """Of each group goes its first, so that everything behind it moves, and others: more here, fewer there. Half stay,
        since a signal through few channels may be cut by an activation, and then nothing differs."""
        gone = set[int]()
        for group in groups:
            first, *rest = group.atoms
            draw = random.Random(first)  # the same whatever other groups are tried with it
            gone |= {first, *draw.sample(rest, draw.randrange((len(rest) + 1) // 2) if rest else 0)}
        for slot in self.found.slots:  # groups of one atom must not all go where there is nothing else
            if set(slot.atoms.tolist()) <= gone:
                gone.discard(int(slot.atoms[-1]))
        return self.found.remove(gone)

    def pair(self, groups: Sequence[Group], dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
        """The network with some channels silenced, and the one without them."""
        edits = self.edits(groups)
        if dtype not in self._models:
            alike = [p for p in self.model.parameters() if p.dtype is dtype]
            self._models[dtype] = _lively(sharing(self.model, alike).to(dtype).eval())
        whole = self._models[dtype]
        large, small = (sharing(whole, [*whole.parameters(), *whole.buffers()]) for _ in range(2))
        with torch.no_grad():
            for edit in edits:
                with at(edit.site):
                    resize_at(small, edit)
            _own(large, edits)
            silence(large, edits)
        return large, small

    def images(self, dtype: torch.dtype) -> Iterator[Tensor]:
        """One image of noise, small first and then as large as the example's; like the example in mean and spread."""
        example = (self.example[:1] if self.example.dim() > 1 else self.example).detach()
        device = next((p.device for p in self.model.parameters()), example.device)
        numbers = example.double()
        mean, spread = float(numbers.mean()), float(numbers.std()) if numbers.numel() > 1 else 1.0
        for shape in dict.fromkeys((_small(example.shape), tuple(example.shape))):
            noise = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            yield (noise * (spread or 1.0) + mean).to(device, dtype)

    def outputs(self, model: nn.Module, image: Tensor) -> list[Tensor]:
        """What the network returns; in training it only has to run."""
        with torch.no_grad(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a network warns of, it warns of when it is used
            torch.manual_seed(0)
            found = [t.clone() for t in tensors(model(image.clone()))]
            if self.branches:
                train_branches(model)
                model(image.clone())
                model.eval()
        return found


class _Planned(Trial):
    """The trial of one plan instead of a drawn one."""

    def __init__(self, model: nn.Module, example: Tensor, found: Channels, plan: list[Resize], branches: bool) -> None:
        super().__init__(model, example, found, branches)
        self.plan = plan

    def edits(self, groups: Sequence[Group]) -> list[Resize]:
        """The plan."""
        return self.plan


def deviates(model: nn.Module, example: Tensor, found: Channels, plan: list[Resize], branches: bool = False) -> bool:
    """Whether the network without these channels computes something else than with them silenced. With `branches`, training
    must run as well."""
    return bool(plan) and _Planned(model, example, found, plan, branches).fails(())


def _small(shape: torch.Size) -> tuple[int, ...]:
    """The shape of an image with its shorter side at 64 pixels, where it is larger."""
    if len(shape) != 4 or min(shape[2:]) <= SIDE:
        return tuple(shape)
    return (*shape[:2], *(32 * round(side * SIDE / min(shape[2:]) / 32) for side in shape[2:]))


def _own(model: nn.Module, edits: Sequence[Resize]) -> None:
    """Give the layers that edits name tensors of their own."""
    owners = {e.site.rpartition(".")[0] if e.axis.isdigit() else e.site for e in edits}
    _put(model, {id(m) for m in map(model.get_submodule, owners)}, torch.clone)


def _lively(model: nn.Module) -> nn.Module:
    """Constant scales and offsets that differ from channel to channel: a fresh norm would hide what is wrong."""
    source = torch.Generator().manual_seed(0)

    def varied(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() or tensor.numel() < 2 or not _constant(tensor.reshape(-1)):
            return tensor
        noise = 0.5 + torch.rand(tensor.shape, generator=source, dtype=torch.float64)
        return tensor * noise.to(tensor) if bool(tensor.any()) else (noise - 1).to(tensor)

    _put(model, {id(m) for m in model.modules()}, varied)
    return model


def _put(model: nn.Module, chosen: set[int], change: Callable[[Tensor], Tensor]) -> None:
    """Put changed tensors in the place of those of some modules; what is shared stays shared."""
    done: dict[int, tuple[Tensor, Tensor]] = {}
    for module in model.modules():
        tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for table in tables if id(module) in chosen else ():
            for name, tensor in table.items():
                if tensor is None:
                    continue
                if id(tensor) not in done:
                    new = change(tensor.detach())
                    made = nn.Parameter(new, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new
                    done[id(tensor)] = (tensor, made)
                table[name] = done[id(tensor)][1]


def _constant(numbers: Tensor) -> bool:
    return bool(numbers[0] == numbers[-1]) and bool((numbers == numbers[0]).all())


def _same(expected: Sequence[Tensor], got: Sequence[Tensor]) -> bool:
    """Whether all outputs are equal, up to rounding."""
    if [t.shape for t in expected] != [t.shape for t in got]:
        return False
    return all(close(a, b) for a, b in zip(expected, got, strict=True))
