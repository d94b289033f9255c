"""Whether a layer full of zeros is faster packed: measured on this machine, between two convolutions as networks hold it.

    x (16 channels) -> 1x1 -> [the layer, ReLU] -> 1x1 -> 16 channels

once with the dense layer and once with the packed one, in ONNX Runtime, in turns. What stands around it counts: the runtime's
own kernels keep their images in a blocked layout, and a packed layer makes it convert there and back.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from lilliput.core.layers import MappedConv2d, MappedLinear
from lilliput.errors import WorkError
from lilliput.kernels import runtime, sparse
from lilliput.kernels.layers import BREAK_EVEN, SparseConv2d, SparseLinear
from lilliput.kernels.layers import pack_sparse as pack_by_share
from lilliput.kernels.window import Window

HALF = 0.5  # share of zeros below which a packed weight, 8 bytes a non-zero, is no smaller than a dense one: nothing is tried
BRIDGE = 16
_ROUNDS, _SAMPLE_SECONDS = 9, 5e-4
# The time that this thread computed: another program on its core takes none of it.
_now = time.thread_time if time.get_clock_info("thread_time").resolution < 1e-6 else time.perf_counter
_known: dict[tuple[Any, ...], tuple[float, float]] = {}


@dataclass(frozen=True)
class Worth:
    """What packing one layer is worth: milliseconds dense and packed, between two 1x1 convolutions, on one thread.

    Without times, `why` says why the layer cannot be packed.

    >>> print(Worth("conv1", 0.6, 0.25, 0.5))
    conv1: 60 % zeros, `0.5` ms packed and `0.25` ms dense: stays dense
    """

    layer: str
    zeros: float
    dense_ms: float | None = None
    packed_ms: float | None = None
    why: str = ""

    @property
    def pays(self) -> bool:
        """Whether the packed layer is faster."""
        return self.dense_ms is not None and self.packed_ms is not None and self.packed_ms < self.dense_ms

    def reason(self) -> str:
        """Why the layer stays dense, or is packed."""
        if self.why:
            return f"{100 * self.zeros:.0f} % zeros: {self.why}"
        times = f"`{self.packed_ms:.3g}` ms packed and `{self.dense_ms:.3g}` ms dense"
        return f"{100 * self.zeros:.0f} % zeros, {times}: {'packed' if self.pays else 'stays dense'}"

    def __str__(self) -> str:
        return f"{self.layer or '(the model itself)'}: {self.reason()}"


def worth(model: nn.Module, example: Tensor) -> tuple[Worth, ...]:
    """What packing is worth for every convolution and linear layer with at least as many zeros as other weights.

    Layers of one shape and about as many zeros are measured once a process, some hundredths of a second each. `example`: one
    input, (n, c, h, w). Raises `WorkError` where the native core was not built.
    """
    with _evaluating(model), torch.no_grad():
        return _all(model, example)


def _all(model: nn.Module, example: Tensor) -> tuple[Worth, ...]:
    found = {
        name: (module, zeros)
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and (zeros := _zeros(module)) >= HALF
    }
    if not found:
        return ()
    runtime.library()
    sizes = _sizes(model, {name: module for name, (module, _) in found.items()}, example)
    return tuple(_worth(name, module, zeros, sizes.get(name)) for name, (module, zeros) in found.items())


def pack_sparse(model: nn.Module, example: Tensor | None = None, zeros: float = BREAK_EVEN) -> nn.Module:
    """A copy of a model in eval mode in which convolutions and linear layers that are mostly zero are packed.

    With an `example` those are packed that are faster so on this machine, which is measured; `worth` says what was found, and
    why the others stay. Without, those whose weights are zeros in at least the share `zeros`. Depthwise convolutions, and
    layers with maps on their inputs or outputs, stay as they are.
    """
    if example is None:
        return pack_by_share(model, zeros)
    return packed(model, worth(model, example))


def packed(model: nn.Module, found: tuple[Worth, ...]) -> nn.Module:
    """A copy of a model in eval mode in which the layers that pay are packed."""
    made = copy.deepcopy(model).eval()
    for each in found:
        if each.pays:
            made = _replace(made, each.layer, _packed(made.get_submodule(each.layer)))
    return made


def _replace(model: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    """`layer` in the place of the module of this name, and in every other place where that module stands."""
    if not name:
        return layer
    old = model.get_submodule(name)
    for place, module in list(model.named_modules(remove_duplicate=False)):
        if module is old:
            parent, _, child = place.rpartition(".")
            setattr(model.get_submodule(parent), child, layer)
    return model


def _packed(module: nn.Module) -> nn.Module:
    return SparseLinear.of(module) if isinstance(module, nn.Linear) else SparseConv2d.of(module)  # type: ignore[arg-type]


def _weight(module: nn.Conv2d | nn.Linear) -> Tensor:
    weight = module.mapped_weight() if isinstance(module, MappedConv2d | MappedLinear) else module.weight
    return weight.detach().float()


def _zeros(module: nn.Conv2d | nn.Linear) -> float:
    weight = _weight(module)
    return 0.0 if weight.is_meta or not weight.numel() else float((weight == 0).float().mean())


def _refused(module: nn.Conv2d | nn.Linear) -> str:
    """Why a layer cannot be packed; nothing where it can."""
    if len(getattr(module, "input_maps", ())) or len(getattr(module, "output_maps", ())):
        return "its inputs or outputs pass through maps"
    if isinstance(module, nn.Linear):
        return ""
    if 1 < module.groups == module.in_channels:
        return "a depthwise convolution has too few products to skip"
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        return f"it pads with `padding_mode={module.padding_mode}`, `padding={module.padding}`"
    return ""


def _sizes(model: nn.Module, layers: dict[str, nn.Module], example: Tensor) -> dict[str, tuple[int, ...]]:
    """The shape of the first input of every layer that runs."""
    found: dict[str, tuple[int, ...]] = {}

    def seen(name: str) -> Callable[..., None]:
        def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            found.setdefault(name, tuple(inputs[0].shape))

        return note

    hooks = [module.register_forward_pre_hook(seen(name)) for name, module in layers.items()]
    try:
        model(example)
    finally:
        for hook in hooks:
            hook.remove()
    return found


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """The model is in evaluation mode inside, and each part is back in its own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def full_of_zeros(module: nn.Module) -> tuple[int, ...]:
    """The percent of zeros in a layer's weight, where packing it is worth a try; else nothing."""
    if not isinstance(module, nn.Conv2d | nn.Linear) or isinstance(module.weight, nn.UninitializedParameter):
        return ()
    with torch.no_grad():
        zeros = _zeros(module)
    return (round(100 * zeros),) if zeros >= HALF else ()


