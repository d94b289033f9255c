"""The table of layers that papers print: one row a stage, with its cost, read from the network itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lilliput.measure.counts import Layer, profile
from lilliput.measure.table import amount
from lilliput.zoo.blocks import Shift, SqueezeExcite
from lilliput.zoo.shufflenet_v2_plus import NormedGate

if TYPE_CHECKING:
    from rich.table import Table

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)  # exactly these: a subclass is a block of its author's
GATES = (SqueezeExcite, NormedGate)
WORDS = {  # blocks that papers call otherwise than by the name of their class
    "Bypassed": "fire with bypass",
    "DepthwiseSeparable": "depthwise separable",
    "GatedInvertedResidual": "bottleneck",
    "InvertedResidual": "bottleneck",
}
POOLS = {"max_pool2d": "maxpool", "max_pool2d_with_indices": "maxpool", "avg_pool2d": "avgpool"}
MEANS = ("mean", "_adaptive_avg_pool2d")
NOT_RUN = "not run in inference"


@dataclass(frozen=True)
class Stage:
    """A row: `repeats` equal blocks one after another, the first of `stride`, on an input of (channels, height, width).

    `expansion` is how many times wider the inside of a bottleneck is than its input, `gated` whether it has a
    squeeze-and-excite gate. None stands where a number would mean nothing. The cost is that of all repeats.
    """

    name: str
    operator: str
    input: tuple[int, ...]
    expansion: float | None
    channels: int | None
    gated: bool
    repeats: int
    stride: int | None
    params: int
    macs: int

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "input": list(self.input)}


@dataclass(frozen=True)
class Stages:
    """The rows of a network in the order in which they run; their costs add up to those of its profile."""

    title: str
    rows: tuple[Stage, ...]

    @property
    def params(self) -> int:
        """Parameters of all rows."""
        return sum(row.params for row in self.rows)

    @property
    def macs(self) -> int:
        """Multiply-adds of all rows."""
        return sum(row.macs for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        rows = [row.to_json() for row in self.rows]
        return {"architecture": self.title, "params": self.params, "macs": self.macs, "stages": rows}

    def __rich__(self) -> Table:
        return _table(self)


@dataclass
class _Call:
    """A block that ran, or a pool between two blocks: `module` is None for that."""

    path: str
    module: nn.Module | None
    input: tuple[int, ...]
    output: tuple[int, ...] = ()
    operator: str = ""
    widest: int = 0
    cost: list[Layer] = field(default_factory=list)


def stages(model: nn.Module, example: Any) -> Stages:
    """Run the network on `example`, a batch of one, and list its blocks, equal ones in a row folded into one.

    A block is what the author made a module of its own; a block with one convolution is that convolution. Pools between
    blocks have a row, also those that are functions. Normalization and what else has no multiply-adds belongs to the row
    before. Counts are those of `profile`. Raises `ModelError` where the forward fails.
    """
    layers = profile(model, example).layers
    watch = _Watch(model, {layer.name for layer in layers if layer.macs})
    with torch.no_grad(), _evaluating(model), watch.on(), watch:
        model(example)
    calls = watch.calls
    unrun = _share_out(layers, calls)
    expanding = {type(c.module) for c in calls if c.module is not None and _expands(c)}
    rows = _folded(calls, [_row(call, type(call.module) in expanding) for call in calls], model)
    title = getattr(model, "architecture", type(model).__name__)
    rest = [Stage(n.name, NOT_RUN, (), None, None, False, 1, None, n.params, 0) for n in unrun if n.params]
    return Stages(str(title), (*rows, *rest))


class _Watch(TorchDispatchMode):
    """Records the blocks of a forward, and the pools outside of them."""

    def __init__(self, model: nn.Module, busy: set[str]) -> None:
        super().__init__()
        self.calls: list[_Call] = []
        self._blocks = dict(_blocks(model, "", busy, True))
        self._inside: _Call | None = None

    @contextmanager
    def on(self) -> Iterator[None]:
        """Hooks on every block and on what is in it, inside."""
        hooks = []
        for path, block in self._blocks.items():
            hooks.append(block.register_forward_pre_hook(self._enter(path)))
            hooks += [m.register_forward_hook(self._width) for m in block.modules() if m is not block]
            hooks.append(block.register_forward_hook(self._leave))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _enter(self, path: str) -> Any:
        def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
            self._inside = _Call(path, module, tuple(args[0].shape[1:]))
            self.calls.append(self._inside)

        return enter

    def _width(self, module: nn.Module, args: Any, out: Any) -> None:
        if self._inside is not None and isinstance(out, Tensor) and out.dim() == 4:
            self._inside.widest = max(self._inside.widest, out.shape[1])

    def _leave(self, module: nn.Module, args: Any, out: Any) -> None:
        if self._inside is not None:
            self._inside.output = tuple(out.shape[1:]) if isinstance(out, Tensor) else ()
        self._inside = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.__name__.split(".")[0]
        if self._inside is None and (name in POOLS or name in MEANS) and args[0].dim() == 4:
            self._pool(name, args, out[0] if isinstance(out, tuple) else out)
        return out

    def _pool(self, name: str, args: Any, out: Tensor) -> None:
        before, after = tuple(args[0].shape[1:]), tuple(out.shape[1:])
        if before == after or (name == "mean" and sorted(d % 4 for d in args[1]) != [2, 3]):
            return
        wanted = after[1:] if len(after) == 3 else (1, 1)
        kernel = args[1] if name in POOLS else [n // m for n, m in zip(before[1:], wanted, strict=True)]
        word = POOLS.get(name, "avgpool")
        self.calls.append(_Call("", None, before, (after[0], *wanted), f"{word} {_by(kernel)}"))


def _blocks(module: nn.Module, path: str, busy: set[str], outermost: bool = False) -> Iterator[tuple[str, nn.Module]]:
    """The blocks under a container; what has no multiply-adds is none. A wrapper of one network is a container."""
    inner = [(f"{path}.{n}".lstrip("."), m) for n, m in module.named_children()]
    inner = [(p, m) for p, m in inner if any(_under(b, p) for b in busy)]
    if not inner:
        yield path, module
    for place, child in inner:
        wraps = outermost and len(inner) == 1 and any(True for _ in child.children())
        if type(child) in CONTAINERS or wraps:
            yield from _blocks(child, place, busy)
        else:
            yield place, child


def _share_out(layers: tuple[Layer, ...], calls: list[_Call]) -> list[Layer]:
    """Give each layer's cost to its block, or to the block that ran before; what never ran is left."""
    owners = {call.path: call for call in reversed(calls) if call.module is not None}
    last, unrun = next(iter(reversed(owners.values()))), []
    for layer in layers:
        owner = next((call for path, call in owners.items() if _under(layer.name, path)), None)
        if owner is None and layer.calls == 0 and layer.params:
            unrun.append(layer)
            continue
        last = owner or last
        last.cost.append(layer)
    return unrun


