"""Weights from elsewhere: the usual files load, and what does not fit is named."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from lil_samples import fill
from safetensors.torch import save_file
from torch import nn

from lilliput.errors import ModelError
from lilliput.store import load_weights
from lilliput.store.tensors import same
from lilliput.zoo.catalog import create


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    return fill(create("resnet8:width=0.25"))


def fresh() -> nn.Module:
    return create("resnet8:width=0.25")


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(same(tensor, b.state_dict()[name]) for name, tensor in a.state_dict().items())


def test_safetensors_load(trained: nn.Module, tmp_path: Path) -> None:
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    model = fresh()
    assert load_weights(model, tmp_path / "w.safetensors") is model and equal(trained, model)


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
@pytest.mark.parametrize("nest", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_checkpoints_load_however_they_were_wrapped(
    trained: nn.Module, suffix: str, nest: str | None, prefix: str, tmp_path: Path
) -> None:
    state = OrderedDict((prefix + name, tensor) for name, tensor in trained.state_dict().items())
    torch.save({nest: state, "best_prec1": 91.25, "epoch": 3} if nest else state, tmp_path / f"w{suffix}")
    assert equal(trained, load_weights(fresh(), tmp_path / f"w{suffix}"))


def test_counters_may_be_missing(trained: nn.Module, tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in trained.state_dict().items() if "num_batches" not in name}
    save_file(state, tmp_path / "w.safetensors")
    model = load_weights(fresh(), tmp_path / "w.safetensors")
    assert all(same(tensor, model.state_dict()[name]) for name, tensor in state.items())


def test_a_model_with_a_child_called_module_keeps_its_names(tmp_path: Path) -> None:
    model = nn.Sequential(OrderedDict(module=nn.Linear(2, 2)))
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    load_weights(model, tmp_path / "w.safetensors")


class Sly:
    """Unpickling it would run code."""

    def __reduce__(self) -> Any:
        return (print, ("this must not run",))


def test_a_checkpoint_that_needs_pickle_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": {}, "args": Sly()}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"w.pt: this checkpoint needs pickle code to load") as caught:
        load_weights(fresh(), tmp_path / "w.pt")
    assert "\n" not in str(caught.value) and capsys.readouterr().out == ""


def test_a_whole_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "w.pt")
    with pytest.raises(ModelError, match="needs pickle code"):
        load_weights(nn.Linear(2, 2), tmp_path / "w.pt")


def changed(trained: nn.Module, change: Any) -> dict[str, Any]:
    state = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    change(state)
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.update({"linear.weight": torch.zeros(100, 16), "linear.bias": torch.zeros(100)}),
            r"linear.weight is \[100, 16\] in the file and \[10, 16\] in the model",
        ),
        (lambda s: s.pop("conv1.weight"), r"conv1.weight, and 0 more of the model's, are not in it. Nearest there: "),
        (lambda s: s.update(head=torch.zeros(1)), r"the model has no head, nor 0 more in it"),
        (
            lambda s: s.update({"fc.weight": s.pop("linear.weight"), "fc.bias": s.pop("linear.bias")}),
            r"linear.weight, and 1 more of the model's, are not in it",
        ),
    ],
)
def test_the_first_tensor_that_does_not_fit_is_named_and_nothing_is_copied(
    trained: nn.Module, change: Any, message: str, tmp_path: Path
) -> None:
    save_file(changed(trained, change), tmp_path / "w.safetensors")
    model = fresh()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ModelError, match=message):
        load_weights(model, tmp_path / "w.safetensors")
    assert all(same(tensor, model.state_dict()[name]) for name, tensor in before.items())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.safetensors", b"\xff" * 20, "not a safetensors file"),
        ("w.pt", b"not a checkpoint", "pickle code|not a checkpoint"),
        ("w.pth", b"PK\x03\x04broken", "pickle code|not a checkpoint"),
        ("w.pt", b"", "not a checkpoint"),
        ("w.onnx", b"", "`.onnx` is not a kind of weights"),
    ],
)
def test_what_is_no_weights_file_is_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=message):
        load_weights(fresh(), tmp_path / name)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"gone.pt: .*cannot be read: No such file"):
        load_weights(fresh(), tmp_path / "gone.pt")


def test_a_checkpoint_of_something_else_is_named(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "w.pt")
    with pytest.raises(ModelError, match="a list in it, not a state dict"):
        load_weights(fresh(), tmp_path / "w.pt")
    torch.save({"epoch": 3, "loss": 0.5}, tmp_path / "w.pt")
    with pytest.raises(ModelError, match="`epoch` in it is a int, not a tensor"):
        load_weights(fresh(), tmp_path / "w.pt")
