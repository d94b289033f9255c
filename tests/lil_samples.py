"""Small models and files for the tests of `.lil`; a reader and a forger of files, written from docs/format.md alone."""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any

import torch
from torch import Tensor, nn

from lilliput.core.edits import Edit, Map, Resize, Swap
from lilliput.core.layers import Compressed, swaps
from lilliput.core.maps import Codes, Mapping, Quantizer, maps, take
from lilliput.core.perform import perform
from lilliput.zoo.catalog import create

START = struct.Struct("<8sIIII")


@maps.register("test.grid")
class Grid(Quantizer):
    """Whole multiples of a step a channel: q(w) = s·round(w / s) within ±t·s, t = 2^(bits − 1) − 1, s = max|w| / t."""

    scale: Tensor

    def __init__(self, scale: Tensor, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.register_buffer("scale", scale)

    @classmethod
    def like(cls, tensor: Tensor, bits: int = 4) -> Grid:
        return cls(torch.ones(len(tensor), device=tensor.device), bits)

    def absorb(self, tensor: Tensor) -> None:
        self.scale = tensor.flatten(1).abs().amax(1).clamp_min(2.0**-20) / self.top

    @property
    def top(self) -> int:
        return int(2 ** (self.bits - 1)) - 1

    def forward(self, tensor: Tensor) -> Tensor:
        return self.decode(self.encode(tensor))

    def encode(self, tensor: Tensor) -> Codes:
        codes = (tensor / _column(self.scale, tensor)).round().clamp(-self.top, self.top)
        return Codes(codes.to(torch.int8), -self.top, self.top, {"scale": self.scale})

    def decode(self, codes: Codes) -> Tensor:
        return codes.values * _column(codes.side["scale"], codes.values)

    def resize(self, axis: str, keep: Any, dim: int) -> None:
        if dim == 0:
            self.scale = take(self.scale, 0, keep)


@maps.register("test.sign")
class Sign(Quantizer):
    """One bit a weight: q(w) = α where w ≥ 0, else −α; its codebook (−α, α) is a side tensor that is no buffer."""

    alpha: Tensor

    def __init__(self, alpha: Tensor) -> None:
        super().__init__()
        self.bits = 1
        self.register_buffer("alpha", alpha)

    @classmethod
    def like(cls, tensor: Tensor) -> Sign:
        return cls(torch.ones((), device=tensor.device))

    def absorb(self, tensor: Tensor) -> None:
        self.alpha = tensor.abs().mean()

    def forward(self, tensor: Tensor) -> Tensor:
        return self.decode(self.encode(tensor))

    def encode(self, tensor: Tensor) -> Codes:
        return Codes((tensor >= 0).to(torch.uint8), 0, 1, {"book": torch.stack([-self.alpha, self.alpha])})

    def decode(self, codes: Codes) -> Tensor:
        return codes.side["book"][codes.values.long()]


@maps.register("test.mask")
class Mask(Mapping):
    """q(w) = w where |w| is at least its median, else 0."""

    keep: Tensor

    def __init__(self, keep: Tensor) -> None:
        super().__init__()
        self.register_buffer("keep", keep)

    @classmethod
    def like(cls, tensor: Tensor) -> Mask:
        return cls(torch.ones_like(tensor, dtype=torch.bool))

    def absorb(self, tensor: Tensor) -> None:
        self.keep = tensor.abs() >= tensor.abs().median()

    def forward(self, tensor: Tensor) -> Tensor:
        return tensor * self.keep

    def resize(self, axis: str, keep: Any, dim: int) -> None:
        self.keep = take(self.keep, dim, keep)


@maps.register("test.centre")
class Centre(Mapping):
    """q(w) = w / 3 − mean(w / 3): not idempotent, so what comes after it cannot stand for the weight itself."""

    @classmethod
    def like(cls, tensor: Tensor) -> Centre:
        return cls()

    def forward(self, tensor: Tensor) -> Tensor:
        return tensor / 3 - (tensor / 3).mean()


@swaps.register("test.thin")
class Thin(Compressed):
    """A linear layer through a bottleneck of `rank`."""

    def __init__(self, inputs: int, rank: int, outputs: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, outputs)

    @classmethod
    def like(cls, dense: nn.Module, rank: int = 1) -> Thin:
        assert isinstance(dense, nn.Linear)
        return cls(dense.in_features, rank, dense.out_features).to(dense.weight.device)

    def absorb(self, dense: nn.Module) -> None:
        fill(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x))


