"""What `lilliput compress --bits` stands for: recipes without training."""

from __future__ import annotations

from lilliput.core.method import Method
from lilliput.errors import UnknownName
from lilliput.quant.mixed import Mixed
from lilliput.quant.quantize import Quantize

SHORTCUTS: dict[str, tuple[Method, ...]] = {
    "8": (Quantize(),),
    "w4a8": (Quantize(bits=4, round="descent", images=1024),),
    "mixed": (Mixed(size=0.15, method=Quantize(round="descent", images=1024)),),
}


def shortcut(name: str) -> tuple[Method, ...]:
    """The steps behind a name.

    >>> shortcut("w4a8")
    (quant.quantize(bits=4, images=1024, round=descent),)
    """
    if name not in SHORTCUTS:
        raise UnknownName("width", name, SHORTCUTS)
    return SHORTCUTS[name]
