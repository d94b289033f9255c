"""The entropy coder: bytes beside the adaptive order-0 bound, on random numbers and on real networks, and weights a second.

    python bench/codec.py [--weights N] [--repeats N]      writes bench/results/codec.json; run it alone

The bound is what an ideal coder takes that sees one number after the other and counts how often each came (Krichevsky and
Trofimov 1981), layer by layer. Random numbers are drawn each by itself, so nothing takes fewer bytes; in the weights of a
trained network neighbours tell something. Speed is that of one core on `--weights` numbers of 8 bits, spread as
trained weights are, dense and with 90 % zeros; medians. Needs $LILLIPUT_WEIGHTS/resnet20-cifar10.safetensors and
resnet56-cifar10.safetensors for the real networks, which are left out where they are absent.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from math import lgamma, log
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import lilliput as lp
from lilliput.core.edits import Map
from lilliput.measure import hardware, versions
from lilliput.opening import open_model
from lilliput.store.codec import Array, Piece
from lilliput.store.context import Context

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "bench/results/codec.json"
WEIGHTS = Path(os.environ.get("LILLIPUT_WEIGHTS", "."))
NETS = ("resnet20", "resnet56")
SEED = 0


def bound(array: Array, piece: Piece) -> float:
    """Bytes of an ideal coder that learns how often each number comes, and knows nothing else."""
    kinds, counts = piece.high - piece.low + 1, np.unique(array, return_counts=True)[1]
    nats = lgamma(array.size + kinds / 2) - lgamma(kinds / 2) - sum(lgamma(n + 0.5) - lgamma(0.5) for n in counts.tolist())
    return nats / log(2) / 8


def drawn(shape: tuple[int, ...], zeros: float, wide: float) -> tuple[Array, Piece]:
    """Numbers of 8 bits that fall off exponentially, a share of them zero."""
    random = np.random.default_rng(SEED)
    values = np.clip(np.rint(random.laplace(0, wide, shape)), -127, 127)
    values[random.random(shape) < zeros] = 0
    return values.astype(np.int8), Piece(shape, -127, 127)


def even(shape: tuple[int, ...], levels: int) -> tuple[Array, Piece]:
    """Numbers of which each is as likely as any other."""
    low = -(levels // 2)
    values = np.random.default_rng(SEED).integers(low, low + levels, shape)
    return values.astype(np.int8), Piece(shape, low, low + levels - 1)


def random_rows() -> list[dict[str, Any]]:
    """Ours and the bound on numbers that do not depend on each other."""
    shape = (256, 256, 3, 3)
    kinds = {
        "2 levels, even": even(shape, 2),
        "3 levels, even": even(shape, 3),
        "16 levels, even": even(shape, 16),
        "255 levels, even": even(shape, 255),
        "8 bits, exponential": drawn(shape, 0.0, 20.0),
        "8 bits, exponential, 67 % zeros": drawn(shape, 0.67, 20.0),
        "8 bits, exponential, 90 % zeros": drawn(shape, 0.9, 20.0),
        "a mask, 90 % zeros": (drawn(shape, 0.9, 20.0)[0].astype(bool).astype(np.int8), Piece(shape, 0, 1)),
    }
    return [beside(name, [array], [piece]) for name, (array, piece) in kinds.items()]


def beside(name: str, arrays: list[Array], pieces: list[Piece]) -> dict[str, Any]:
    """Ours and the bound."""
    size, least = len(Context().encode(arrays, pieces)), sum(map(bound, arrays, pieces))
    return {
        "name": name,
        "numbers": sum(a.size for a in arrays),
        "bytes": size,
        "bound": round(least),
        "above": size / least - 1,
    }


def real_rows() -> list[dict[str, Any]]:
    """The weights of trained networks on grids of 8 and of 4 bits, a step a filter; and with the smallest 80 % gone."""
    found = []
    for net in NETS:
        file = WEIGHTS / f"{net}-cifar10.safetensors"
        if file.exists():
            model = open_model(net, weights=str(file)).eval()
            sparse = lp.prune.Weights("magnitude", 0.8, "global")(model, lp.Look(torch.zeros(1, 3, 32, 32)))
            for what, start, bits in (("8 bits", model, 8), ("4 bits", model, 4), ("80 % zeros, 8 bits", lp.bake(sparse), 8)):
                found.append(beside(f"{net}, {what}", *coded(start, bits)))
    return found


def coded(model: nn.Module, bits: int) -> tuple[list[Array], list[Piece]]:
    """The codes of all weights."""
    sites = [name for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    made = lp.perform(model, [Map(site, "weight", "affine", {"bits": bits, "axis": 0}) for site in sites])
    arrays, pieces = [], []
    for site in sites:
        layer: Any = made.get_submodule(site)
        codes = layer.weight_maps[0].encode(layer.weight.detach())
        arrays.append(codes.values.numpy().astype(np.int8))
        pieces.append(Piece(tuple(codes.values.shape), codes.low, codes.high))
    return arrays, pieces


def speed(name: str, array: Array, piece: Piece, repeats: int) -> dict[str, Any]:
    """Millions of weights a second, there and back."""
    there, back, codec = [], [], Context()
    for _ in range(repeats):
        begun = time.perf_counter()
        data = codec.encode([array], [piece])
        written = time.perf_counter()
        again = codec.decode(data, [piece])
        read = time.perf_counter()
        there.append(array.size / (written - begun) / 1e6)
        back.append(array.size / (read - written) / 1e6)
        assert np.array_equal(again[0], array)
    return {"name": name, "weights": array.size, "bytes": len(data), "repeats": repeats,
            "encode": statistics.median(there), "decode": statistics.median(back)}  # fmt: skip


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=int, default=9_437_184)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shape = (arguments.weights // (512 * 9), 512, 3, 3)
    rows = {
        "random": random_rows(),
        "real": real_rows(),
        "speed": [
            speed("dense, 8 bits", *drawn(shape, 0.0, 20.0), arguments.repeats),
            speed("90 % zeros, 8 bits", *drawn(shape, 0.9, 20.0), arguments.repeats),
        ],
    }
    for row in rows["random"] + rows["real"]:
        beside_it = f"{row['bytes']:9,} bytes, bound {row['bound']:9,}: {row['above']:+.2%}"
        print(f"{row['name']:36} {row['numbers']:9,} numbers {beside_it}")
    for row in rows["speed"]:
        print(f"{row['name']:36} {row['encode']:6.1f} million/s written, {row['decode']:6.1f} million/s read")
    RESULT.write_text(json.dumps(rows | {"hardware": hardware(), "versions": versions()}, indent=1) + "\n")
    print(RESULT.relative_to(ROOT))


if __name__ == "__main__":
    main()
