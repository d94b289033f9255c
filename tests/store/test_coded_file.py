"""Version 2: coded files hold the same networks in fewer bytes, and grids of floats as the whole numbers they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lil_samples import small

from lilliput import kernels
from lilliput.core.edits import Map
from lilliput.core.perform import bake, perform
from lilliput.errors import UnknownName
from lilliput.store import account, load, read_record, save
from lilliput.store.codec import Piece, coder
from lilliput.store.format import read
from lilliput.store.sections import CODERS, unpack
from lilliput.store.tensors import same, stepped, stored

pytestmark = pytest.mark.skipif(kernels.backend() != "native", reason="only the native core writes coded files")


@pytest.mark.parametrize("name", CODERS)
@pytest.mark.parametrize("baked", [False, True])
def test_every_coder_gives_back_the_same_tensors(name: str, baked: bool, tmp_path: Path) -> None:
    model = bake(small()) if baked else small()
    size = save(model, tmp_path / "net.lil", coder=name)
    save(model, tmp_path / "plain.lil", coder="plain")
    found, wanted = load(tmp_path / "net.lil").state_dict(), load(tmp_path / "plain.lil").state_dict()
    assert found.keys() == wanted.keys() and all(same(found[key], wanted[key]) for key in wanted)
    assert read_record(tmp_path / "net.lil") == read_record(tmp_path / "plain.lil")
    assert sum(row.bytes for row in account(tmp_path / "net.lil")) == size


@pytest.mark.parametrize("name", CODERS)
def test_shared_values_come_back_bit_for_bit(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Codebooks that ascend or not, with payloads of not-a-numbers, zeros of both signs and denormals among them."""
    model = perform(small(()), [Map("layer3.0.conv1", "weight", "kmeans", {"bits": 6, "zero": True, "groups": 2})])
    book = model.get_parameter("layer3.0.conv1.weight_maps.0.codebook")
    odd = torch.tensor([-8388607, -8388000, 1, 2, -2147483648, 0, 2139095041, 2143289345], dtype=torch.int32).view(
        torch.float32
    )
    with torch.no_grad():
        book.copy_(torch.linspace(-1, 1, book.numel()).sin().view_as(book))
        book[0, : len(odd)] = odd
    save(model, tmp_path / "net.lil", coder=name)
    for native in (kernels._native, None):
        monkeypatch.setattr(kernels, "_native", native)
        found = {entry.name: tensor for entry, tensor in unpack(read(tmp_path / "net.lil"))}
        assert same(found["layer3.0.conv1.weight_maps.0.codebook"], book.detach())


def test_context_is_the_default_and_the_smallest(tmp_path: Path) -> None:
    sizes = {name: save(small(), tmp_path / f"{name}.lil", coder=name) for name in CODERS}
    assert save(small(), tmp_path / "net.lil") == sizes["context"]
    assert (tmp_path / "net.lil").read_bytes() == (tmp_path / "context.lil").read_bytes()
    assert sizes["context"] < sizes["huffman"] and sizes["context"] < sizes["plain"] / 2


def test_without_the_native_core_the_default_is_plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_native", None)
    save(small(), tmp_path / "net.lil")
    assert (tmp_path / "net.lil").read_bytes()[8] == 1


def test_an_unknown_coder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"no coder is called `huffmann`. Did you mean `huffman`"):
        save(small(), tmp_path / "net.lil", coder="huffmann")


def test_the_account_says_what_context_saved(tmp_path: Path) -> None:
    save(small(), tmp_path / "net.lil", coder="huffman")
    for row in account(tmp_path / "net.lil")[:-2]:
        assert row.elements == 0 or row.bytes >= row.entropy  # no code of single numbers goes below
        assert row.overhead >= 0 or not row.entropy


@given(
    st.lists(st.integers(-3000, 3000), min_size=1, max_size=40).filter(any),
    st.integers(1, 4095),
    st.integers(-30, 10),
)
def test_multiples_of_a_short_step_are_whole_numbers(numbers: list[int], mantissa: int, exponent: int) -> None:
    before = torch.tensor(numbers, dtype=torch.float32) * (mantissa * 2.0**exponent)
    made = stepped(stored("t", before))
    if made.bounds != (0, 1) or made.step:
        assert made.step is not None and made.step % (mantissa * 2.0**exponent) == 0
        back = torch.from_numpy(made.array()).float() * torch.tensor(made.step, dtype=torch.float32)
        assert same(back, before)


@pytest.mark.parametrize(
    "values", [[0.1, 0.25], [1e-30, 1.0], [float("nan"), 1.0], [float("inf"), 2.0], [-0.0, 2.0], [0.0, -0.0]]
)
def test_everything_else_stays_as_it_is(values: list[float]) -> None:
    held = stored("t", torch.tensor(values))
    assert stepped(held) == held


def test_a_network_on_a_grid_takes_the_bits_of_the_grid(tmp_path: Path) -> None:
    model = small(())
    weight = model.get_parameter("layer3.0.conv1.weight")
    with torch.no_grad():
        weight.copy_((torch.arange(weight.numel()) % 5 - 2).view_as(weight) * 0.375)
    save(model, tmp_path / "net.lil")
    entries = {entry.name: entry for _, entry in read(tmp_path / "net.lil").header.tensors()}
    entry = entries["layer3.0.conv1.weight"]
    assert (entry.bounds, entry.step) == ((-2, 2), 0.375)
    assert torch.equal(load(tmp_path / "net.lil").get_parameter("layer3.0.conv1.weight"), weight)


def test_prefix_codes_are_those_of_the_definition() -> None:
    import numpy as np

    data = coder("huffman", {}).encode([np.array([0, 0, 0, 1, 1, 2])], [Piece((6,), 0, 3)])
    bits = "".join(f"{byte:08b}" for byte in data[4:])
    assert data[:4].hex() == "04000000"
    assert bits[:29] == "00001000100001000000" + "000101011"
    assert not int(bits[29:], 2)