def _column(scale: Tensor, tensor: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (tensor.dim() - 1))


def fill(model: nn.Module) -> nn.Module:
    """Give a model weights that are the same on every machine: multiples of 1/64, variances positive."""
    with torch.no_grad():
        for number, (name, tensor) in enumerate(sorted(model.state_dict().items())):
            pattern = (torch.arange(tensor.numel()) * 37 + number * 11) % 101
            values = pattern + 32 if name.endswith("running_var") else pattern - 50
            tensor.copy_((values / 64).reshape(tensor.shape) if tensor.is_floating_point() else torch.tensor(7 + number))
    return model


HALVED = tuple(range(0, 4, 2))
RESIZES: tuple[Edit, ...] = (
    Resize("layer1.0.conv1", "out", HALVED),
    Resize("layer1.0.bn1", "out", HALVED),
    Resize("layer1.0.conv2", "in", HALVED),
)
MAPS: tuple[Edit, ...] = (
    Map("conv1", "weight", "test.grid", {"bits": 8}),
    Map("layer1.0.conv1", "weight", "test.mask"),
    Map("layer1.0.conv1", "weight", "test.grid", {"bits": 4}),
    Map("layer1.0.conv2", "weight", "test.sign"),
    Map("layer2.0.conv1", "weight", "test.centre"),
    Map("layer2.0.conv1", "weight", "test.grid", {"bits": 4}),
)
OTHERS: tuple[Edit, ...] = (
    Swap("linear", "test.thin", {"rank": 2}),
    Map("linear.up", "weight", "test.grid", {"bits": 3}),
    Map("conv1", "input", "test.centre"),
    Map("bn1", "output", "test.centre"),
)


def small(edits: tuple[Edit, ...] = (*RESIZES, *MAPS), spec: str = "resnet8:width=0.25") -> nn.Module:
    """A network of about five thousand weights with every kind of edit a file must carry, in eval mode."""
    return perform(fill(create(spec)), edits).eval()


def take_apart(data: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """Header and section bytes of a good file, by the words of docs/format.md."""
    magic, version, length, checksum, zero = START.unpack_from(data)
    assert (magic, version, zero) == (b"\x89LIL\r\n\x1a\n", 1, 0)
    text = data[24 : 24 + length]
    assert zlib.crc32(text) == checksum
    header, end, payloads = json.loads(text), 24 + length, []
    for section in header["sections"]:
        start = -(-end // 64) * 64
        assert not any(data[end:start])
        end = start + section["bytes"]
        payloads.append(data[start:end])
        assert zlib.crc32(payloads[-1]) == section["crc32"]
    assert end == len(data)
    return header, payloads


def forge(header: Any, payloads: list[bytes] | None = None, *, honest: bool = True) -> bytes:
    """A file with this header (JSON values, or the very bytes), its checksums right whatever it says."""
    payloads = payloads or []
    rows = header.get("sections") if honest and isinstance(header, dict) else None
    for row, data in zip(rows if isinstance(rows, list) else [], payloads, strict=False):
        if isinstance(row, dict):
            row.update(bytes=len(data), crc32=zlib.crc32(data))
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    file = bytearray(START.pack(b"\x89LIL\r\n\x1a\n", 1, len(text), zlib.crc32(text), 0) + text)
    for data in payloads:
        file += bytes(-len(file) % 64) + data
    return bytes(file)


def header(architecture: str | None = "resnet8", **changes: Any) -> dict[str, Any]:
    """A header that says nothing but an architecture."""
    record = {"architecture": architecture, "edits": [], "recipe": None}
    return {"record": record, "sections": [], "codes": {}, "tied": {}, "limits": {"decoded": 0}, **changes}
