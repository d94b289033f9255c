"""A profile as a table, for the terminal and as plain text."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from lilliput.measure.counts import Layer, Profile

_COLUMNS = ("layer", "kind", "input", "output", "params", "MACs", "nonzero", "bytes", "peak", "bits", "density", "calls")


def render(profile: Profile) -> Group:
    """The table, how many layers it leaves out, what could not be counted, and what zero weights are good for.

    A network with zeros has one more column: the multiply-adds that are left without them.
    """
    from rich.console import Group
    from rich.text import Text

    idle = sum(not _works(layer) for layer in profile.layers)
    lines = [f"and {idle} layers without parameters or multiply-adds"] if idle else []
    lines.append(_uncounted(profile))
    if _is_sparse(profile):
        lines.append(_zeros(profile))
    return Group(_table(profile), *(Text(line) for line in lines))


def text(profile: Profile, width: int = 160) -> str:
    """What `render` shows, without colours."""
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=width, no_color=True, legacy_windows=False).print(render(profile))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def amount(value: float, unit: str = "") -> str:
    """Four significant digits, with a prefix of ten.

    >>> amount(41_300_000), amount(272_474, "B"), amount(64)
    ('41.30 M', '272.5 kB', '64')
    """
    for prefix, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            scaled = value / size
            return f"{scaled:.{max(0, 3 - len(str(int(abs(scaled)))) + 1)}f} {prefix}{unit}"
    return f"{value:g} {unit}".rstrip()


def _works(layer: Layer) -> bool:
    return bool(layer.params or layer.macs or layer.bytes)


def _table(profile: Profile) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_footer=True, pad_edge=False)
    shown = [title for title in _COLUMNS if title != "nonzero" or _is_sparse(profile)]
    totals = dict(zip(_COLUMNS, _totals(profile), strict=True))
    for title in shown:
        right = title not in _COLUMNS[:4]
        table.add_column(title, totals[title], justify="right" if right else "left", no_wrap=right, overflow="fold")
    for layer in filter(_works, profile.layers):
        cells = dict(zip(_COLUMNS, _cells(layer), strict=True))
        table.add_row(*(cells[title] for title in shown))
    return table


def _cells(layer: Layer) -> tuple[str, ...]:
    return (
        layer.name or "(the model itself)",
        layer.kind,
        _shape(layer.input_shape),
        _shape(layer.output_shape),
        amount(layer.params),
        amount(layer.macs),
        amount(layer.effective_macs),
        amount(layer.bytes, "B"),
        amount(layer.peak_activation_bytes, "B"),
        "" if layer.bits is None else f"{layer.bits:g}",
        f"{layer.density:.3g}",
        str(layer.calls),
    )


def _totals(profile: Profile) -> tuple[str, ...]:
    density = profile.effective_macs / profile.macs if profile.macs else 1.0
    counts = (amount(profile.params), amount(profile.macs), amount(profile.effective_macs), amount(profile.bytes, "B"))
    return ("total", "", "", "", *counts, amount(profile.peak_activation_bytes, "B"), "", f"{density:.3g}", "")


def _shape(shape: tuple[int, ...] | None) -> str:
    return "" if shape is None else "x".join(str(n) for n in shape)


def _is_sparse(profile: Profile) -> bool:
    """Whether zeros are worth a word; integer weights always hold some."""
    return profile.effective_macs < 0.95 * profile.macs


def _zeros(profile: Profile) -> str:
    share = 1 - profile.effective_macs / profile.macs
    return (
        f"{share:.1%} of the multiply-adds have a weight of zero. ONNX Runtime, PyTorch and ExecuTorch execute these too; "
        "an exported `.onnx` leaves them out where that is measured to be faster (`lilliput latency --kernels`). "
        "Bytes count every one."
    )


def _uncounted(profile: Profile) -> str:
    if not profile.uncounted:
        return "Every operation was counted."
    named = ", ".join(f"{name} ({times}x)" for name, times in profile.uncounted.items())
    return f"Could not be counted: {named}."
