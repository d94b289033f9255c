"""Recipes: values with a text, prefixes that are shared, and runs that lose nothing when killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small import network, task
from torch import nn

from lilliput.core.record import edits, record
from lilliput.distill import Ensemble, Hinton
from lilliput.errors import ConfigError, FormatError, ModelError
from lilliput.opening import open_model
from lilliput.prune import Channels
from lilliput.recipe import Bake, Bench, Recipe, Student, prefix_id, run, start_text
from lilliput.train import BatchNorm, Event, Fit

PRUNE = Channels(keep=0.5)
SETTLE = BatchNorm(images=64, batch_size=32)
LEARN = Fit(epochs=2, batch_size=27, distill=Hinton())


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())


def test_yaml_and_text_are_invertible() -> None:
    recipe = Recipe([PRUNE, SETTLE, LEARN, Bake()])
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert Recipe.from_yaml("steps: [bake, 'prune.channels(keep=0.5)', {fit: {epochs: 2}}]").steps[1] == PRUNE


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", "not YAML"),
        ("a: 1", "a mapping with a list of `steps`"),
        ("steps: [prune.chanels]", "step 1: no method or step is called `prune.chanels`. Did you mean `prune.channels`"),
        ("steps: [bake, {fit: {epoch: 2}}]", "step 2: fit: no option is called `epoch`. Did you mean `epochs`?"),
        ("steps: [{fit: {epochs: many}}]", "step 1: fit: `epochs` (='many')"),
        ("steps: [{prune.channels: {keep: 2}}]", "step 1: prune.channels: `keep` (=2.0)"),
        ("steps: [3]", "`3` is not a step"),
        ("steps: [{distill.hinton: {}}]", "is no method, fit, batchnorm, bake, rewind, student or slim"),
    ],
)
def test_what_is_no_recipe_is_refused_with_the_step(text: str, words: str) -> None:
    with pytest.raises(Exception) as caught:
        Recipe.from_yaml(text)
    assert words in str(caught.value) and caught.value.exit_code == 2  # type: ignore[attr-defined]


def test_a_missing_file_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        Recipe.read("nowhere.yaml")


def test_prefixes_are_shared_and_reused(tmp_path: Path) -> None:
    seen: list[Event] = []
    bench = Bench(task(), tmp_path, watch=seen.append)
    model = network().eval()
    first = run(model, Recipe([PRUNE, LEARN]), bench)
    epochs = len([e for e in seen if e["event"] == "epoch"])
    second = run(model, Recipe([PRUNE, LEARN, SETTLE]), bench)
    assert epochs == 2 and len([e for e in seen if e["event"] == "epoch"]) == epochs
    assert [s.reused for s in first.stages] == [False, False] and [s.reused for s in second.stages] == [True, True, False]
    assert [s.id for s in first.stages] == [s.id for s in second.stages[:2]]
    again = run(model, Recipe([PRUNE, LEARN]), bench)
    assert equal(first.model, again.model) and edits(first.model) == edits(again.model)
    assert record(again.model).recipe == Recipe([PRUNE, LEARN]).text()


def test_the_model_is_left_alone_and_the_result_is_its_own(tmp_path: Path) -> None:
    model = network().eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    made = run(model, Recipe([PRUNE, SETTLE]), Bench(task(), tmp_path))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()) and not edits(model)
    assert edits(made.model) == made.stages[0].edits
    assert run(model, Recipe(()), Bench(task(), tmp_path)).model is not model


def test_the_id_follows_start_data_steps_and_seed_is_apart(tmp_path: Path) -> None:
    model = network()
    start = start_text(model, task())
    other = network()
    with torch.no_grad():
        other.get_parameter("conv1.weight")[0, 0, 0, 0] += 1
    assert start_text(network(), task()) == start
    assert start_text(other, task()) != start and start_text(model, task(90)) != start
    assert prefix_id([start, PRUNE.text()]) != prefix_id([start, SETTLE.text()])
    run(model, Recipe([SETTLE]), Bench(task(), tmp_path, seed=3))
    assert (tmp_path / prefix_id([start, SETTLE.text()]) / "replicate_3" / "stage.json").exists()


NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 3)

    def forward(self, x):
        return self.linear(x.flatten(1)).OF()

def build():
    return Net()
"""