def _row(call: _Call, expanding: bool) -> Stage:
    convolution = _is_image(call.input) and _is_image(call.output)
    stride = max(1, round(call.input[1] / call.output[1])) if convolution and call.output[1] > 1 else None
    gated = call.module is not None and any(isinstance(m, GATES) for m in call.module.modules())
    return Stage(
        name=call.path,
        operator=call.operator or _operator(call),
        input=call.input,
        expansion=round(call.widest / call.input[0], 2) if expanding else None,
        channels=call.output[0] if _is_image(call.output) or len(call.output) == 1 else None,
        gated=gated,
        repeats=1,
        stride=stride,
        params=sum(layer.params for layer in call.cost),
        macs=sum(layer.macs for layer in call.cost),
    )


def _operator(call: _Call) -> str:
    """A convolution, with its groups; a linear layer; else the block's class in words and its longest kernel."""
    module = call.module
    assert module is not None
    working = [m for m in module.modules() if _weight_dims(m) in (2, 4)]
    alone = len(working) == 1
    if alone and _kernel(working[0]) and _is_image(call.output) and _gives(working[0], call):
        return _convolution(working[0], call.input[0])
    if alone and working[0] is module and _weight_dims(module) == 2:
        return "linear"
    word = WORDS.get(type(module).__name__) or _in_words(type(module).__name__)
    kernels = [kernel for m in module.modules() if (kernel := _kernel(m))]
    longest = max(kernels, key=lambda k: (max(k), k[0] * k[1]), default=None)
    return f"{word} {_by(longest)}" if longest else word


def _convolution(conv: nn.Module, inputs: int) -> str:
    kernel, groups = _by(_kernel(conv) or ()), inputs // max(1, _weight(conv).shape[1])
    if groups == 1:
        return f"conv2d {kernel}"
    return f"depthwise {kernel}" if groups == inputs else f"conv2d {kernel}, {groups} groups"


