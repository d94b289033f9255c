"""The layers of a compressed model: one wrapping class per host layer, and the base of layers that replace a dense one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch.nn.functional as F
from torch import Tensor, nn

from lilliput.registry import Registry


class MappedConv2d(nn.Conv2d):
    """A convolution that uses `maps(weight)` and `maps(input)`; `weight` stays the latent, trained parameter.

    With no map it equals `nn.Conv2d`, and so do its state-dict keys.
    """

    weight_maps: nn.ModuleList
    input_maps: nn.ModuleList

    def mapped_weight(self) -> Tensor:
        """The weight the layer computes with, (out, in / groups, kh, kw)."""
        return through(self.weight_maps, self.weight)

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = self._conv_forward(through(self.input_maps, input), self.mapped_weight(), self.bias)
        return output


class MappedLinear(nn.Linear):
    """A linear layer that uses `maps(weight)` and `maps(input)`; `weight` stays the latent, trained parameter."""

    weight_maps: nn.ModuleList
    input_maps: nn.ModuleList

    def mapped_weight(self) -> Tensor:
        """The weight the layer computes with, (out, in)."""
        return through(self.weight_maps, self.weight)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(through(self.input_maps, input), self.mapped_weight(), self.bias)


Mapped = MappedConv2d | MappedLinear
HOSTS: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: MappedConv2d, nn.Linear: MappedLinear}


class Compressed(nn.Module):
    """What a `Swap` puts in: a layer that does a dense layer's work at another cost.

    `like(dense, **spec)` is structure only (it works on the meta device); `absorb(dense)` sets the weights to the best
    approximation of the dense layer; `dense()` is the ordinary layer it computes. A form whose `like` returns an ordinary
    layer (a folded convolution, an identity) overrides `absorb_into` instead.
    """

    name: ClassVar[str]
    only_reads: ClassVar[bool] = False  # whether it neither changes nor keeps any tensor of the network it is put into

    @classmethod
    def like(cls, dense: nn.Module, **spec: Any) -> nn.Module:
        """A layer of this kind with the dense layer's interface."""
        raise NotImplementedError

    def absorb(self, dense: nn.Module) -> None:
        """Take over the dense layer's weights as well as this form can."""
        raise NotImplementedError

    def absorb_within(self, model: nn.Module, dense: nn.Module, **spec: Any) -> None:
        """As `absorb`, for layers that also need a neighbour named in their spec."""
        self.absorb(dense)

    @classmethod
    def absorb_into(cls, layer: Any, model: nn.Module, dense: nn.Module, **spec: Any) -> None:
        """Set the numbers of what `like` returned. A form that returns an ordinary layer says here how."""
        layer.absorb_within(model, dense, **spec)

    def dense(self) -> nn.Module:
        """The ordinary layer that computes the same function."""
        raise NotImplementedError


swaps: Registry[type[Compressed]] = Registry("compressed layer")


@runtime_checkable
class Resizable(Protocol):
    """A user's own layer that moves channels about and can lose some.

    `places[i]` says which input channel output channel i carries (-1: none). `resize` keeps the given channels of an
    axis. Channel names pass through such a layer by its `places` alone.
    """

    places: Sequence[int]

    def resize(self, axis: str, keep: tuple[int, ...]) -> None:
        """Keep these channels of "in" or "out"."""
        ...


class OutputMaps(nn.ModuleList):
    """The maps on a module's output, kept among its children. To a container that runs its children it does nothing."""

    def forward(self, output: Tensor) -> Tensor:
        """The identity; `output_hook` applies the maps."""
        return output


def through(maps: nn.ModuleList, tensor: Tensor) -> Tensor:
    """Apply maps in order."""
    for each in maps:
        tensor = each(tensor)
    return tensor


def output_hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    """The forward hook behind `Map(site, "output", …)`: a plain function, so that copies of a model share nothing."""
    return through(module.output_maps, output)  # type: ignore[arg-type]
