"""The targets beside ONNX."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from integer_nets import NETS, images, look, outputs, resnet
from safetensors import safe_open
from safetensors.torch import load_file

from lilliput.core.layers import Mapped
from lilliput.core.perform import bake, perform
from lilliput.errors import ExportError
from lilliput.export import export
from lilliput.quant import Fold, Quantize


def test_pt2_computes_what_the_network_does(tmp_path: Path) -> None:
    model = Quantize()(NETS["branches"](), look())
    done = export(model, images(2), tmp_path / "net.pt2")
    assert done.max_error == 0 and done.bytes == done.path.stat().st_size
    read = torch.export.load(done.path).module()
    assert torch.equal(read(images(5)), outputs(model, images(5)))


def test_safetensors_hold_the_baked_weights(tmp_path: Path) -> None:
    model = Quantize()(resnet(), look())
    done = export(model, images(1), tmp_path / "net.safetensors")
    stored = load_file(done.path)
    baked = bake(model)
    assert all(torch.equal(stored[k], v) for k, v in baked.state_dict().items())
    site = next(n for n, m in model.named_modules() if isinstance(m, Mapped))
    assert torch.equal(stored[f"{site}.weight"], model.get_submodule(site).mapped_weight())
    with safe_open(done.path, "pt") as file:
        assert file.metadata()["architecture"] == "resnet8:width=0.5"


def test_safetensors_of_a_folded_network_are_ordinary(tmp_path: Path) -> None:
    model = Fold()(resnet(), look())
    fresh = perform(resnet(), Fold().plan(resnet(), look()), weights=False)
    fresh.load_state_dict(load_file(export(model, images(1), tmp_path / "net.safetensors").path))
    assert torch.equal(outputs(fresh, images()), outputs(model, images()))


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot be written"):
        export(resnet(), images(1), tmp_path / "file" / "net.safetensors")
