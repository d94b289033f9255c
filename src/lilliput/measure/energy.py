"""Energy of one inference: measured where the system has a meter, otherwise estimated from operations and traffic.

The estimate uses the energies of a 45 nm chip at 0.9 V: Horowitz 2014, "Computing's Energy Problem (and what we can do
about it)", ISSCC, doi:10.1109/ISSCC.2014.6757323. It ranks designs; it does not predict a meter.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Protocol

from lilliput.errors import ConfigError
from lilliput.measure.counts import Layer, Profile

PICO, MICRO = 1e-12, 1e-6

# One multiplication and one addition, joules. Products of 8-bit integers are summed in 32 bits.
MAC_JOULES = {"float32": (3.7 + 0.9) * PICO, "float16": (1.1 + 0.4) * PICO, "int8": (0.2 + 0.1) * PICO}
# One access of 64 bits, joules: caches by size, and memory off the chip (the paper gives 1.3 to 2.6 nJ).
CACHE_JOULES = {8 * 1024: 10 * PICO, 32 * 1024: 20 * PICO, 1024 * 1024: 100 * PICO}
DRAM_JOULES = 1950 * PICO
WORD_BYTES = 8


@dataclass(frozen=True)
class Energy:
    """Joules of one inference, how they were found, and whether that is an estimate; `parts` add up to `joules`."""

    joules: float
    method: str
    is_estimate: bool
    parts: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "joules": self.joules,
            "method": self.method,
            "is_estimate": self.is_estimate,
            "parts": dict(self.parts),
        }

    def __str__(self) -> str:
        word = "estimated" if self.is_estimate else "measured"
        return f"{1e3 * self.joules:.3g} mJ ({word}: {self.method})"


class Meter(Protocol):
    """Something that counts joules."""

    method: str

    def joules(self) -> float:
        """Joules since the meter was made. Read it often."""
        ...


def energy(
    profile: Profile,
    call: Callable[[], object] | None = None,
    *,
    seconds: float = 3.0,
    on_chip_bytes: int = 1024 * 1024,
    root: Path = Path("/sys/class"),
) -> Energy:
    """Energy of one inference: `call` metered for `seconds` where it is given and there is a meter, else `estimate`."""
    found = meter(root) if call is not None else None
    if found is None or call is None:
        return estimate(profile, on_chip_bytes=on_chip_bytes)
    return measure(call, found, seconds=seconds)


def estimate(profile: Profile, *, on_chip_bytes: int = 1024 * 1024) -> Energy:
    r"""The least a straightforward 45 nm chip needs: every operation, and every word moved once.

    E = Σ MACs·(E_mult + E_add) + ⌈bytes/8⌉·E_access, with weights read once and each layer's input and output moved
    once. What fits into `on_chip_bytes` of cache costs a cache access, the rest a DRAM access. MACs with a zero weight
    cost nothing. Integer arithmetic needs weights and inputs of 8 bits or fewer; narrower ones cost as much as 8 bits,
    for which alone the paper has numbers. Memory reads inside the arithmetic units are left out.
    """
    weight_word = _access(profile.bytes, on_chip_bytes)
    parts = {
        "arithmetic": sum(layer.effective_macs * MAC_JOULES[arithmetic(layer)] for layer in profile.layers),
        "weights": _words(profile.bytes) * weight_word,
        "activations": sum(_moved(layer, on_chip_bytes) for layer in profile.layers),
    }
    return Energy(sum(parts.values()), "Horowitz 2014, 45 nm, operations and memory accesses", True, parts)


def measure(
    call: Callable[[], object], meter: Meter, *, seconds: float = 3.0, clock: Callable[[], float] = time.monotonic
) -> Energy:
    """Call for `seconds` and divide what the meter counted by the calls. The machine's idle share is in it."""
    call()
    start, before, calls = clock(), meter.joules(), 0
    while calls == 0 or clock() - start < seconds:
        call()
        calls += 1
        after = meter.joules()
    if after <= before:
        raise ConfigError(f"the meter did not move in `{calls}` calls; give it more `seconds` (={seconds})")
    return Energy((after - before) / calls, f"{meter.method}, {calls} calls, idle power included", False)


