"""Which layers of a network can be factorized, what they cost now, and why the others cannot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from lilliput.core.copies import sharing
from lilliput.errors import ConfigError, EditError
from lilliput.factor.chain import Chain, outside
from lilliput.factor.shape import Link, Pair, Shape, macs, pair


@dataclass(frozen=True)
class Site:
    """A layer with its name, its shape from outside, and the sizes of the inputs it gets, one for every time it runs."""

    name: str
    layer: nn.Module
    seen: Shape
    sizes: tuple[Pair, ...]

    @property
    def links(self) -> list[Link]:
        """What runs there now."""
        if not isinstance(self.layer, Chain):
            return [self.seen.whole()]
        return [_link(made, child) for made, child in zip(self.layer.links_made, self.layer.chain, strict=True)]

    @property
    def macs(self) -> int:
        """Multiply-adds of the layer as it is."""
        return macs(self.links, self.sizes)

    @property
    def params(self) -> int:
        """Weights of the layer as it is."""
        return sum(link.params for link in self.links)


def sites(model: nn.Module, example: Tensor, skip: Sequence[str] = ()) -> tuple[list[Site], dict[str, str]]:
    """The layers that can be factorized in the order they run, and the others, each with the reason.

    Chains that stand there already are layers like any other; the convolutions inside them are not. Raises `ConfigError`
    for a pattern in `skip` that no layer matches.
    """
    layers, stays = _candidates(model)
    for pattern in skip:
        if not any(fnmatchcase(name, pattern) for name in (*layers, *stays)):
            raise ConfigError(f"`skip`: no layer is called `{pattern}`; they are {', '.join((*layers, *stays))}")
    for name in [n for n in layers if any(fnmatchcase(n, p) for p in skip)]:
        stays[name] = "it is to be skipped"
        del layers[name]
    sizes = _run(model, example, set(layers))
    stays |= {name: "it does not run on the example" for name in layers if name not in sizes}
    return [Site(name, layers[name], outside(layers[name]), tuple(sizes[name])) for name in sizes], stays


def _candidates(model: nn.Module) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Layers by name, and reasons for those with a weight that cannot be taken apart."""
    layers: dict[str, nn.Module] = {}
    stays: dict[str, str] = {}
    inside: set[nn.Module] = set()
    holders = Counter(id(p) for m in model.modules() for p in m._parameters.values() if p is not None)
    for name, layer in model.named_modules():
        if layer in inside or not (isinstance(layer, Chain | nn.Linear) or isinstance(layer, nn.modules.conv._ConvNd)):
            continue
        if isinstance(layer, Chain):
            inside |= set(layer.modules())
        try:
            outside(layer)
        except EditError as error:
            stays[name] = str(error)
            continue
        weight: Any = layer.chain[0].weight if isinstance(layer, Chain) else layer.weight
        if layer is model:
            stays[name] = "it is the whole network; put it into an `nn.Sequential`"
        elif holders[id(weight)] > 1:
            stays[name] = "its weight is used by another layer as well"
        else:
            layers[name] = layer
    return layers, stays


def _run(model: nn.Module, example: Tensor, wanted: set[str]) -> dict[str, list[Pair]]:
    """Input sizes of every wanted layer of a copy that shares all weights, run on one image, in the order they first run."""
    runner = sharing(model, model.parameters()).eval()
    sizes: dict[str, list[Pair]] = {}
    for name, layer in runner.named_modules():
        if name in wanted:
            layer.register_forward_pre_hook(lambda _, args, name=name: sizes.setdefault(name, []).append(_size(args[0])))
    with torch.no_grad():
        runner(example[:1].to(next(runner.parameters(), example).device))
    return sizes


def _size(x: Tensor) -> Pair:
    """Height and width, or for a linear layer how many rows it multiplies."""
    return pair(x.shape[-2:]) if x.dim() == 4 else (x[0, ..., 0].numel(), 1)


def _link(made: Link, child: Any) -> Link:
    """A link with the channels it has now, which pruning may have changed."""
    if isinstance(child, nn.Linear):
        return replace(made, inputs=child.in_features, outputs=child.out_features)
    return replace(made, inputs=child.in_channels, outputs=child.out_channels, groups=child.groups)