def _worth(name: str, module: nn.Conv2d | nn.Linear, zeros: float, size: tuple[int, ...] | None) -> Worth:
    why = _refused(module) or ("" if size is not None else "it does not run on the example")
    if why or size is None:
        return Worth(name, zeros, why=why)
    window = "linear" if isinstance(module, nn.Linear) else Window.of(module)
    key = (window, tuple(module.weight.shape), size, round(40 * zeros))
    if key not in _known:
        _known[key] = _measure(module, size)
    return Worth(name, zeros, *_known[key])


def _measure(module: nn.Conv2d | nn.Linear, size: tuple[int, ...]) -> tuple[float, float]:
    """Milliseconds with the dense layer and with the packed one."""
    weight = _weight(module)
    if isinstance(module, nn.Linear):
        dense, thin = _linear(weight)
        shape: tuple[int, ...] = (prod(size[:-1]), size[-1])
    else:
        dense, thin = _conv(module, weight)
        shape = (size[0], BRIDGE, *size[2:])
    x = torch.linspace(-1, 1, prod(shape)).view(shape).numpy()
    try:
        return _in_turns(_call(dense, x), _call(thin, x))
    except Exception as error:  # the runtime's errors share no base
        raise WorkError(f"ONNX Runtime cannot run a packed layer here: {str(error).splitlines()[0]}") from error


