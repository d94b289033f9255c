"""The main job from Python: any network, any recipe, and what is said where something cannot be had."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small import network, task
from torch import nn

import lilliput as lp
from lilliput.errors import ModelError
from lilliput.job import Settings


class Own(nn.Module):
    """A network of the user's own, which no name in the zoo builds."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.slow
def test_a_network_of_ones_own_is_compressed_and_the_lack_of_a_lil_is_said(tmp_path: Path) -> None:
    model = Own().train()
    recipe = lp.Recipe([lp.prune.Channels(keep=0.5)])
    made = lp.compress(model, task(), recipe, out=tmp_path / "out", settings=Settings(root=tmp_path / "stages"))
    assert made.met and made.metrics["compressed"]["params"] < made.metrics["baseline"]["params"]
    assert made.metrics["compressed"]["file_bytes"] is None and not (tmp_path / "out" / "model.lil").exists()
    details = json.loads((tmp_path / "out" / "details.json").read_text())
    assert any("model.lil was not written" in line for line in details["warnings"])
    assert (tmp_path / "out" / "report.html").exists() and lp.edits(model) == () and model.training


def test_a_size_budget_needs_a_file_to_measure(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"a size budget is about model\.lil"):
        lp.compress(Own(), task(), out=tmp_path, budget=lp.Budget.read(size="1kB"))


def test_classes_and_channels_must_fit(tmp_path: Path) -> None:
    recipe = lp.Recipe([])
    with pytest.raises(ModelError, match=r"the model has 7 classes and stripes has 3; build it with `classes=3`"):
        lp.compress(network(classes=7), task(), recipe, out=tmp_path)
    with pytest.raises(ModelError, match="cannot take stripes's images of 1 x 8 x 8"):
        lp.compress(lp.zoo.create("resnet8:classes=3"), task(), recipe, out=tmp_path)
