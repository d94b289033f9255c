"""Energy: the estimate follows the published numbers, meters are read where they can be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from lilliput import zoo
from lilliput.errors import ConfigError
from lilliput.measure.counts import Layer, Profile, profile
from lilliput.measure.energy import DRAM_JOULES, MAC_JOULES, Battery, Rapl, arithmetic, energy, estimate, measure, meter

LAYER = Layer("conv", "Conv2d", (1, 4, 8, 8), (1, 8, 8, 8), 288, 18432, 9216, 1152, 3072, 32.0, None, 1)
PICO = 1e-12


def test_the_estimate_by_hand() -> None:
    """Half the weights are zero; 1152 bytes of weights fit into 8 KB, and so do 3072 bytes of activations."""
    found = estimate(Profile((LAYER,), 3072))
    assert found.parts["arithmetic"] == pytest.approx(9216 * 4.6 * PICO)
    assert found.parts["weights"] == pytest.approx(1152 / 8 * 10 * PICO)
    assert found.parts["activations"] == pytest.approx((256 + 512) * 4 / 8 * 10 * PICO)
    assert found.joules == pytest.approx(sum(found.parts.values())) and found.is_estimate
    assert "estimated" in str(found) and "Horowitz" in found.method


def test_what_does_not_fit_on_the_chip_comes_from_dram() -> None:
    found = estimate(Profile((LAYER,), 3072), on_chip_bytes=1000)
    assert found.parts["weights"] == pytest.approx(1152 / 8 * DRAM_JOULES)
    assert found.parts["activations"] == pytest.approx((256 + 512) * 4 / 8 * DRAM_JOULES)


def test_larger_caches_cost_more() -> None:
    costs = [
        estimate(Profile((replace(LAYER, bytes=size),), 3072)).parts["weights"] / size
        for size in (8000, 32000, 640000, 8000000)
    ]
    assert costs == sorted(set(costs))


@pytest.mark.parametrize(
    ("bits", "inputs", "expected"),
    [
        (32.0, None, "float32"),
        (16.0, None, "float16"),
        (8.0, 8.0, "int8"),
        (1.0, 4.0, "int8"),
        (8.0, None, "float32"),
        (16.0, 8.0, "float16"),
        (None, None, "float32"),
    ],
)
def test_arithmetic_is_as_wide_as_the_wider_operand(bits: float | None, inputs: float | None, expected: str) -> None:
    assert arithmetic(replace(LAYER, bits=bits, input_bits=inputs)) == expected
    assert MAC_JOULES["int8"] < MAC_JOULES["float16"] < MAC_JOULES["float32"]


def test_fewer_operations_and_fewer_bytes_cost_less() -> None:
    x = torch.randn(1, 3, 32, 32)
    wide, narrow = (estimate(profile(zoo.create("resnet8", width=w), x)) for w in (1.0, 0.5))
    assert all(narrow.parts[part] < wide.parts[part] for part in wide.parts)
    assert estimate(profile(nn.ReLU(), x)).joules == 0
    assert json.loads(json.dumps(wide.to_json()))["is_estimate"] is True


def rapl(root: Path, name: str, domain: str, joules: int, limit: int = 1000) -> Path:
    folder = root / "powercap" / name
    folder.mkdir(parents=True)
    for file, value in (("name", domain), ("energy_uj", joules), ("max_energy_range_uj", limit)):
        (folder / file).write_text(f"{value}\n")
    return folder


def test_rapl_adds_packages_and_survives_wrapping(tmp_path: Path) -> None:
    package = rapl(tmp_path, "intel-rapl:0", "package-0", 900)
    rapl(tmp_path, "intel-rapl:0:0", "core", 5)
    rapl(tmp_path, "intel-rapl:1", "psys", 5)
    found = meter(tmp_path)
    assert isinstance(found, Rapl) and found.joules() == 0
    (package / "energy_uj").write_text("950\n")
    assert found.joules() == pytest.approx(50e-6)
    (package / "energy_uj").write_text("20\n")
    assert found.joules() == pytest.approx(120e-6)


def test_a_battery_counts_only_while_it_drains(tmp_path: Path) -> None:
    folder = tmp_path / "power_supply" / "BAT0"
    folder.mkdir(parents=True)
    (folder / "status").write_text("Charging\n")
    (folder / "current_now").write_text("2000000\n")
    (folder / "voltage_now").write_text("5000000\n")
    assert meter(tmp_path) is None
    (folder / "status").write_text("Discharging\n")
    assert isinstance(meter(tmp_path), Battery)
    times = iter([0.0, 0.5, 2.0])
    assert [Battery(folder, lambda: next(times)).joules() for _ in range(1)] == [pytest.approx(5.0)]
    (folder / "power_now").write_text("1000000\n")
    steps = iter([0.0, 3.0])
    assert Battery(folder, lambda: next(steps)).joules() == pytest.approx(3.0)


class Steady:
    """Two joules a reading."""

    method = "test meter"

    def __init__(self, step: float = 2.0) -> None:
        self.total, self.step = 0.0, step

    def joules(self) -> float:
        self.total += self.step
        return self.total


def test_measured_energy_is_what_the_meter_counted_by_the_calls() -> None:
    calls: list[int] = []
    ticks = iter(range(100))
    found = measure(lambda: calls.append(1), Steady(), seconds=5, clock=lambda: float(next(ticks)))
    assert len(calls) == 1 + 5 and found.joules == pytest.approx(2.0) and not found.is_estimate
    assert "measured: test meter" in str(found)
    with pytest.raises(ConfigError, match="did not move"):
        measure(lambda: None, Steady(0.0), seconds=0.0)


def test_without_a_meter_or_a_call_it_is_an_estimate(tmp_path: Path) -> None:
    looked = Profile((LAYER,), 3072)
    assert energy(looked, lambda: None, root=tmp_path).is_estimate
    package = rapl(tmp_path, "intel-rapl:0", "package-0", 0, 10**9)
    assert energy(looked, root=tmp_path).is_estimate

    def call() -> None:
        (package / "energy_uj").write_text(str(int((package / "energy_uj").read_text()) + 7))

    found = energy(looked, call, seconds=0.01, root=tmp_path)
    assert found.joules == pytest.approx(7e-6) and found.method.startswith("RAPL")


def test_a_counter_closed_to_the_user_is_no_meter(tmp_path: Path) -> None:
    folder = rapl(tmp_path, "intel-rapl:0", "package-0", 0)
    (folder / "energy_uj").unlink()
    assert meter(tmp_path) is None