Graph = tuple[list[Any], dict[str, Tensor]]  # nodes from "x" to "y", and the tensors they read by name


def _conv(module: nn.Conv2d, weight: Tensor) -> tuple[Graph, Graph]:
    from onnx import helper

    outputs, inputs, window = weight.shape[0], module.in_channels, Window.of(module)
    told: dict[str, Any] = {"kernel_shape": window.kernel, "strides": window.stride}
    told |= {"dilations": window.dilation, "group": window.groups}
    own = helper.make_node("Conv", ["in", "w", "b"], ["made"], pads=(*window.padding, *window.padding), **told)
    names = ["in", "rows", "columns", "values", "b"]
    thin = helper.make_node("SparseConv", names, ["made"], domain=runtime.DOMAIN, channels=inputs, pads=window.padding, **told)
    around = {"feed": torch.full((inputs, BRIDGE, 1, 1), 0.05), "read": torch.full((BRIDGE, outputs, 1, 1), 0.05),
              "b": torch.zeros(outputs)}  # fmt: skip

    def between(node: Any) -> list[Any]:
        return [
            helper.make_node("Conv", ["x", "feed"], ["in"], kernel_shape=(1, 1)),
            node,
            helper.make_node("Relu", ["made"], ["active"]),
            helper.make_node("Conv", ["active", "read"], ["y"], kernel_shape=(1, 1)),
        ]

    return (between(own), {**around, "w": weight}), (between(thin), {**around, **_nonzeros(weight)})


def _linear(weight: Tensor) -> tuple[Graph, Graph]:
    from onnx import helper

    bias = {"b": torch.zeros(weight.shape[0])}
    own = helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)
    names = ["x", "rows", "columns", "values", "b"]
    thin = helper.make_node("SparseLinear", names, ["y"], domain=runtime.DOMAIN, channels=weight.shape[1])
    return ([own], {**bias, "w": weight}), ([thin], {**bias, **_nonzeros(weight)})


def _nonzeros(weight: Tensor) -> dict[str, Tensor]:
    return dict(zip(("rows", "columns", "values"), sparse.compress(weight), strict=True))


def _call(graph: Graph, x: Any) -> Callable[[], object]:
    """One inference in a session of its own."""
    import onnxruntime as ort  # type: ignore[import-untyped]
    from onnx import TensorProto, helper, numpy_helper

    nodes, tensors = graph
    ends = (
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    kept = [numpy_helper.from_array(tensor.contiguous().numpy(), name) for name, tensor in tensors.items()]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(runtime.DOMAIN, runtime.VERSION)]
    model = helper.make_model(helper.make_graph(nodes, "layer", *ends, kept), opset_imports=opsets, ir_version=9)
    options = runtime.register(ort.SessionOptions())
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = 1, 1, 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": x})


def _in_turns(one: Callable[[], object], other: Callable[[], object]) -> tuple[float, float]:
    """The least milliseconds of each, in turns: what else a machine does makes a sample longer, and none shorter."""
    calls = {call: _repeats(call) for call in (one, other)}
    taken: dict[Callable[[], object], list[float]] = {call: [] for call in calls}
    for _ in range(_ROUNDS):
        for call, times in calls.items():
            begun = _now()
            for _ in range(times):
                call()
            taken[call].append(1e3 * (_now() - begun) / times)
    return min(taken[one]), min(taken[other])


def _repeats(call: Callable[[], object]) -> int:
    call()
    begun = _now()
    call()
    return max(1, round(_SAMPLE_SECONDS / max(_now() - begun, 1e-7)))
