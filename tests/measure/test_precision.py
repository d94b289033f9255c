"""Bytes follow the bits of each weight; masks and quantizers count as what they leave of a layer."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lilliput.core.edits import Map
from lilliput.core.maps import Codes, Mapping, Quantizer, maps
from lilliput.core.perform import bake, perform
from lilliput.measure.counts import profile


class Odd(Mapping):
    """Zero where the index is even."""

    def __init__(self, shape: torch.Size, device: torch.device) -> None:
        super().__init__()
        self.register_buffer("mask", torch.arange(shape.numel(), device=device).reshape(shape) % 2)

    @classmethod
    def like(cls, tensor: Tensor, **spec: Any) -> Mapping:
        return cls(tensor.shape, tensor.device, **spec)

    def forward(self, tensor: Tensor) -> Tensor:
        return tensor * self.mask


class Round(Quantizer):
    """Codes of `bits` bits under one learned scale."""

    def __init__(self, bits: float, device: torch.device) -> None:
        super().__init__()
        self.bits = bits
        self.scale = nn.Parameter(torch.full((), 0.05, device=device))

    @classmethod
    def like(cls, tensor: Tensor, **spec: Any) -> Mapping:
        return cls(spec["bits"], tensor.device)

    def encode(self, tensor: Tensor) -> Codes:
        return Codes((tensor / self.scale).round().to(torch.int8), -1, 1, {"scale": self.scale})

    def decode(self, codes: Codes) -> Tensor:
        return codes.values * codes.side["scale"]

    def forward(self, tensor: Tensor) -> Tensor:
        return self.decode(self.encode(tensor))


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    maps.add("measure_odd", Odd)
    maps.add("measure_round", Round)
    yield
    del maps._entries["measure_odd"], maps._entries["measure_round"]


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 16, 5))


X = torch.randn(1, 3, 6, 6)


def test_plain_tensors_take_their_item_size(model: nn.Module) -> None:
    for dtype, size in ((torch.float32, 4), (torch.float16, 2), (torch.float64, 8)):
        found = profile(model.to("meta").to(dtype), X.to(dtype))
        assert found.layers[0].bytes == size * found.layers[0].params and found.layers[0].bits == 8 * size


def test_buffers_that_are_not_stored_take_nothing() -> None:
    layer = nn.Linear(2, 2)
    layer.register_buffer("cache", torch.zeros(1000), persistent=False)
    layer.register_buffer("kept", torch.zeros(3))
    assert profile(layer, torch.ones(1, 2)).bytes == 4 * (6 + 3)


@pytest.mark.parametrize("bits", [1, 1.58, 3, 8])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_quantized_weight_takes_its_bits_and_the_side_information(model: nn.Module, bits: float, device: str) -> None:
    edited = perform(model.to(device), [Map("0", "weight", "measure_round", {"bits": bits})])
    layer = profile(edited, X).layers[0]
    assert (layer.name, layer.kind, layer.bits) == ("0", "MappedConv2d", bits)
    assert layer.bytes == ceil(8 * 27 * bits / 8) + 4 * 8 + 4  # weight, bias, scale
    assert layer.params == 8 * 27 + 8 + 1


def test_maps_on_weights_are_not_part_of_what_runs(model: nn.Module) -> None:
    edits = [
        Map("0", "weight", "measure_odd"),
        Map("0", "weight", "measure_round", {"bits": 4}),
        Map("3", "weight", "measure_odd"),
    ]
    edited = perform(model, edits)
    found, baked, plain = profile(edited, X), profile(bake(edited), X), profile(model, X)
    assert found.macs == plain.macs and not found.uncounted
    assert found.peak_activation_bytes == plain.peak_activation_bytes == baked.peak_activation_bytes
    assert found.effective_macs == baked.effective_macs < plain.effective_macs
    assert [layer.name for layer in found.layers] == [layer.name for layer in plain.layers]
    assert found.layers[-1].density == 0.5


def test_a_mask_takes_no_room_of_its_own(model: nn.Module) -> None:
    assert profile(perform(model, [Map("0", "weight", "measure_odd")]), X).bytes == profile(model, X).bytes


def test_maps_on_activations_belong_to_their_layer_and_run(model: nn.Module) -> None:
    edits = [Map("3", "input", "measure_round", {"bits": 8}), Map("1", "output", "measure_round", {"bits": 8})]
    found, plain = profile(perform(model, edits), X), profile(model, X)
    assert [layer.name for layer in found.layers] == [layer.name for layer in plain.layers]
    linear = found.layers[-1]
    assert linear.input_bits == 8 and linear.bits == 32
    assert found.bytes == plain.bytes + 8 and found.params == plain.params + 2
    assert found.macs == plain.macs