def _gives(conv: nn.Module, call: _Call) -> bool:
    """Whether the shape is what the convolution alone gives; a block that pools or appends as well gives another."""
    sizes = zip(call.input[1:], _pair(getattr(conv, "stride", 1)), call.output[1:], strict=True)
    near = all(abs(out - size / step) <= max(2, size // (4 * step)) for size, step, out in sizes)
    return near and _weight(conv).shape[0] >= call.output[0]


def _expands(call: _Call) -> bool:
    """Wider inside than at both ends, around something that works channel by channel."""
    assert call.module is not None
    inner = [m for m in call.module.modules() if m is not call.module]
    single = any(isinstance(m, Shift) or (_weight_dims(m) == 4 and _weight(m).shape[1] == 1) for m in inner)
    return single and _is_image(call.output) and call.widest > max(call.input[0], call.output[0])


def _folded(calls: list[_Call], rows: list[Stage], model: nn.Module) -> list[Stage]:
    """Neighbours that are equal in all a row says, as one."""
    found: list[Stage] = []
    last: Stage | None = None  # the latest block, of which the last row found may hold several
    for call, row in zip(calls, rows, strict=True):
        if last is not None and call.module is not None and _follows(row, last, found[-1].repeats, model):
            held = found[-1]
            params, macs = held.params + row.params, held.macs + row.macs
            found[-1] = replace(held, repeats=held.repeats + 1, channels=row.channels, params=params, macs=macs)
        else:
            found.append(row)
        last = row
    return found


def _follows(row: Stage, last: Stage, repeats: int, model: nn.Module) -> bool:
    """Whether a block repeats the one before: of one cost with it, or the first behind the opener of a stage.

    Blocks that append to their input (DenseNet) repeat when they append as much.
    """
    alike = [getattr(row, name) == getattr(last, name) for name in ("operator", "expansion", "gated")]
    if not all(alike) or row.stride not in (1, None) or row.channels is None or last.channels is None:
        return False
    stage, _, _ = row.name.rpartition(".")
    together = stage == last.name.rpartition(".")[0] and type(model.get_submodule(stage)) is nn.Sequential
    appended = row.channels - row.input[0]
    if appended > 0 and together and appended == last.channels - last.input[0] == _last_width(model, row.name):
        return True
    same = (row.params, row.macs) == (last.params, last.macs)
    return row.channels == last.channels and row.stride == 1 and (same or (together and repeats == 1))


def _last_width(model: nn.Module, path: str) -> int:
    convs = [m for m in model.get_submodule(path).modules() if _weight_dims(m) == 4]
    return int(_weight(convs[-1]).shape[0]) if convs else 0


def _weight(module: nn.Module) -> Tensor:
    weight = getattr(module, "weight", None)
    return weight if isinstance(weight, Tensor) else torch.empty(0)


def _weight_dims(module: nn.Module) -> int:
    return _weight(module).dim() if _weight(module).numel() else 0


def _kernel(module: nn.Module) -> tuple[int, int] | None:
    """Height and width of a convolution's kernel or of a shift's reach."""
    if _weight_dims(module) == 4:
        return (_weight(module).shape[2], _weight(module).shape[3])
    side = vars(module).get("kernel")
    return (side, side) if isinstance(side, int) else None


def _in_words(name: str) -> str:
    """
    >>> _in_words("SqueezeExcite"), _in_words("Conv2d"), _in_words("ModuleA")
    ('squeeze excite', 'conv2d', 'module a')
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower()


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)  # type: ignore[return-value]


def _by(sizes: Any) -> str:
    height, width = _pair(sizes[0] if len(sizes) == 1 else sizes)
    return f"{height}x{width}"


def _is_image(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3


def _under(path: str, place: str) -> bool:
    return place == "" or path == place or path.startswith(f"{place}.")


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    before = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training


def _table(found: Stages) -> Table:
    """Only the columns that say something of this network."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_footer=True, pad_edge=False, title=found.title, title_justify="left")
    table.add_column("input", "total")
    table.add_column("operator")
    named = {
        "t": [_number(row.expansion) for row in found.rows],
        "c": [_number(row.channels) for row in found.rows],
        "SE": ["yes" if row.gated else "" for row in found.rows],
        "n": [str(row.repeats) for row in found.rows],
        "s": [_number(row.stride) for row in found.rows],
    }
    kept = {title: cells for title, cells in named.items() if set(cells) - {"", "–", *("1" * (title == "n"))}}
    for title in kept:
        table.add_column(title, justify="right", no_wrap=True)
    for title, total in (("params", found.params), ("MACs", found.macs)):
        table.add_column(title, amount(total), justify="right", no_wrap=True)
    for i, row in enumerate(found.rows):
        cells = (cells[i] for cells in kept.values())
        table.add_row(_size(row.input), row.operator, *cells, amount(row.params), amount(row.macs))
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


def _size(shape: tuple[int, ...]) -> str:
    """Height by width by channels, as papers write it.

    >>> _size((3, 224, 224)), _size((1280,))
    ('224x224x3', '1280')
    """
    return "x".join(str(n) for n in (*shape[1:], *shape[:1]))
