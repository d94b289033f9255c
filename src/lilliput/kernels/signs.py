"""Signs as bits, eight channels in a byte: bit b of byte j is 1 where channel 8j + b is +1, and 0 where it is −1.

sign(x) = +1 where x ≥ 0, also for −0, else −1; NaN gives −1
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lilliput.errors import ModelError


def pack(positive: Tensor) -> Tensor:
    """Booleans (n, c, …) as bytes (n, ⌈c/8⌉, …).

    >>> pack(torch.tensor([[True, False, True]])).tolist()
    [[5]]
    """
    n, c, *rest = positive.shape
    filled = torch.zeros((n, -(-c // 8), 8, *rest), dtype=torch.uint8, device=positive.device)
    filled.flatten(1, 2)[:, :c] = positive
    weights = torch.tensor([1 << b for b in range(8)], dtype=torch.uint8, device=positive.device)
    return (filled * weights.view(8, *[1] * len(rest))).sum(2, dtype=torch.uint8)


def unpack(bits: Tensor, channels: int) -> Tensor:
    """The signs ±1 (n, channels, …) as floats.

    >>> unpack(torch.tensor([[5]], dtype=torch.uint8), 3).tolist()
    [[1.0, -1.0, 1.0]]
    """
    shifts = torch.arange(8, dtype=torch.uint8, device=bits.device).view(8, *[1] * (bits.dim() - 2))
    ones = (bits.unsqueeze(2) >> shifts) & 1
    return ones.flatten(1, 2)[:, :channels].float() * 2 - 1


def thresholds(after: Callable[[Tensor], Tensor], channels: int, products: int) -> tuple[Tensor, Tensor]:
    """What follows a dot product, and the sign of that, as one comparison of whole numbers a channel: (least, flip).

    (dot ≥ least) ≠ flip  ⟺  after(dot) ≥ 0,   for every dot from −products to products

    `after` is evaluated at every dot product (1, channels, 1, 2·products + 1), so its own rounding decides. Raises
    `ModelError` where its sign changes more than once in a channel.
    """
    dots = torch.arange(-products, products + 1, dtype=torch.float32).expand(1, channels, 1, -1).contiguous()
    with torch.no_grad():
        positive = (after(dots) >= 0).view(channels, -1)
    changes = (positive[:, 1:] != positive[:, :-1]).sum(1)
    if bool((changes > 1).any()):
        channel = int(changes.argmax())
        raise ModelError(f"the sign after channel `{channel}` changes `{int(changes[channel])}` times; no threshold says that")
    flip = positive[:, 0] & ~positive[:, -1]
    least = (positive == flip[:, None]).sum(1) - products  # the first dot of the other kind
    return least.to(torch.int32), flip.to(torch.uint8)
