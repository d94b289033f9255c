"""Folding batch norms into the layers before them, as edits.

At inference a norm is y = (x − μ)·g + β with g = γ / √(σ² + ε). After a linear layer with weight W and bias b it is the layer
with weight g·W and bias g·(b − μ) + β. The layer is swapped for that one and the norm for the identity.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lilliput.core.edits import Edit, Swap
from lilliput.core.layers import Compressed, Mapped, swaps
from lilliput.core.watch import Graph, Op, watch
from lilliput.errors import EditError

_STOCK = (_BatchNorm.forward, nn.SyncBatchNorm.forward)
FOLDABLE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)


def fold(model: nn.Module, example: Tensor, stay: Collection[str] = ()) -> list[Edit]:
    """The edits that fold every batch norm that can be folded; `unfolded` says why the others stay.

    `stay` are sites whose inputs and outputs somebody reads: a pair that such a layer ends or begins between is left alone.
    """
    found, _ = _pairs(model, watch(model, example))
    pairs = [pair for pair in found if not any(_is_cut(pair, site) for site in stay)]
    return [edit for layer, norm in pairs for edit in (Swap(layer, "folded", {"norm": norm}), Swap(norm, "identity"))]


def unfolded(model: nn.Module, example: Tensor) -> dict[str, str]:
    """The batch norms that stay, each with the reason."""
    return _pairs(model, watch(model, example))[1]


@swaps.register("folded")
class Folded(Compressed):
    """The same layer, with the batch norm that follows it computed into its weight and bias. An ordinary layer takes its place.

    Jacob et al. 2018, arXiv:1712.05877, section 3.2.
    """

    name = "folded"

    @classmethod
    def like(cls, dense: nn.Module, norm: str) -> nn.Module:  # type: ignore[override] # its own spec
        """The layer with a bias, its weight still to be computed."""
        if isinstance(dense, Mapped):
            raise EditError("its weight passes through maps, which a batch norm cannot be folded into; bake the model first")
        if type(dense) not in FOLDABLE:
            raise EditError(f"a batch norm cannot be folded into a `{type(dense).__name__}`")
        assert isinstance(dense, nn.Linear | _ConvNd)
        layer = type(dense).__new__(type(dense))
        layer.__dict__ = {k: v.copy() if isinstance(v, dict) else v for k, v in dense.__dict__.items()}
        outputs = dense.out_features if isinstance(dense, nn.Linear) else dense.out_channels
        bias = dense.weight.new_zeros(outputs) if dense.bias is None else dense.bias.detach().clone()
        layer.weight = nn.Parameter(dense.weight.detach().clone(), dense.weight.requires_grad)
        layer.bias = nn.Parameter(bias, dense.weight.requires_grad)
        return layer

    @classmethod
    def absorb_into(  # type: ignore[override] # its own spec
        cls, layer: Any, model: nn.Module, dense: nn.Module, norm: str
    ) -> None:
        """Compute weight and bias in double precision."""
        scale, shift = line(model, norm)
        outputs = layer.bias.numel()
        if scale.numel() != outputs:
            raise EditError(f"the layer has `{outputs}` outputs and the norm `{norm}` has `{scale.numel()}` channels")
        layer.weight.copy_(_scaled(layer, scale))
        layer.bias.copy_(layer.bias.double() * scale + shift)


@swaps.register("identity")
class Passed(Compressed):
    """Nothing: what came in goes out."""

    name = "identity"

    @classmethod
    def like(cls, dense: nn.Module) -> nn.Module:  # type: ignore[override] # its own spec
        """`nn.Identity`."""
        return nn.Identity()

    @classmethod
    def absorb_into(cls, layer: Any, model: nn.Module, dense: nn.Module) -> None:  # type: ignore[override]
        """There is nothing to compute."""


def line(model: nn.Module, norm: str) -> tuple[Tensor, Tensor]:
    """Slope and offset of a batch norm at inference, in double precision, (channels,) each."""
    layer: Any = model.get_submodule(norm)
    if not _is_fixed(layer):
        raise EditError(f"`{norm}` is a `{type(layer).__name__}`, not a batch norm with running statistics")
    mean, variance = layer.running_mean.double(), layer.running_var.double()
    scale = (variance + layer.eps).rsqrt()
    if layer.weight is not None:
        scale = scale * layer.weight.double()
    shift = -mean * scale if layer.bias is None else layer.bias.double() - mean * scale
    return scale, shift


def _scaled(layer: Any, scale: Tensor) -> Tensor:
    """The weight with each output channel multiplied by its slope."""
    weight: Tensor = layer.weight.double()
    if isinstance(layer, _ConvTransposeNd):  # (in, out / groups, ...): outputs of a group lie on dimension 1
        split = weight.view(layer.groups, -1, *weight.shape[1:])
        return (split * scale.view(layer.groups, 1, -1, *[1] * (weight.dim() - 2))).view_as(weight)
    return weight * scale.view(-1, *[1] * (weight.dim() - 1))


def _is_fixed(layer: Any) -> bool:
    return isinstance(layer, _BatchNorm) and layer.running_mean is not None and layer.running_var is not None


def _is_cut(pair: tuple[str, str], site: str) -> bool:
    """Whether a layer holds one of two sites and not the other."""
    inside = [each == site or each.startswith(f"{site}.") for each in pair]
    return inside[0] != inside[1]


def only_normalizes(norm: Any) -> bool:
    """Whether a layer is a batch norm with running statistics whose forward is known to do nothing else."""
    return _is_fixed(norm) and (type(norm).forward in _STOCK or bool(getattr(norm, "only_norms", False)))


def _does_more(layer: Any) -> str | None:
    """What a layer does that its class and its numbers do not say, or None."""
    if layer._forward_hooks or layer._forward_pre_hooks:
        return "has hooks"
    if _is_fixed(layer) and not only_normalizes(layer):
        return f"is a `{type(layer).__name__}`, whose forward may do more than normalise"
    return None


def _pairs(model: nn.Module, graph: Graph) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """(layer, norm) of everything foldable, and the norms that are not, with reasons."""
    found, stays = [], {}
    for op in graph.ops:
        if op.kind != "batch_norm":
            continue
        layer, why = _layer_before(model, graph, op)
        if why is None:
            found.append((layer, op.site))
        else:
            stays[op.site] = why
    return found, stays


def _layer_before(model: nn.Module, graph: Graph, op: Op) -> tuple[str, str | None]:
    """The layer a norm can be folded into, or why there is none."""
    before = graph.makers.get(op.inputs[0])
    if before is None or before.kind not in ("conv", "linear"):
        return (
            "",
            f"what comes before it is {'the input' if before is None else before.kind}, not a convolution or linear layer",
        )
    layer, norm = model.get_submodule(before.site), model.get_submodule(op.site)
    if not _is_fixed(norm):
        return "", "it has no running statistics"
    if isinstance(layer, Mapped) or any("output_maps" in each._modules for each in (layer, norm)):
        return "", f"it or `{before.site}` has maps; bake the model first"
    more = [f"`{at}` {why}" for at, each in ((op.site, norm), (before.site, layer)) if (why := _does_more(each))]
    if more:
        return "", more[0]
    if type(layer) not in FOLDABLE:
        return "", f"`{before.site}` is a `{type(layer).__name__}`"
    if graph.times_called[before.site] > 1 or graph.times_called[op.site] > 1 or _is_shared(model, layer):
        return "", f"it or `{before.site}` is used more than once"
    if graph.only_reader(op.inputs[0]) is not op:
        return "", f"something else reads the output of `{before.site}` as well"
    return before.site, None


def _is_shared(model: nn.Module, layer: Any) -> bool:
    """Whether another layer uses the same weight."""
    holders = [m for m in model.modules() if any(p is layer.weight for p in m._parameters.values())]
    return len(holders) > 1
