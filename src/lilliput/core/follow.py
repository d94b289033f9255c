"""Names carried beside the tensors of one forward, which is watched one ATen operation at a time.

What an operation does to names is a rule (core/rules). Whatever has none pins the names it meets and says where, so that
nothing is guessed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from lilliput.core.balance import balance
from lilliput.core.layers import Resizable
from lilliput.core.names import Names, spread, thin, varies
from lilliput.core.shapes import shaped

Rule = Callable[["Follow", Any, tuple[Any, ...], dict[str, Any], Any], None]
RULES: dict[str, Rule] = {}
OURS = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
KINDS: list[tuple[Callable[[Any], bool], Rule]] = []


def rule(*ops: str) -> Callable[[Rule], Rule]:
    """Register the rule of some ATen operations."""

    def decorate(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(ops, function))
        return function

    return decorate


def kind(belongs: Callable[[Any], bool]) -> Callable[[Rule], Rule]:
    """Register the rule of all operations that `belongs` accepts and that have no rule of their own."""

    def decorate(function: Rule) -> Rule:
        KINDS.append((belongs, function))
        return function

    return decorate


@dataclass(frozen=True, eq=False)
class Step:
    """One operation that ran, where in the user's code, and its results with their names (without expanded copies)."""

    op: str
    place: str
    results: list[tuple[Tensor, Tensor]]


