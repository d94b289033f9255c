"""The profile of a network: what it executes, counted at the level of ATen operations, per layer and in total."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lilliput.errors import ConfigError, ModelError
from lilliput.measure.precision import input_bits, storage_bytes, stored, weight_bits
from lilliput.measure.watch import Row, Watch, host, tensors

if TYPE_CHECKING:
    from rich.console import Group


@dataclass(frozen=True)
class Layer:
    """What one module does itself, without its children, for one example.

    Shapes are those of the first call, batch included; a module that is called several times has the sum of its calls.
    `bits` is the width of a weight, `input_bits` that of the input where a quantizer stands before the layer;
    `peak_activation_bytes` is the most that was alive in the whole network while this layer ran.
    """

    name: str
    kind: str
    input_shape: tuple[int, ...] | None
    output_shape: tuple[int, ...] | None
    params: int
    macs: int
    effective_macs: int
    bytes: int
    peak_activation_bytes: int
    bits: float | None
    input_bits: float | None
    calls: int

    @property
    def density(self) -> float:
        """The share of its multiply-adds in which the weight is not zero; 1 for a layer without any."""
        return self.effective_macs / self.macs if self.macs else 1.0


@dataclass(frozen=True)
class Profile:
    """Counts of a network for one example: totals, and `layers` in the order in which they ran.

    MACs are multiplications with the addition that follows, in convolutions and matrix products only; `effective_macs`
    leaves out those with a zero weight. `bytes` is what the weights take when each is stored with the bits it needs.
    `uncounted` names operations that may cost multiply-adds no rule is known for, and how often they ran.
    """

    layers: tuple[Layer, ...]
    peak_activation_bytes: int
    uncounted: Mapping[str, int] = field(default_factory=dict)

    @property
    def params(self) -> int:
        """Parameters, each counted once however often it is used."""
        return sum(layer.params for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-adds."""
        return sum(layer.macs for layer in self.layers)

    @property
    def effective_macs(self) -> int:
        """Multiply-adds whose weight is not zero."""
        return sum(layer.effective_macs for layer in self.layers)

    @property
    def bytes(self) -> int:
        """Bytes of parameters and buffers, by precision."""
        return sum(layer.bytes for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        totals = ("params", "macs", "effective_macs", "bytes", "peak_activation_bytes")
        layers = [{**asdict(layer), "density": layer.density} for layer in self.layers]
        return {**{name: getattr(self, name) for name in totals}, "layers": layers, "uncounted": dict(self.uncounted)}

    def __rich__(self) -> Group:
        from lilliput.measure.table import render

        return render(self)

    def __str__(self) -> str:
        from lilliput.measure.table import text

        return text(self)


def profile(model: nn.Module, example: Any, *, batch: int | None = None) -> Profile:
    """Run the model once on `example` and count what it executes.

    `example` is a tensor, a tuple of positional arguments, or a dict of named ones. All counts of work and memory are
    divided by `batch`, which is the first dimension of the first tensor unless it is given. The forward is an ordinary
    eager one in evaluation mode without gradients, on any device, "meta" included (the example is moved there); the
    model, its buffers, the example and the random state are as they were afterwards.
    Raises `ModelError` with the layer's name where the forward fails.
    """
    model = _uncompiled(model)
    _check(model)
    arguments = _on_device(example, model)
    watch = Watch(model, arguments)
    with _untouched(model), torch.no_grad(), watch.on():
        try:
            _call(model, arguments)
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError, NotImplementedError) as error:
            raise ModelError(f"{watch.site}: {_said(error)}. The example is {_describe(example)}.") from error
    size = _batch(example) if batch is None else batch
    if size < 1:
        raise ConfigError(f"`batch` (={size}) is the number of examples in one forward: 1 or more")
    peak = -(-watch.live.peak // size)
    return Profile(_layers(model, watch, size), peak, dict(sorted(watch.uncounted.items())))


def _layers(model: nn.Module, watch: Watch, batch: int) -> tuple[Layer, ...]:
    """Rows of modules that ran an operation, in that order, then of those that only own tensors."""
    params, sizes = _own(model)
    owning = [path for path in sizes if path not in watch.ran and (params[path] or sizes[path])]
    modules, rows = dict(model.named_modules()), watch.rows
    return tuple(_layer(p, modules[p], rows.get(p, Row()), params[p], sizes[p], batch) for p in (*watch.ran, *owning))


def _layer(path: str, module: nn.Module, row: Row, params: int, size: int, batch: int) -> Layer:
    return Layer(
        name=path,
        kind=type(module).__name__,
        input_shape=row.input_shape,
        output_shape=row.output_shape,
        params=params,
        macs=round(row.macs / batch),
        effective_macs=round(row.effective_macs / batch),
        bytes=size,
        peak_activation_bytes=-(-row.peak // batch),
        bits=weight_bits(module),
        input_bits=input_bits(module),
        calls=row.calls,
    )


def _own(model: nn.Module) -> tuple[Counter[str], Counter[str]]:
    """Parameters and bytes of each layer, its maps' included; a shared tensor belongs to the first layer with it."""
    params: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    seen: set[int] = set()
    for path, module in model.named_modules():
        place = host(path)
        mine = [p for p in module._parameters.values() if p is not None and id(p) not in seen]
        params[place] += sum(p.numel() for p in mine)
        if "weight_maps" not in path.split("."):  # the quantizer's side information stands for its state
            sizes[place] += storage_bytes(module, skip=seen)
        seen |= {id(t) for t in (*stored(module), *module._parameters.values())}
    return params, sizes


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; every attribute of every module, and the random state, as they were afterwards."""
    before = [(m, dict(vars(m)), {k: dict(vars(m)[k]) for k in ("_parameters", "_buffers")}) for m in model.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it hides a whole attention layer in one operation
    try:
        with torch.random.fork_rng(devices=[]):
            for module, _, _ in before:
                module.training = False
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, attributes, registered in before:
            vars(module).clear()
            vars(module).update(attributes)
            for kind, entries in registered.items():
                vars(module)[kind].clear()
                vars(module)[kind].update(entries)


def _uncompiled(model: nn.Module) -> nn.Module:
    """The module inside a compiled one: what a compiler fuses can no longer be told apart."""
    compiler = sys.modules.get("torch._dynamo.eval_frame")
    return model._orig_mod if compiler is not None and isinstance(model, compiler.OptimizedModule) else model


def _check(model: nn.Module) -> None:
    lazy = [name for name, p in model.named_parameters() if isinstance(p, nn.UninitializedParameter)]
    if lazy:
        raise ModelError(f"{lazy[0]}: has no shape yet; run the model once on an example, then profile it")


def _call(model: nn.Module, arguments: Any) -> Any:
    if isinstance(arguments, dict):
        return model(**arguments)
    return model(*arguments) if isinstance(arguments, tuple | list) else model(arguments)


def _on_device(example: Any, model: nn.Module) -> Any:
    """The example, on "meta" if the model is there; a model on another device gets what it was given."""
    first = next(iter((*model.parameters(), *model.buffers())), None)
    if first is None or not first.is_meta:
        return example
    return torch.utils._pytree.tree_map_only(Tensor, lambda t: t.to("meta"), example)


def _batch(example: Any) -> int:
    found = tensors(example)
    return max(found[0].shape[0], 1) if found and found[0].dim() else 1


def _describe(example: Any) -> str:
    shapes = " and ".join(f"`{tuple(t.shape)}`" for t in tensors(example))
    return f"of shape {shapes}" if shapes else "without a tensor"


def _said(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
