"""Models through `.lil`: what loads computes what was saved, and takes the bytes it should."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lil_samples import MAPS, OTHERS, RESIZES, fill, small
from torch import Tensor, nn

from lilliput.core.edits import Map, Resize
from lilliput.core.perform import bake, perform
from lilliput.core.record import attach, edits, record
from lilliput.errors import FormatError, ModelError
from lilliput.store import account, load, read_record, save
from lilliput.store.format import read
from lilliput.store.tensors import same
from lilliput.zoo.catalog import Architecture, architectures, create

IMAGES = torch.linspace(-2, 2, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)


def through_a_file(model: nn.Module, path: Path) -> nn.Module:
    assert save(model, path) == path.stat().st_size
    return load(path)


def computes(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(IMAGES)


@pytest.mark.parametrize("edited", [(), RESIZES, MAPS, OTHERS, RESIZES + MAPS, MAPS + RESIZES + OTHERS])
def test_what_loads_computes_the_same_bits(edited: Any, tmp_path: Path) -> None:
    before = small(edited)
    after = through_a_file(before, tmp_path / "net.lil")
    assert torch.equal(computes(before), computes(after))
    assert edits(after) == edited and record(after) == record(before)
    assert not after.training and after.input_shape == before.input_shape


@settings(max_examples=15)
@given(st.data())
def test_any_resizes_and_quantizers_survive(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    kept = tuple(sorted(data.draw(st.sets(st.integers(0, 7), min_size=1))))
    resizes = (
        Resize("layer2.0.conv1", "out", kept),
        Resize("layer2.0.bn1", "out", kept),
        Resize("layer2.0.conv2", "in", kept),
    )
    sites = data.draw(st.sets(st.sampled_from(["conv1", "layer1.0.conv2", "layer2.0.conv1", "linear"])))
    maps = [Map(site, "weight", "test.grid", {"bits": data.draw(st.integers(2, 8))}) for site in sorted(sites)]
    before = small((*resizes, *maps))
    after = through_a_file(before, tmp_path_factory.mktemp("lil") / "net.lil")
    assert torch.equal(computes(before), computes(after))


def test_the_same_model_is_the_same_bytes_and_so_is_what_loads(tmp_path: Path) -> None:
    save(small(), tmp_path / "a.lil")
    save(small(), tmp_path / "b.lil")
    save(load(tmp_path / "a.lil"), tmp_path / "c.lil")
    assert len({(tmp_path / name).read_bytes() for name in ("a.lil", "b.lil", "c.lil")}) == 1


def test_saving_leaves_the_model_alone(tmp_path: Path) -> None:
    model = small().train()
    before = copy.deepcopy(model.state_dict())
    save(model, tmp_path / "net.lil")
    assert model.training and all(same(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_loaded_model_trains(tmp_path: Path) -> None:
    model = through_a_file(small(RESIZES), tmp_path / "net.lil").train()
    model(IMAGES).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_loading_leaves_the_random_state_alone(tmp_path: Path) -> None:
    save(small(), tmp_path / "net.lil")
    before = torch.get_rng_state()
    load(tmp_path / "net.lil")
    assert torch.equal(before, torch.get_rng_state())


def test_codes_take_the_bits_of_their_quantizer(tmp_path: Path) -> None:
    save(small(MAPS), tmp_path / "net.lil", coder="plain")
    rows = {row.name: row for row in account(tmp_path / "net.lil")}
    bits = {name: rows[name].bits for name in ("conv1.weight", "layer1.0.conv1.weight", "layer1.0.conv2.weight")}
    assert bits == {"conv1.weight": 8, "layer1.0.conv1.weight": 4, "layer1.0.conv2.weight": 1}
    assert rows["layer1.0.conv1.weight_maps.0.keep"].kind == "flags" and rows["layer1.0.conv1.weight_maps.0.keep"].bits == 1
    assert rows["conv1.weight_maps.0.scale"].kind == "side"
    assert rows["layer1.0.conv2.weight.book"].kind == "side"


def test_of_two_quantizers_of_runtimes_the_last_one_holds_the_codes(tmp_path: Path) -> None:
    model = perform(small(), [Map("conv1", "weight", "affine", {"bits": bits}) for bits in (16, 4)])
    save(model, tmp_path / "net.lil", coder="plain")
    row = next(row for row in account(tmp_path / "net.lil") if row.name == "conv1.weight")
    assert (row.kind, row.bits) in (("codes", 4), ("values", 32))
    x = torch.randn(2, *model.input_shape)
    assert torch.equal(load(tmp_path / "net.lil").eval()(x), model.eval()(x))


def test_a_weight_that_codes_cannot_stand_for_is_stored_as_it_is(tmp_path: Path) -> None:
    before = small(MAPS)
    save(before, tmp_path / "net.lil", coder="plain")
    after = load(tmp_path / "net.lil")
    row = next(row for row in account(tmp_path / "net.lil") if row.name == "layer2.0.conv1.weight")
    assert (row.kind, row.bits) == ("values", 32)
    assert same(before.state_dict()["layer2.0.conv1.weight"], after.state_dict()["layer2.0.conv1.weight"])


def test_the_account_is_the_whole_file(tmp_path: Path) -> None:
    size = save(small(), tmp_path / "net.lil")
    rows = account(tmp_path / "net.lil")
    assert sum(row.bytes for row in rows) == size
    assert [row.name for row in rows] == [*sorted(row.name for row in rows[:-2]), "header", "padding"]
    assert sum(row.elements for row in rows) >= sum(t.numel() for t in small().state_dict().values())
    assert rows[0].to_json().keys() == {"name", "kind", "elements", "bytes", "bits", "entropy"}


def test_the_record_is_read_without_building(tmp_path: Path) -> None:
    save(attach(small(), architecture="nets.py:build"), tmp_path / "net.lil", recipe="recipe()")
    kept = read_record(tmp_path / "net.lil")
    assert (kept.architecture, kept.recipe, len(kept.edits)) == ("nets.py:build", "recipe()", len(RESIZES + MAPS))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_types_of_a_model_survive(dtype: torch.dtype, tmp_path: Path) -> None:
    before = small(()).to(dtype)
    after = through_a_file(before, tmp_path / "net.lil")
    assert all(same(tensor, after.state_dict()[name]) for name, tensor in before.state_dict().items())


def test_a_baked_model_survives(tmp_path: Path) -> None:
    before = bake(small())
    assert torch.equal(computes(before), computes(through_a_file(before, tmp_path / "net.lil")))


class Tied(nn.Module):
    """Two layers of one weight, a layer used twice, and numbers that no state dict holds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.again = self.second
        self.register_buffer("shift", torch.arange(4.0), persistent=False)
        self.step = torch.tensor(3.0)
        self.rate = torch.linspace(0, 1, 3)[1].item()

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.second(self.first(x)) + self.shift) * self.step + self.rate