class Follow(TorchDispatchMode):
    """Carries names beside the tensors of one forward and collects `slots`: (site, axis, names) of every parameter met.

    With `trace`, `history` holds everything that ran.
    """

    def __init__(self, model: nn.Module, trace: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names = Names()
        self._slots: dict[tuple[str, str], Tensor] = {}
        self._even: list[tuple[Tensor, str]] = []  # names of grouped layers, (groups, channels), which shrink evenly
        self.history: list[Step] | None = [] if trace else None
        self.branches = False  # whether the branches that only training takes were followed as well
        self._names_of = WeakTensorKeyDictionary()
        self.origin = WeakTensorKeyDictionary()  # tensors computed from one parameter alone, of its shape up to order
        self._made: dict[str, tuple[Tensor, Tensor]] = {}  # in and out names of weighted layers already met
        self._free = WeakTensorKeyDictionary()  # parameters that met data as plain tensors, with their names
        self.makers: list[Tensor] = []  # names that some layer with a weight makes
        self._asleep = 0
        self._register(model)

    # --- what is known of a tensor ---------------------------------------------------------------------------------

    def of(self, tensor: Tensor) -> Tensor:
        """The names of a tensor, of its shape; a parameter that meets data gets names of its own, unless it is a weight."""
        if tensor in self._names_of:
            found: Tensor = self._names_of[tensor]
            return found
        if tensor in self.parameters and tensor.numel() > 1:
            if not self._is_plain(tensor):
                return self.solid(tensor.shape, "a weight is used as data")
            made = self.names.fresh(tensor.numel()).view(tensor.shape)
            self._names_of[tensor] = self._free[tensor] = made
            return made
        return torch.zeros((), dtype=torch.long).expand(tensor.shape)

    def solid(self, shape: torch.Size, why: str) -> Tensor:
        """One pinned name all over: whatever is joined with it stays as well."""
        name = self.names.fresh(1)
        self.names.pin(name, f"{why} ({place()})")
        return name.view([1] * len(shape)).expand(shape)

    def _is_plain(self, tensor: Tensor) -> bool:
        """Whether a parameter may carry one channel an element: a scale, a gate, an embedding, but no weight matrix."""
        _, owner = self.parameters[tensor]
        is_weight = isinstance(owner, nn.modules.conv._ConvNd | nn.Linear) and tensor.dim() > 1
        return 1 < tensor.numel() < 1 << 16 and not is_weight and sum(n > 1 for n in tensor.shape) <= 2

    def known(self, tensor: Any) -> bool:
        """Whether a value carries names."""
        return isinstance(tensor, Tensor) and tensor in self._names_of

    def give(self, tensor: Any, names: Tensor) -> None:
        """Attach names to a result."""
        if isinstance(tensor, Tensor) and tensor.shape == names.shape:
            self._names_of[tensor] = names

    def vector(self, tensor: Tensor, dim: int) -> Tensor:
        """One name an index of `dim`; names that share an index are joined, so they leave together."""
        names = self.of(tensor)
        for other in range(names.dim()):
            if other != dim % names.dim() and varies(names, other):
                self.names.join_along(names, other)
        rest = [d for d in range(names.dim()) if d != dim % names.dim()]
        if not names.numel() or not rest:
            return names.reshape(-1).clone()
        return thin(names).amax(rest).expand(names.shape[dim]).clone()  # any of them but 0, which is no name

    def note(self, site: str, axis: str, names: Tensor) -> None:
        """Write down a slot; what is met twice (a shared layer, a weight and its bias) is one slot."""
        if (met := self._slots.setdefault((site, axis), names)) is not names:
            self.meet(met, names)

    def meet(self, first: Tensor, second: Tensor) -> None:
        """Join names of equal shape, and pin those that meet none: what stays there keeps them from going."""
        self.names.join(first, second)
        for one, other in ((first, second), (second, first)):
            if not other.all():
                self.names.pin(one[other == 0], f"they share a place with channels that stay ({place()})")

    def pin(self, values: Any, why: str, *outputs: Any) -> None:
        """Pin whatever names stand in some arguments, and everything that will meet the outputs."""
        named = [value for value in tree_leaves(values) if self.known(value)]
        for value in named:
            self.names.pin(self.of(value), f"{why} ({place()})")
        for result in tree_leaves(outputs) if named else ():
            if isinstance(result, Tensor):
                self.give(result, self.solid(result.shape, why))

    def site(self, tensor: Any) -> tuple[str, nn.Module | None, tuple[int, ...]] | None:
        """The parameter a tensor is or comes from: its path, the module that owns it, and the order of its dimensions."""
        if not isinstance(tensor, Tensor):
            return None
        if tensor in self.parameters:
            path, owner = self.parameters[tensor]
            return path, owner, tuple(range(tensor.dim()))
        found: tuple[str, nn.Module | None, tuple[int, ...]] | None = self.origin.get(tensor)
        return found

    # --- watching ---------------------------------------------------------------------------------------------------

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Spares the import of the compiler, a second on first use."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = shaped(func._schema.name, args)
        out = func(*args, **kwargs) if out is None else out
        if not self._asleep:
            self._met.update(id(a) for a in args if id(a) in self._own)
            self._apply(func, args, kwargs, out)
            if self.history is not None:
                results = [(t.clone(), thin(self.of(t))) for t in tree_leaves(out) if isinstance(t, Tensor)]
                self.history.append(Step(func._schema.name, place(), results))
        return out

    def _apply(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        op = func._schema.name
        own = RULES.get(op) or next((rule for belongs, rule in KINDS if belongs(func)), None)
        if own is None:
            base = args[0]._base if func._schema.is_mutable and isinstance(args[0], Tensor) else None
            self.pin((args, kwargs), f"no rule for {op.replace('::', '.')}", out, base)
        else:
            own(self, func, args, kwargs, out)

    def _register(self, model: nn.Module) -> None:
        self.parameters = WeakTensorKeyDictionary()
        self.shared: set[str] = set()  # parameters of several layers, which no edit could resize together
        for path, owner in model.named_modules():
            for name, tensor in [*owner.named_parameters(recurse=False), *owner.named_buffers(recurse=False)]:
                if tensor not in self.parameters:
                    self.parameters[tensor] = (f"{path}.{name}" if path else name, owner)
                else:
                    self.shared.add(self.parameters[tensor][0])
            if isinstance(owner, Resizable):
                layer: nn.Module = owner  # type: ignore[assignment]
                layer.register_forward_pre_hook(self._enter)
                layer.register_forward_hook(self._leave)
        self._own = {id(p) for p in model.parameters() if p.dim() > 1}
        self._met: set[int] = set()
        self._paths = {module: path for path, module in model.named_modules()}

    @property
    def slots(self) -> list[tuple[str, str, Tensor]]:
        """Every axis of a parameter that was met, with its names, in the order of the network."""
        return [(site, axis, names) for (site, axis), names in self._slots.items()]

    def unmet(self) -> bool:
        """Whether a weight has not been used."""
        return self._met != self._own

    def _enter(self, module: nn.Module, args: Any) -> None:
        self._asleep += 1

    def _leave(self, module: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
        """A resizable layer of the user's: names go where its `places` say, and new ones stand where it makes channels."""
        self._asleep -= 1
        inputs = self.vector(args[0], 1)
        places = torch.tensor(module.places)
        outputs = torch.where(places >= 0, inputs[places.clamp(min=0)], 0)
        outputs[places < 0] = self.names.fresh(int((places < 0).sum()))
        site = self._paths[module]
        self.note(site, "in", inputs)
        self.note(site, "out", outputs)
        self.give(output, spread(outputs, output.shape, 1))

    def finish(self) -> None:
        """Make grouped layers shrink evenly, and turn the names of free parameters into slots of their owners."""
        for blocks, why in self._even:
            balance(self.names, blocks, why)
        for tensor, names in list(self._free.items()):
            path, owner = self.parameters[tensor]
            rooted = self.names.roots(names)
            dims = [d for d in range(tensor.dim()) if varies(rooted, d)]
            if not dims:
                self.names.pin(names, f"all channels of `{path}` are one, and nothing would be left")
                continue
            if len(dims) != 1:
                self.names.pin(names, f"parameter `{path}` holds channels on {len(dims)} dimensions at once")
                continue
            site, axis = owned(path, owner, dims[0])
            index = tuple(slice(None) if d == dims[0] else 0 for d in range(tensor.dim()))
            self.note(site, axis, names[index])

    # --- weighted layers ---------------------------------------------------------------------------------------------

    def weighted(self, weight: Tensor, inputs: Tensor, outputs: int, dims: tuple[int, int], groups: int = 1) -> Tensor:
        """The names behind a layer with a weight: its slots are noted once; a shared weight keeps its names.

        `dims` are the dimensions of `weight` that run over outputs and inputs.
        """
        found = self.site(weight)
        if found is None:
            why = "a layer whose weight is computed during the forward"
            self.names.pin(inputs, f"{why} ({place()})")
            return self.solid(torch.Size([outputs]), why)
        path, owner, order = found
        if path in self.shared:
            self.names.pin(inputs, f"`{path}` is the weight of several layers")
            return self.solid(torch.Size([outputs]), f"`{path}` is the weight of several layers")
        if path in self._made:
            first, made = self._made[path]
            self.meet(first, inputs)
            return made
        made = self.names.fresh(outputs)
        self._made[path] = (inputs, made)
        self.makers.append(made)
        self.note(*owned(path, owner, order[dims[0]]), made)
        if groups == 1 or not self._in_groups(inputs, made, groups):
            self.note(*owned(path, owner, order[dims[1]]), inputs)
        return made

    def _in_groups(self, inputs: Tensor, made: Tensor, groups: int) -> bool:
        """Where there are more groups than channels in one, whole groups go, inputs with outputs; else all shrink evenly."""
        rows = [names.view(groups, -1) for names in (inputs, made)]
        if groups <= min(each.shape[1] for each in rows):
            why = f"its {groups} groups cannot lose equally many channels ({place()})"
            self._even += [(each, why) for each in rows]
            return False
        for each in rows:
            self.names.join_along(each, 1)
        self.meet(rows[0][:, 0], rows[1][:, 0])
        return True


def owned(path: str, owner: nn.Module | None, dim: int) -> tuple[str, str]:
    """Site and axis of a parameter's dimension: those of its layer if that is a known kind, else the parameter itself."""
    site = path.rpartition(".")[0]
    if isinstance(owner, nn.modules.conv._ConvTransposeNd):
        return site, ("in", "out")[dim] if path.endswith("weight") else "out"
    if isinstance(owner, nn.modules.conv._ConvNd | nn.Linear):
        return site, ("out", "in")[dim]
    if isinstance(owner, nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.PReLU):
        return site, "out"
    return path, str(dim)


def place() -> str:
    """File and line of the user's code that runs now."""
    frame = sys._getframe(1)
    while frame is not None:
        if not frame.f_code.co_filename.startswith(OURS):
            return _line(frame.f_code.co_filename, frame.f_lineno)
        frame = frame.f_back  # type: ignore[assignment]
    return "unknown place"


def origin(error: BaseException, form: str = "{}") -> str:
    """File and line of the user's code in which an error arose, written in `form`; nothing where it is nobody's line."""
    step, found = error.__traceback__, ""
    while step is not None:
        if not step.tb_frame.f_code.co_filename.startswith(OURS):
            found = form.format(_line(step.tb_frame.f_code.co_filename, step.tb_lineno))
        step = step.tb_next
    return found


def _line(file: str, number: int) -> str:
    return f"{Path(file).name}:{number}"