def meter(root: Path = Path("/sys/class")) -> Meter | None:
    """The best meter this process may read: RAPL counters of the processor, then a battery that is discharging."""
    domains = [d for d in sorted((root / "powercap").glob("*rapl:*")) if d.name.count(":") == 1 and _is_package(d)]
    if domains:
        return Rapl(domains)
    batteries = [b for b in sorted((root / "power_supply").glob("BAT*")) if _text(b / "status") == "Discharging"]
    drained = [b for b in batteries if _watts(b) is not None]
    return Battery(drained[0]) if drained else None


class Rapl:
    """Running average power limit counters: microjoules of whole processor packages, which wrap around."""

    method = "RAPL"

    def __init__(self, domains: list[Path]) -> None:
        self._domains = {d: int(_text(d / "max_energy_range_uj") or 0) for d in domains}
        self._last = {d: self._read(d) for d in domains}
        self._total = 0

    def joules(self) -> float:
        for domain, limit in self._domains.items():
            now = self._read(domain)
            step = now - self._last[domain]
            self._total += step if step >= 0 else step + limit
            self._last[domain] = now
        return self._total * MICRO

    @staticmethod
    def _read(domain: Path) -> int:
        return int(_text(domain / "energy_uj") or 0)


class Battery:
    """A discharging battery's power, integrated: the whole machine, screen included."""

    method = "battery"

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock = folder, clock
        self._then, self._total = clock(), 0.0

    def joules(self) -> float:
        now = self._clock()
        self._total += (_watts(self._folder) or 0.0) * (now - self._then)
        self._then = now
        return self._total


def arithmetic(layer: Layer) -> str:
    """Which arithmetic a layer needs: by the wider of its weights and its inputs."""
    widest = max(32.0 if layer.bits is None else layer.bits, _input_bits(layer))
    return "int8" if widest <= 8 else "float16" if widest <= 16 else "float32"


def _input_bits(layer: Layer) -> float:
    """Without a quantizer before the layer its inputs are floats: as wide as its weights, if those are too."""
    if layer.input_bits is not None:
        return layer.input_bits
    return layer.bits if layer.bits is not None and layer.bits >= 16 else 32.0


def _moved(layer: Layer, on_chip_bytes: int) -> float:
    """A layer with arithmetic reads its input and writes its output; other layers are taken to be fused with it."""
    if not layer.macs:
        return 0.0
    elements = sum(prod(shape[1:]) for shape in (layer.input_shape, layer.output_shape) if shape)
    words = _words(layer.calls * elements * _input_bits(layer) / 8)
    return words * _access(layer.peak_activation_bytes, on_chip_bytes)


def _access(size: float, on_chip_bytes: int) -> float:
    """Joules of 64 bits from the smallest memory that holds `size` bytes; 1 MB is the largest cache the paper lists."""
    if size > on_chip_bytes:
        return DRAM_JOULES
    return next((joules for capacity, joules in CACHE_JOULES.items() if size <= capacity), max(CACHE_JOULES.values()))


def _words(size: float) -> int:
    return -int(-size // WORD_BYTES)


def _is_package(domain: Path) -> bool:
    """ "psys" covers the packages a second time."""
    return _text(domain / "energy_uj") is not None and _text(domain / "name") != "psys"


def _watts(battery: Path) -> float | None:
    power = _text(battery / "power_now")
    if power is not None:
        return int(power) * MICRO
    current, voltage = _text(battery / "current_now"), _text(battery / "voltage_now")
    return None if current is None or voltage is None else int(current) * MICRO * int(voltage) * MICRO


def _text(path: Path) -> str | None:
    """What a system file says; None where it is missing or closed to this user."""
    try:
        return path.read_text().strip()
    except OSError:
        return None
