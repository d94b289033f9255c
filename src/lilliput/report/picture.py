"""The chart of accuracy, multiply-adds and parameters as a PNG, drawn with Pillow: on a logarithmic axis, with labels.

Own networks are named first; a published one is named where there is room, first at its own resolution, then by accuracy.
"""

from __future__ import annotations

import colorsys
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

    from lilliput.report.landscape import Blob

WIDTH, HEIGHT, FINE = 1500, 1000, 2  # drawn FINE times larger, then reduced: smooth edges
LEFT, TOP, RIGHT, BOTTOM = 110, 90, 40, 150
LARGEST = 60  # pixels of radius of the most parameters
INK, MUTED, LINE = (26, 29, 33, 255), (93, 102, 112, 255), (225, 228, 232, 255)
OWN = (179, 38, 30, 255)
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Scale:
    """Where numbers stand in the picture, in pixels of the finished one."""

    macs: tuple[float, float]
    accuracy: tuple[float, float]
    params: float

    @staticmethod
    def of(blobs: Sequence[Blob]) -> Scale:
        """One that holds all, with a margin."""
        macs, accuracy = [b.macs for b in blobs], [b.accuracy for b in blobs]
        return Scale((min(macs) / 1.6, max(macs) * 1.8), (min(accuracy) - 4, max(accuracy) + 4), max(b.params for b in blobs))

    def x(self, macs: float) -> float:
        low, high = map(math.log, self.macs)
        return LEFT + (math.log(macs) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, accuracy: float) -> float:
        low, high = self.accuracy
        return HEIGHT - BOTTOM - (accuracy - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def radius(self, params: float) -> float:
        """The area is the number of parameters."""
        return LARGEST * math.sqrt(params / self.params)


def picture(blobs: Sequence[Blob], title: str, own: str) -> bytes:
    """The chart as the bytes of a PNG file; networks of the family `own` are outlined and always named."""
    from PIL import Image, ImageDraw

    size, scale = (WIDTH * FINE, HEIGHT * FINE), Scale.of(blobs)
    image = Image.new("RGBA", size, (255, 255, 255, 255))
    _axes(ImageDraw.Draw(image), scale, title, f"; {own}: their own data" * any(b.family == own for b in blobs))
    families = list(dict.fromkeys(blob.family for blob in blobs))
    for blob in sorted(blobs, key=lambda b: (b.family == own, -b.params)):
        layer = Image.new("RGBA", size, (0, 0, 0, 0))
        _disc(ImageDraw.Draw(layer), scale, blob, OWN if blob.family == own else _colour(families.index(blob.family)))
        image.alpha_composite(layer)
    draw = ImageDraw.Draw(image)
    for blob, (x, y) in _named(draw, scale, blobs, own):
        _write(draw, x, y, blob.name, OWN if blob.family == own else INK, 13)
    _sizes(draw, scale)
    out = io.BytesIO()
    image.convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS).save(out, "PNG", optimize=True)
    return out.getvalue()


def _axes(draw: ImageDraw, scale: Scale, title: str, note: str) -> None:
    what = f"top-1 accuracy, %; the area is the parameters; published networks: ImageNet, one crop{note}"
    _write(draw, LEFT, 28, title, INK, 26)
    _write(draw, LEFT, 62, what, MUTED, 15)
    _write(draw, WIDTH - RIGHT - 210, HEIGHT - BOTTOM + 40, "multiply-adds of one image", MUTED, 16)
    for macs in _steps(*scale.macs):
        _line(draw, scale.x(macs), TOP, scale.x(macs), HEIGHT - BOTTOM)
        _write(draw, scale.x(macs) - 22, HEIGHT - BOTTOM + 12, _tick(macs), MUTED, 14)
    low, high = scale.accuracy
    for accuracy in range(5 * math.ceil(low / 5), math.floor(high) + 1, 5):
        _line(draw, LEFT, scale.y(accuracy), WIDTH - RIGHT, scale.y(accuracy))
        _write(draw, LEFT - 36, scale.y(accuracy) - 9, str(accuracy), MUTED, 14)


def _steps(low: float, high: float) -> Iterator[float]:
    """1, 2 and 5 times the powers of ten between two numbers.

    >>> list(_steps(15, 300))
    [20.0, 50.0, 100.0, 200.0]
    """
    for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        yield from (step * 10.0**power for step in (1, 2, 5) if low <= step * 10.0**power <= high)


def _tick(macs: float) -> str:
    """
    >>> _tick(5e7), _tick(2e9)
    ('50 M', '2 G')
    """
    return f"{macs / 1e9:g} G" if macs >= 1e9 else f"{macs / 1e6:g} M"


def _disc(draw: ImageDraw, scale: Scale, blob: Blob, colour: tuple[int, ...]) -> None:
    x, y, r = scale.x(blob.macs), scale.y(blob.accuracy), scale.radius(blob.params)
    draw.ellipse(_fine(x - r, y - r, x + r, y + r), fill=(*colour[:3], 140), outline=colour, width=FINE)


def _named(draw: ImageDraw, scale: Scale, blobs: Sequence[Blob], own: str) -> Iterator[tuple[Blob, tuple[float, float]]]:
    """Names with their places: right, above, below or left of their blobs where no other name stands."""
    taken: list[Box] = []
    for blob in sorted(blobs, key=lambda b: (b.family != own, " at " in b.name, -b.accuracy)):
        width = draw.textlength(blob.name, font=_font(13)) / FINE
        x, y, r = scale.x(blob.macs), scale.y(blob.accuracy), scale.radius(blob.params)
        places = ((x + r + 4, y - 8), (x - width / 2, y - r - 19), (x - width / 2, y + r + 3), (x - r - 4 - width, y - 8))
        boxes = [(px, py, px + width, py + 16) for px, py in places]
        free = [box for box in boxes if _inside(box) and not any(_meet(box, other) for other in taken)]
        if free or blob.family == own:
            box = (free or boxes)[0]
            taken.append(box)
            yield blob, box[:2]


def _inside(box: Box) -> bool:
    return box[0] > LEFT and box[2] < WIDTH - RIGHT and box[1] > TOP and box[3] < HEIGHT - BOTTOM


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _sizes(draw: ImageDraw, scale: Scale) -> None:
    """A key to the areas."""
    x, middle = LEFT + 10.0, HEIGHT - BOTTOM / 2 + 15
    for params in (1e6, 1e7, 1e8):
        if params <= scale.params:
            r = scale.radius(params)
            draw.ellipse(_fine(x, middle - r, x + 2 * r, middle + r), outline=MUTED, width=FINE)
            _write(draw, x + 2 * r + 8, middle - 10, f"{params / 1e6:g} M", MUTED, 15)
            x += 2 * r + 90
    _write(draw, x, middle - 10, "parameters", MUTED, 15)


def _write(draw: ImageDraw, x: float, y: float, text: str, colour: tuple[int, ...], size: int) -> None:
    draw.text((x * FINE, y * FINE), text, fill=colour, font=_font(size))


def _line(draw: ImageDraw, *ends: float) -> None:
    draw.line(_fine(*ends), fill=LINE, width=FINE)


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size * FINE)


def _fine(*values: float) -> list[float]:
    return [FINE * value for value in values]


def _colour(number: int) -> tuple[int, ...]:
    """Hues that lie far apart, the same as in the page."""
    red, green, blue = colorsys.hls_to_rgb(number * 137.5 % 360 / 360, 0.5, 0.6)
    return (*(round(255 * part) for part in (red, green, blue)), 255)
