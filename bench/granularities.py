"""The picture of docs/sparsity.md: what each pattern leaves of one layer, side by side. Writes docs/granularities.svg.

python bench/granularities.py
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from lilliput.prune.patterns import pattern

OUT = Path(__file__).parent.parent / "docs/granularities.svg"
SHOWN = (("weight", "single weights"), ("2:4", "2:4 along inputs"), ("1x4", "1x4: four outputs"),
         ("kernel", "kernels"), ("position", "kernel positions"), ("filter", "filters"))  # fmt: skip
OUTPUTS, INPUTS, CELL, GAP = 8, 8, 4, 3
SIDE = 3 * CELL + GAP


def layer() -> Tensor:
    """Magnitudes of one 3x3 layer, alike enough within filters and channels that every pattern has something to find."""
    draw = torch.Generator().manual_seed(3)
    parts = [torch.rand(s, generator=draw) for s in ((OUTPUTS, 1, 1, 1), (1, INPUTS, 3, 3), (OUTPUTS, INPUTS, 1, 1))]
    return torch.rand(OUTPUTS, INPUTS, 3, 3, generator=draw) + parts[0] + parts[1] + parts[2]


def panel(kept: Tensor, weights: Tensor, left: float, top: float, title: str) -> list[str]:
    """One layer: a row a filter, a column an input channel, a 3x3 kernel at each crossing; what stays is dark."""
    lines = [f'<text x="{left}" y="{top - 8}">{title}</text>']
    strong = weights / weights.max()
    paths: dict[str, list[str]] = {}
    for o, i, y, x in torch.cartesian_prod(*(torch.arange(n) for n in kept.shape)).tolist():
        shade = f"{0.45 + 0.55 * round(4 * float(strong[o, i, y, x])) / 4:.2f}" if kept[o, i, y, x] else "off"
        spot = f"M{left + i * SIDE + x * CELL} {top + o * SIDE + y * CELL}h{CELL - 0.5}v{CELL - 0.5}h-{CELL - 0.5}z"
        paths.setdefault(shade, []).append(spot)
    for shade, spots in sorted(paths.items()):
        look = 'fill="#e4e7ea"' if shade == "off" else f'fill="#1667b7" fill-opacity="{shade}"'
        lines.append(f'<path {look} d="{"".join(spots)}"/>')
    return lines


def main() -> None:
    """Half of the weights go in every panel."""
    weights = layer()
    width, height = INPUTS * SIDE + 26, OUTPUTS * SIDE + 40
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {3 * width + 10} {2 * height + 10}" '
        'font-family="sans-serif" font-size="12" fill="#333">',
        f'<rect width="{3 * width + 10}" height="{2 * height + 10}" fill="white"/>',
    ]
    for number, (name, title) in enumerate(SHOWN):
        kept = pattern(name).mask(weights, weights.numel() // 2)
        lines += panel(kept, weights, 16 + number % 3 * width, 30 + number // 3 * height, title)
    OUT.write_text("\n".join(lines) + "\n</svg>\n")
    print(OUT.name, OUT.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
