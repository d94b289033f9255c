"""Packed layers in an `.onnx`: which are packed, what joins them in the file, and what a session needs to open it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lilliput.core.layers import MappedConv2d
from lilliput.export.agree import agree, outputs
from lilliput.export.rewrite import Net, attributes
from lilliput.export.targets import packers
from lilliput.kernels import pack_binary, pack_ternary, worth
from lilliput.kernels.break_even import packed
from lilliput.kernels.runtime import DOMAIN, VERSION, built, register
from lilliput.kernels.signs import thresholds
from lilliput.measure.latency import domains
from lilliput.quant.integer import Affine

domains.add(DOMAIN, register)

# Packed convolutions that write floats, and where their bias stands: behind the scale, or the non-zeros.
SUMS = {"SparseConv": 4, "BinaryConv": 3, "TernaryConv": 4, "Int4Conv": 3}


@packers.register(".onnx")
def pack(model: nn.Module, example: Tensor) -> tuple[nn.Module, dict[str, str]]:
    """The network with layers packed that are faster so in ONNX Runtime; and why others full of zeros stay dense.

    Convolutions of signs are packed wherever they can be; those whose weights are zeros, and linear layers, where it is
    measured to pay (`kernels.worth`). Networks with integers keep all their zeros for the runtime's integer kernels.
    """
    if not built():
        return model, {}
    made = pack_ternary(pack_binary(model)) if _has_signs(model) else model
    whole = any(isinstance(module, Affine) for module in model.modules())
    found = () if whole else worth(made, example)
    if any(each.pays for each in found):
        made = packed(made, found)
    if made is not model:
        agree(model, example, outputs(made, example), "packed")
    return made, {each.layer or type(model).__name__: each.reason() for each in found if not each.pays}


def rewrite(net: Net) -> None:
    """Apply every rule for packed layers, and say which version of the domain a file needs."""
    net.rewrite(norm_within, no_clipping_before_signs, never_floats)
    if any(node.domain == DOMAIN for node in net.nodes):
        used = [o for o in net.model.opset_import if o.domain == DOMAIN]
        (used[0] if used else net.model.opset_import.add(domain=DOMAIN)).version = VERSION


def norm_within(net: Net, node: Any) -> bool:
    """A batch norm behind a packed layer is part of its numbers."""
    made = net.makers.get(node.input[0]) if node.op_type == "BatchNormalization" else None
    if made is None or made.op_type not in SUMS or net.readers[made.output[0]] != [node]:
        return False
    gamma, beta, mean, variance = (net.constants[name].astype(np.float64) for name in node.input[1:5])
    factor = gamma / np.sqrt(variance + attributes(node).get("epsilon", 1e-5))
    place = SUMS[made.op_type]
    bias = net.constants[made.input[place]] if len(made.input) > place else np.zeros_like(mean)
    shifted = _own(net, made, _beside(made, "bias"), factor * (bias - mean) + beta)
    inputs = [*made.input[: place - 1], _scaled(net, made, factor), shifted]
    net.remove(made, node)
    net.add(made.op_type, inputs, node.output[0], domain=DOMAIN, **attributes(made))
    return True


def no_clipping_before_signs(net: Net, node: Any) -> bool:
    """A clip or ReLU whose bounds keep what is negative apart from what is not does nothing to a sign."""
    made = net.makers.get(node.input[0]) if node.op_type == "Binarize" and len(node.input) == 1 else None
    if made is None or made.op_type != "Clip" or len(made.input) < 3 or not all(n in net.constants for n in made.input[1:3]):
        return False
    low, high = (float(net.constants[name]) for name in made.input[1:3])
    if not low < 0 <= high:
        return False
    net.connect(node, 0, made.input[0])
    if not net.readers.get(made.output[0]):
        net.remove(made)
    return True


def never_floats(net: Net, node: Any) -> bool:
    """A convolution of signs whose output is read for its signs alone compares whole numbers, and writes bits."""
    made = net.makers.get(node.input[0]) if node.op_type == "Binarize" and len(node.input) == 1 else None
    if made is None or made.op_type not in ("BinaryConv", "TernaryConv") or net.readers[made.output[0]] != [node]:
        return False
    told, place = attributes(made), SUMS[made.op_type]
    weight, scale, *rest = (torch.from_numpy(net.constants[name].copy()) for name in (made.input[1], *made.input[place - 1 :]))
    bias = rest[0] if rest else torch.zeros(len(scale))
    products = told["channels"] // told["group"] * weight.shape[2] * weight.shape[3]
    least, flip = thresholds(lambda dots: dots * scale.view(-1, 1, 1) + bias.view(-1, 1, 1), len(scale), products)
    sides = [net.constant(_beside(made, name), value.numpy()) for name, value in (("least", least), ("flip", flip))]
    net.remove(made, node)
    net.add(f"{made.op_type}Bits", [*made.input[: place - 1], *sides], node.output[0], domain=DOMAIN, **told)
    return True


def _has_signs(model: nn.Module) -> bool:
    """Whether there may be convolutions of signs, which `pack_binary` looks at closer; maps on outputs would get lost."""
    found = [module for module in model.modules() if isinstance(module, MappedConv2d) and len(module.input_maps)]
    return bool(found) and not any(len(getattr(module, "output_maps", ())) for module in found)


def _beside(node: Any, name: str) -> str:
    """The name of a constant of the layer that a node stands for."""
    path = node.input[1].rpartition(".")[0]
    return f"{path}.{name}" if path else name


def _scaled(net: Net, node: Any, factor: np.ndarray) -> str:
    """The scale of every output channel times its factor: of sums of whole numbers, or in the non-zeros themselves."""
    name = node.input[SUMS[node.op_type] - 1]
    if node.op_type == "SparseConv":
        factor = np.repeat(factor, np.diff(net.constants[node.input[1]]))
    return _own(net, node, name, net.constants[name] * factor)


def _own(net: Net, node: Any, name: str, value: np.ndarray) -> str:
    """A constant of this name, in floats; what it was is forgotten if no other node reads it."""
    if name in net.constants and net.readers[name] == [node]:
        del net.constants[name]
    return net.constant(name, value.astype(np.float32))
