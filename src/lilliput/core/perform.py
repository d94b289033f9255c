"""The only surgeon: edits in, a new model out. The model that went in is never touched."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from lilliput.core.copies import copied, sharing
from lilliput.core.edits import Edit, Map, Resize, Swap
from lilliput.core.layers import HOSTS, Mapped, MappedConv2d, MappedLinear, OutputMaps, output_hook, swaps
from lilliput.core.maps import maps
from lilliput.core.record import attach, record
from lilliput.core.resize import find, resize_at
from lilliput.errors import EditError, at


def perform(model: nn.Module, edits: Iterable[Edit], *, weights: bool = True) -> nn.Module:
    """A new model with these edits performed in order; the input is left as it was.

    The result shares no tensor with the input and remembers its edits (`edits(model)`). With `weights=False` only the
    structure is made and no numbers are computed, so it works on the meta device: loading a file is
    create, perform, load the state dict.
    Raises `EditError` with the site for an edit that does not fit.
    """
    edits = tuple(edits)
    new = sharing(model, _replaced(model, edits))
    with torch.no_grad():
        for edit in edits:
            with at(edit.site):
                _perform_one(new, edit, weights)
    return attach(new, edits=record(model).edits + edits)


def bake(model: nn.Module) -> nn.Module:
    """A new model in which every weight map has been replaced by the weight it computes.

    Mapped layers become ordinary ones; the channels, swaps and activation maps that change what runs stay.
    The result computes the same function; its edits are those that still shape it.
    """
    new = copied(model)
    for site, layer in list(new.named_modules()):
        if isinstance(layer, Mapped):
            _put(new, site, _plain(layer))
    kept = tuple(e for e in record(model).edits if not (isinstance(e, Map) and e.tensor == "weight"))
    return attach(new, edits=kept)


def _replaced(model: nn.Module, edits: Sequence[Edit]) -> list[torch.Tensor]:
    """Parameters that are read once and then gone, so that no copy of them is needed: of layers that make way for a swap.

    None where any edit may change numbers in place, and none that a layer has which stays.
    """
    if not all(_only_reads(edit) for edit in edits):
        return []
    sites = {edit.site for edit in edits if isinstance(edit, Swap)}
    gone = {module for name, layer in model.named_modules() if name in sites for module in layer.modules()}
    stay = {id(p) for module in model.modules() if module not in gone for p in module._parameters.values()}
    return [p for module in gone for p in module._parameters.values() if p is not None and id(p) not in stay]


def _only_reads(edit: Edit) -> bool:
    """Whether an edit changes no number that is there."""
    return edit.layer in swaps and swaps[edit.layer].only_reads if isinstance(edit, Swap) else isinstance(edit, Map)


def _perform_one(model: nn.Module, edit: Edit, weights: bool) -> None:
    if isinstance(edit, Resize):
        resize_at(model, edit)
    elif isinstance(edit, Swap):
        _swap(model, edit, weights)
    else:
        _map(model, edit, weights)


def _swap(model: nn.Module, edit: Swap, weights: bool) -> None:
    dense = find(model, edit.site)
    try:
        form = swaps[edit.layer]
        layer = form.like(dense, **edit.spec)
    except TypeError as error:
        raise EditError(f"`{edit.layer}` cannot be made with {edit.spec}: {error}") from None
    if weights:
        form.absorb_into(layer, model, dense, **edit.spec)
    layer.train(dense.training)
    _put(model, edit.site, layer)


def _map(model: nn.Module, edit: Map, weights: bool) -> None:
    layer = find(model, edit.site)
    if edit.tensor == "output":
        tensor, chain = _any_tensor(layer), _output_maps(layer)
    else:
        if edit.tensor not in ("weight", "input"):
            raise EditError(f"a map stands on `weight`, `input` or `output`, not on `{edit.tensor}`")
        layer = _host(model, edit.site, layer)
        tensor = layer.weight
        chain = layer.weight_maps if edit.tensor == "weight" else layer.input_maps
    try:
        made = maps[edit.map].like(tensor.detach(), **edit.spec)
    except TypeError as error:
        raise EditError(f"map `{edit.map}` cannot be made with {edit.spec}: {error}") from None
    if weights and edit.tensor == "weight":
        for earlier in chain:
            tensor = earlier(tensor)
        made.absorb(tensor.detach())
    made.train(layer.training)
    chain.append(made)


def _host(model: nn.Module, site: str, layer: nn.Module) -> MappedConv2d | MappedLinear:
    """The layer at a site as a mapped layer, put there if it was still an ordinary one."""
    if isinstance(layer, Mapped):
        return layer
    wrapping = HOSTS.get(type(layer))
    if wrapping is None:
        raise EditError(
            f"a `{type(layer).__name__}` has no mapped form; there is one for {', '.join(h.__name__ for h in HOSTS)}"
        )
    mapped = wrapping.__new__(wrapping)
    mapped.__dict__ = _copy_of_state(layer)
    mapped.weight_maps, mapped.input_maps = nn.ModuleList(), nn.ModuleList()
    _put(model, site, mapped)
    return mapped  # type: ignore[return-value]


def _plain(layer: MappedConv2d | MappedLinear) -> nn.Module:
    """The ordinary layer with the mapped weight; still a mapped one if maps on its input remain."""
    with torch.no_grad():
        weight = layer.mapped_weight().detach().clone()
    if len(layer.input_maps):
        layer.weight_maps = nn.ModuleList()
        layer.weight = nn.Parameter(weight, layer.weight.requires_grad)
        return layer
    kind = nn.Conv2d if isinstance(layer, MappedConv2d) else nn.Linear
    plain = kind.__new__(kind)
    plain.__dict__ = _copy_of_state(layer)
    for name in ("weight_maps", "input_maps"):
        del plain._modules[name]
    plain.weight = nn.Parameter(weight, layer.weight.requires_grad)
    return plain


def _copy_of_state(layer: nn.Module) -> dict[str, object]:
    """A module's attributes with its tables copied, so that two objects never share one table."""
    return {k: copy.copy(v) if isinstance(v, dict) else v for k, v in layer.__dict__.items()}


def _output_maps(layer: nn.Module) -> nn.ModuleList:
    if "output_maps" not in layer._modules:
        layer.output_maps = OutputMaps()
        layer.register_forward_hook(output_hook)
    return layer.output_maps  # type: ignore[return-value]


def _any_tensor(layer: nn.Module) -> torch.Tensor:
    """A tensor that tells an output map its device; a layer without any has none, and the CPU stands in."""
    return next(layer.parameters(), next(layer.buffers(), torch.empty(())))


def _put(model: nn.Module, site: str, layer: nn.Module) -> None:
    """Put a layer in every place where the old one stood: a shared layer stays shared."""
    old = model.get_submodule(site)
    if old is model:
        raise EditError("a layer that is the whole network cannot be replaced; put it into an `nn.Sequential`")
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is old:
                parent._modules[name] = layer