@pytest.fixture
def tied(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    monkeypatch.setitem(architectures._entries, "tied", Architecture("tied", Tied, (4, 1, 1), "none"))
    return fill(create("tied")).eval()


def test_shared_tensors_are_stored_once_and_shared_again(tied: Any, tmp_path: Path) -> None:
    after = through_a_file(tied, tmp_path / "net.lil")
    assert after.first.weight is after.second.weight and after.again is after.second
    held = read(tmp_path / "net.lil").header
    names = [entry.name for _, entry in held.tensors()]
    assert names == ["first.bias", "first.weight", "second.bias"]
    assert held.tied == {
        "again.bias": "second.bias", "again.weight": "first.weight", "second.weight": "first.weight"
    }  # fmt: skip


def test_tensors_outside_the_state_dict_are_made_again(tied: Any, tmp_path: Path) -> None:
    after = through_a_file(tied, tmp_path / "net.lil")
    x = torch.linspace(-1, 1, 8).reshape(2, 4)
    assert torch.equal(after(x), tied(x)) and not after.shift.is_meta and not after.step.is_meta


def test_a_weight_of_two_layers_is_not_turned_into_codes_of_one(tied: Any, tmp_path: Path) -> None:
    before = perform(tied, [Map("first", "weight", "test.grid", {"bits": 2})]).eval()
    x = torch.linspace(-1, 1, 8).reshape(2, 4)
    assert torch.equal(through_a_file(before, tmp_path / "net.lil")(x), before(x))


def test_shift_positions_survive(tmp_path: Path) -> None:
    before = create("shift_resnet20:expansion=1").eval()
    before.stages[0].shift.point([(3 * i) % 9 for i in range(16)])
    after = through_a_file(before, tmp_path / "net.lil")
    assert after.stages[0].shift.positions == before.stages[0].shift.positions
    assert torch.equal(computes(before), computes(after))


def test_a_model_that_does_not_say_what_builds_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r'a `Linear` does not say .* save\(model, path, architecture="file.py:function"\)'):
        save(nn.Linear(2, 2), tmp_path / "net.lil")


def test_a_model_changed_without_edits_is_refused(tmp_path: Path) -> None:
    model = small(())
    model.linear = nn.Linear(16, 3)
    with pytest.raises(ModelError, match=r"linear.weight is \[3, 16\], and the record makes it \[10, 16\]"):
        save(model, tmp_path / "net.lil")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_architecture_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Did you mean"):
        save(nn.Linear(2, 2), tmp_path / "net.lil", architecture="resnet21")


NET = """
import torch
from torch import nn
def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(2))
def tiny():
    return nn.Sequential(nn.Linear(3, 2))
"""


def test_code_is_run_only_when_trusted(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(NET)
    before = nn.Sequential(nn.Linear(3, 2))
    save(before, tmp_path / "net.lil", architecture=f"{tmp_path / 'nets.py'}:tiny")
    with pytest.raises(FormatError, match=r"is code, and is run only for a file that you trust: load\(path, trust=True\)"):
        load(tmp_path / "net.lil")
    after = load(tmp_path / "net.lil", trust=True)
    assert same(before[0].weight, after[0].weight) and record(after).architecture.endswith("nets.py:tiny")


def test_a_trusted_file_whose_code_is_gone_says_so(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(NET)
    save(nn.Sequential(nn.Linear(3, 2)), tmp_path / "net.lil", architecture=f"{tmp_path / 'nets.py'}:tiny")
    (tmp_path / "nets.py").rename(tmp_path / "netz.py")
    with pytest.raises(ModelError, match=r"there is no file .*nets.py`. Did you mean `netz.py`"):
        load(tmp_path / "net.lil", trust=True)


def test_lazy_layers_and_extra_state_are_refused_by_name(tmp_path: Path) -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"a": 1}

    with pytest.raises(ModelError, match=r"0._extra_state: a .lil file holds tensors, and this is a dict"):
        save(nn.Sequential(Extra(2, 2)), tmp_path / "net.lil", architecture="nets.py:build")
    with pytest.raises(ModelError, match=r"0.weight: this tensor has no shape yet"):
        save(nn.Sequential(nn.LazyLinear(2)), tmp_path / "net.lil", architecture="nets.py:build")
