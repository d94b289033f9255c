"""Every recipe of the repository runs, on some digits and for one epoch where it trains, and what it makes goes into a file."""

from __future__ import annotations

import dataclasses
import re
from functools import cache
from pathlib import Path

import pytest
import torch

import lilliput as lp
from lilliput.config import Config
from lilliput.data import open_task
from lilliput.recipe import Bench, run

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


@cache
def digits() -> lp.Task:
    """A few of the scans."""
    whole = open_task("digits")
    return lp.Task(whole.train.subset(range(96)), whole.test.subset(range(32)), whole.val.subset(range(32)), classes=10)


def short(step: Config) -> Config:
    """The same step with one epoch, if it trains, in which masks change at every step."""
    if not isinstance(step, lp.Fit):
        return step
    callbacks = tuple(dataclasses.replace(c, every=1) if isinstance(c, lp.prune.Gradual) else c for c in step.callbacks)
    return dataclasses.replace(step, epochs=1, batch_size=32, callbacks=callbacks)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_it_runs_and_what_it_makes_is_stored(path: Path, tmp_path: Path) -> None:
    recipe = lp.Recipe([short(step) for step in lp.Recipe.read(path).steps])
    torch.manual_seed(0)
    model = lp.zoo.create("resnet8", channels=1, width=0.5).eval()
    made = run(model, recipe, Bench(digits(), tmp_path))
    trained = [stage.history for stage in made.stages if isinstance(stage.step, lp.Fit)]
    assert all(sum(event["event"] == "epoch" for event in history) == 1 for history in trained)
    assert lp.edits(made.model)
    lp.save(made.model, tmp_path / "made.lil")
    x = digits().example(4)
    with torch.no_grad():
        assert torch.equal(lp.load(tmp_path / "made.lil")(x), made.model.eval()(x))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_its_comment_names_what_is_written(path: Path) -> None:
    comment = "".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    assert all(Path(name).name == path.name for name in re.findall(r"--recipe (\S+)", comment))


def test_papers_steps_are_those_of_the_functions_that_write_them() -> None:
    ticket = lp.prune.lottery(lp.prune.Weights(rate=0.8, allocate="global"), lp.Fit(epochs=10), rounds=7)
    assert lp.Recipe.read(RECIPES[0].parent / "lottery_ticket.yaml") == lp.Recipe(ticket)
    between = [lp.BatchNorm(), lp.Fit(epochs=5, lr=0.02)]
    musco = lp.factor.stages(lp.factor.Factorize("tucker2", macs=0.5), 3, between)
    found = lp.Recipe.read(RECIPES[0].parent / "musco.yaml").steps
    assert [type(s) for s in found] == [type(s) for s in musco] and found[1:3] == tuple(musco[1:3])
    assert found[0].macs == pytest.approx(musco[0].macs, abs=1e-6)  # type: ignore[attr-defined]
