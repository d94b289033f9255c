"""Names carried beside the tensors of one forward, which is watched one ATen operation at a time.

What an operation does to names is a rule (core/rules). Whatever has none pins the names it meets and says where, so that
nothing is guessed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from lilliput.core.layers import Resizable
from lilliput.core.names import Names, spread, thin, varies

Rule = Callable[["Follow", Any, tuple[Any, ...], dict[str, Any], Any], None]
RULES: dict[str, Rule] = {}
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


class Follow(TorchDispatchMode):
    """Carries names beside the tensors of one forward and collects `slots`: (site, axis, names) of every parameter met."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names = Names()
        self.slots: list[tuple[str, str, Tensor]] = []
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
        for other_site, other_axis, other in self.slots:
            if (other_site, other_axis) == (site, axis):
                self.meet(other, names)
                return
        self.slots.append((site, axis, names))

    def meet(self, first: Tensor, second: Tensor) -> None:
        """Join names of equal shape, and pin those that meet none: what stays there keeps them from going."""
        self.names.join(first, second)
        for one, other in ((first, second), (second, first)):
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
        out = func(*args, **kwargs)
        if not self._asleep:
            self._apply(func, args, kwargs, out)
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
        self._paths = {module: path for path, module in model.named_modules()}

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
        """Turn the names of free parameters into slots of their owners."""
        for tensor, names in list(self._free.items()):
            path, owner = self.parameters[tensor]
            rooted = self.names.roots(names)
            dims = [d for d in range(tensor.dim()) if varies(rooted, d)]
            if len(dims) != 1:
                self.names.pin(names, f"parameter `{path}` holds channels on {len(dims)} dimensions at once")
                continue
            site, axis = owned(path, owner, dims[0])
            index = tuple(slice(None) if d == dims[0] else 0 for d in range(tensor.dim()))
            self.note(site, axis, names[index])

    # --- weighted layers ---------------------------------------------------------------------------------------------

    def weighted(self, weight: Tensor, inputs: Tensor, outputs: int, dims: tuple[int, int]) -> Tensor:
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
        for names, dim in ((made, dims[0]), (inputs, dims[1])):
            self.note(*owned(path, owner, order[dim]), names)
        return made


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
        file = frame.f_code.co_filename
        if "/torch/" not in file and "/lilliput/core/" not in file:
            return f"{file.rsplit('/', 1)[-1]}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "unknown place"