def test_a_network_whose_code_changed_is_another_one(tmp_path: Path) -> None:
    file, starts, students = tmp_path / "net.py", [], []
    for of in ("relu", "relu", "sigmoid"):
        file.write_text(NET.replace("OF", of))
        starts.append(start_text(open_model(f"{file}:build"), task()))
        recipe = Recipe([Student(f"{file}:build")])
        students.append(run(network().eval(), recipe, Bench(task(), tmp_path / "store")).stages[0])
    assert starts[0] == starts[1] != starts[2]
    assert [stage.reused for stage in students] == [False, True, False]
    a, b = network(), network(1.0)
    assert start_text(Ensemble([a, b]), task()) != start_text(Ensemble([a, b], temperature=4.0), task())
    assert start_text(Ensemble([a, b]), task()) == start_text(Ensemble([network(), network(1.0)]), task())
    plain, wide = nn.Sequential(nn.MaxPool2d(2)), nn.Sequential(nn.MaxPool2d(2, stride=1))
    assert start_text(plain, task()) != start_text(wide, task())


VICTIM = """
import sys
sys.path.insert(0, {tests!r})
from small import network, task
from lilliput.recipe import Bench, Recipe, run
from lilliput.prune import Channels
from lilliput.train import Fit
from pathlib import Path
recipe = Recipe([Channels(keep=0.5), Fit(epochs=40, batch_size=27)])
run(network().eval(), recipe, Bench(task(), Path({root!r})))
print("finished")
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    recipe = Recipe([Channels(keep=0.5), Fit(epochs=40, batch_size=27)])
    straight = run(network().eval(), recipe, Bench(task(), tmp_path / "straight"))
    code = VICTIM.format(tests=str(Path(__file__).parent), root=str(tmp_path / "killed"))
    for attempt in range(3):
        victim = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        wait_for_epoch(tmp_path / "killed", 3 * (attempt + 1), victim)
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
    resumed = run(network().eval(), recipe, Bench(task(), tmp_path / "killed"))
    assert equal(straight.model, resumed.model)
    assert [r["train_loss"] for r in straight.stages[1].history] == [r["train_loss"] for r in resumed.stages[1].history]


def wait_for_epoch(root: Path, epoch: int, process: subprocess.Popen[bytes]) -> None:
    """Until the state on disk is that far, or the process has ended."""
    from lilliput.core import state

    while process.poll() is None:
        for path in root.glob("*/replicate_0/fit.safetensors"):
            if state.read(path)["epoch"] >= epoch:
                return
        time.sleep(0.02)


def test_a_stage_on_disk_is_plain_json_and_safetensors(tmp_path: Path) -> None:
    run(network().eval(), Recipe([PRUNE]), Bench(task(), tmp_path))
    (folder,) = tmp_path.glob("*/replicate_0")
    assert {p.name for p in folder.iterdir()} == {"stage.json", "state.safetensors"}
    assert json.loads((folder / "stage.json").read_text())["step"] == PRUNE.text()


def test_a_stage_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    recipe, bench = Recipe([Channels(keep=0.5)]), Bench(task(), tmp_path)
    run(network(), recipe, bench)
    broken = next(tmp_path.rglob("stage.json"))
    broken.write_text("{")
    with pytest.raises(FormatError, match="not a stored stage"):
        run(network(), recipe, bench)


def test_a_student_learns_from_what_the_recipe_started_from(tmp_path: Path) -> None:
    small = "resnet8:channels=1,classes=3,width=0.25"
    recipe = Recipe([Student(small), Fit(epochs=1, batch_size=27, distill=Hinton())])
    bench = Bench(task(), tmp_path)
    first, again = run(network().eval(), recipe, bench), run(network().eval(), recipe, bench)
    assert record(first.model).architecture == small and equal(first.model, again.model)
    assert all(stage.reused for stage in again.stages) and not any(stage.reused for stage in first.stages)
    assert not equal(first.model, run(network().eval(), Recipe([Student(small)]), bench).model)
    wrong = {"resnet8:channels=1,classes=4": "gives (1, 4)", "resnet8:channels=3,classes=3": "cannot take"}
    for name, says in wrong.items():
        with pytest.raises(ModelError, match=re.escape(says)):
            run(network().eval(), Recipe([Student(name)]), bench)
    with pytest.raises(ConfigError, match="names the student"):
        Recipe([Student("")]).check()
