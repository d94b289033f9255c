"""Weights behind quantizers: stored as their codes, and decoded into the layer when a file is loaded."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from lilliput.core.layers import Mapped, through
from lilliput.core.maps import Codes, Quantizer
from lilliput.errors import FormatError, ModelError, at
from lilliput.store.guard import Guard
from lilliput.store.tensors import Stored, same, stored


def encode_weights(model: nn.Module, tensors: dict[str, Stored]) -> dict[str, dict[str, str]]:
    """Put codes where a quantizer's float weight stood, and the side tensors beside them.

    Returns, for each weight stored as codes, the names of its side tensors in the file by their names in `Codes`.
    """
    codes = {}
    for name, layer in _quantized(model):
        if name in tensors and (made := _encode(layer, name)) is not None:
            codes[name] = _put(tensors, name, made)
    return codes


def decode_weights(model: nn.Module, codes: Mapping[str, Codes], *, trust: bool) -> None:
    """Give the layers of a skeleton the weights that these codes stand for.

    Raises `FormatError` where there is no quantizer, and where the weight is not the layer's.
    """
    layers = dict(_quantized(model))
    for name, each in codes.items():
        if name not in layers:
            raise FormatError(f"{name} is stored as codes, and the record puts no quantizer there")
        _decode(layers[name], name, each, trust)


def _decode(layer: Mapped, name: str, codes: Codes, trust: bool) -> None:
    limit = Guard(largest=64 * codes.values.numel() + (1 << 16))  # a small codebook may be larger than its weight
    _, quantizer = _stored_by(layer.weight_maps)
    with at(name), torch.no_grad(), nullcontext() if trust else limit:
        weight = quantizer.decode(codes)
    if weight.shape != layer.weight.shape or not weight.is_floating_point():
        raise FormatError(f"{name} decodes to {list(weight.shape)}, and the record makes it {list(layer.weight.shape)}")
    layer.weight = nn.Parameter(weight, layer.weight.requires_grad)


def _quantized(model: nn.Module) -> Iterator[tuple[str, Mapped]]:
    """The layers whose last weight map is a quantizer and whose weight no other layer uses.

    A quantizer for files that stands before another is the one whose codes are stored: the other reads what it decodes to.
    """
    owners = Counter(id(weight) for module in model.modules() for weight in module._parameters.values())
    for site, layer in model.named_modules():
        if isinstance(layer, Mapped) and layer.weight_maps and isinstance(layer.weight_maps[-1], Quantizer):
            if owners[id(layer.weight)] == 1:
                yield f"{site}.weight".removeprefix("."), layer


def _encode(layer: Mapped, name: str) -> Codes | None:
    """The codes of a layer's weight, if the layer computes the same from the weight they stand for."""
    maps, weight = copy.deepcopy(layer.weight_maps).cpu(), layer.weight.detach().cpu()
    place, quantizer = _stored_by(maps)
    with torch.no_grad():
        codes = quantizer.encode(through(maps[:place], weight))
        if not torch.equal(through(maps, quantizer.decode(codes)), through(maps, weight)):
            return None
    if codes.values.shape != weight.shape or not _whole(codes):
        what = f"whole numbers of shape {list(weight.shape)} from {codes.low} to {codes.high}"
        raise ModelError(f"{name}: the codes of `{type(quantizer).__name__}` are not {what}")
    return codes


def _stored_by(maps: nn.ModuleList) -> tuple[int, Quantizer]:
    """The quantizer whose codes stand for the weight, and its place."""
    found = [(place, each) for place, each in enumerate(maps) if isinstance(each, Quantizer)]
    return next((pair for pair in found if pair[1].for_files), found[-1])


def _whole(codes: Codes) -> bool:
    values = codes.values
    if values.is_floating_point() or not values.numel():
        return not values.is_floating_point()
    return bool(codes.low <= values.min() and values.max() <= codes.high)


def _put(tensors: dict[str, Stored], name: str, codes: Codes) -> dict[str, str]:
    tensors[name] = Stored(codes.values.detach().cpu(), (codes.low, codes.high))
    own = {key: held.tensor for key, held in tensors.items() if key.startswith(f"{name}_maps.")}
    side = {}
    for key, value in sorted(codes.side.items()):
        side[key] = _found(own, value) or f"{name}.{key}"
        if side[key] not in tensors:
            tensors[side[key]] = stored(side[key], value)
    return side


def _found(own: Mapping[str, Tensor], value: Tensor) -> str | None:
    """The map's own tensor that equals a side tensor, which then need not be stored again."""
    return next((name for name, tensor in own.items() if same(tensor, value.detach().cpu())), None)
