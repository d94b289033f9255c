"""Distillation inside a training: taps, adapters, teachers, and going on where it stopped."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import network, stripes, task
from torch import Tensor, nn

from lilliput import distill
from lilliput.config import parse
from lilliput.core.edits import Map, Swap
from lilliput.core.layers import Compressed, swaps
from lilliput.core.method import Look
from lilliput.core.perform import perform
from lilliput.data import Task
from lilliput.distill import answers
from lilliput.distill.contract import Turn
from lilliput.distill.lesson import Lesson
from lilliput.distill.taps import Scene, Watch, survey
from lilliput.errors import ConfigError, UnknownName
from lilliput.prune import Channels
from lilliput.train import Event, Fit, Machine, fit

ALL: list[distill.Distillation] = [
    distill.Hinton(), distill.Dkd(), distill.Dist(), distill.Standardized(distill.Dkd()), distill.Mutual(fresh=True),
    distill.Hints(), distill.Attention(), distill.Flow(adapt=True), distill.Similarity(), distill.Factors(first=0.4),
    distill.Contrast(negatives=64), distill.Review(middle=8), distill.Distance(), distill.Angle(), distill.Correlation(),
    distill.Sum([distill.Hinton(), distill.Attention(["layer?"]), distill.Hints({"layer1": "layer1"})], [1.0, 0.5, 2.0]),
    distill.Scheduled(distill.Contrast(negatives=32), points=[[0, 0], [0.5, 1]]),
]  # fmt: skip
LEARNS = {"distill.fitnets", "distill.fsp", "distill.ft", "distill.crd", "distill.reviewkd", "distill.mutual", "distill.sum",
          "distill.scheduled"}  # fmt: skip


class Stop(Exception):
    """A process that dies."""


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())


def lesson(loss: distill.Distillation, student: nn.Module, teacher: nn.Module) -> Lesson:
    return Lesson(loss, Scene(student, teacher, task()), steps=10)


def turn(taught: Lesson, student: nn.Module, step: int = 5) -> Tensor:
    data = task()
    batches = data.batches("train", 24)
    x, y = batches.batch(0)
    outputs = student(x)
    return taught.total(x, outputs, y, data.loss(outputs, y), batches.order[:24], step)


def value(taught: Lesson, student: nn.Module) -> float:
    return turn(taught, student).detach().item()


def test_every_loss_is_here() -> None:
    from lilliput.config import configs

    named = {loss.name for loss in ALL}
    registered = {name for name, entry in configs.items() if issubclass(entry, distill.Distillation)}
    assert {name for name in registered if name.startswith("distill.")} == named


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: loss.name)
def test_it_goes_on_bit_equal_and_leaves_nothing_in_the_student(loss: distill.Distillation, tmp_path: Path) -> None:
    plan, teacher = Fit(epochs=2, batch_size=54, distill=loss), network(1.0)
    assert parse(plan.text()) == plan
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    straight = fit(network(), task(), plan, teacher=teacher)

    def die(event: Event) -> None:
        if event["event"] == "step" and event["epoch"] == 2:
            raise Stop

    with pytest.raises(Stop):
        fit(network(), task(), plan, teacher=teacher, folder=tmp_path, watch=die)
    resumed = fit(network(), task(), plan, teacher=teacher, folder=tmp_path)
    assert equal(straight.model, resumed.model)
    assert [r["train_loss"] for r in straight.history] == [r["train_loss"] for r in resumed.history]
    assert list(straight.model.state_dict()) == list(network().state_dict())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in straight.model.modules())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(p.requires_grad for p in teacher.parameters())


@pytest.mark.parametrize("taps", [[], ["layer?"], ["conv1", "bn1:in"], ["bn1", "*.conv2"], ["layer?.*.bn?:in"]])
def test_a_teacher_runs_folded_and_every_tap_sees_what_it_saw(taps: list[str]) -> None:
    teacher, x = network(1.0).eval(), task().example(5)
    for norm in (m for m in teacher.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.uniform_(norm.running_mean, -1, 1)  # type: ignore[arg-type] # a tensor, with running statistics
    wanted, watched = teacher(x), Watch(teacher, taught(teacher, taps), grad=True)
    teacher(x)
    loss = distill.Attention(taps, weight=1.0) if taps else distill.Hinton()
    running = lesson(loss, network(), teacher)
    seen = running._frozen(x)
    norms = [m for m in running.teacher.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == {"": 0, "layer?": 0, "conv1": 1, "bn1": 4, "layer?.*.bn?:in": 6}[taps[0] if taps else ""]
    assert torch.allclose(seen.outputs, wanted, atol=1e-4)
    for site, value in watched.take().items():
        assert torch.allclose(seen.taps[site], value, atol=1e-4), site


class InPlace(nn.Module):
    """A network whose layers write over what they read, with a second head while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.linear, self.second = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Any:
        x = self.body(x)
        return Heads(self.linear(x), (self.second(x),)) if self.training else self.linear(x)


Heads = namedtuple("Heads", ["main", "aux"])


def test_a_tap_is_what_its_layer_gave_though_the_next_works_in_place() -> None:
    student, teacher, x = InPlace().train(), InPlace().eval(), task().example(6)
    running = lesson(distill.Hints(["body.0", "body.1:in", "body.1"], adapt=False), student, teacher)
    student(x)
    for seen, net in ((running.ours.take(), student), (running._frozen(x).taps, teacher)):
        before = net.body[0](x)
        assert torch.allclose(seen["body.0"], before) and torch.equal(seen["body.0"], seen["body.1:in"])
        assert torch.allclose(seen["body.1"], before.relu())


@pytest.mark.parametrize("loss", [distill.Hinton(), distill.Dkd(), distill.Dist(), distill.Mutual()], ids=lambda x: x.name)
def test_only_a_networks_own_outputs_are_taught(loss: distill.Distillation) -> None:
    done = fit(InPlace(), task(), Fit(epochs=1, batch_size=54, distill=loss), teacher=InPlace())
    assert done.history[-1]["train_loss"] > 0


class Sees(nn.Module):
    """In the place of a loss: what one is given, and whether products of it are rounded."""

    def forward(self, turn: Turn) -> Tensor:
        self.turn, self.rounded = turn, torch.is_autocast_enabled("cpu")
        return turn.hard


@pytest.mark.parametrize("loss", [distill.Attention(), distill.Mutual(fresh=True)], ids=lambda loss: loss.name)
def test_losses_compute_in_single_precision_whoever_trains(loss: distill.Distillation) -> None:
    student = network()
    running = lesson(loss, student, network(1.0))
    running.part = Sees()
    with torch.autocast("cpu", torch.bfloat16):
        turn(running, student)
    seen = running.part.turn
    given = [*(one for side in (seen.student, seen.teacher) for one in (side.outputs, *side.taps.values())), seen.peer]
    assert not running.part.rounded
    assert all(one.dtype == torch.float32 for one in given if one is not None)


class Stubborn(nn.Module):
    """A network that is not copied."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network(1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]

    def __deepcopy__(self, memo: object) -> nn.Module:
        raise TypeError("cannot be copied")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what PyTorch's compiler imports
@pytest.mark.parametrize(
    ("make", "said"),
    [(lambda: torch.compile(network(1.0)), None), (Stubborn, "norms stay.*cannot be copied")],
    ids=["compiled", "not copied"],
)
def test_a_teacher_that_cannot_be_folded_teaches_as_it_is(make: Callable[[], nn.Module], said: str | None) -> None:
    teacher = make()
    running = lesson(distill.Hinton(), network(), teacher)
    with pytest.warns(UserWarning, match=said) if said else nullcontext():
        running._fold(task().example(1))
    assert running.teacher is teacher and running.folded
    assert any(isinstance(m, nn.BatchNorm2d) for m in teacher.modules())


def taught(teacher: nn.Module, taps: list[str]) -> list[str]:
    """The sites that patterns name."""
    return [site for pattern in taps for site in survey(teacher, task().example(2)).match(pattern)]


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: loss.name)
def test_gradients_reach_the_student_and_its_adapters_only(loss: distill.Distillation) -> None:
    student, teacher = network(), network(1.0)
    taught = lesson(loss, student, teacher)
    turn(taught, student).backward()
    assert any(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in student.parameters())
    assert bool(list(taught.parameters())) == (loss.name in LEARNS)
    if not loss.trains_teacher():
        assert not teacher.training and all(p.grad is None and not p.requires_grad for p in teacher.parameters())
        assert any(p.grad is not None for p in taught.parameters()) == (loss.name in LEARNS)
    taught.close()
    assert not any(m._forward_hooks or m._forward_pre_hooks for net in (student, teacher) for m in net.modules())


def test_the_same_network_is_taught_nothing() -> None:
    student, teacher = network().eval(), network().eval()
    for loss in (distill.Hinton(alpha=1.0), distill.Dkd(hard=0.0), distill.Hints(adapt=False, hard=0.0),
                 distill.Attention(hard=0.0), distill.Flow(hard=0.0), distill.Similarity(hard=0.0),
                 distill.Distance(hard=0.0), distill.Angle(hard=0.0), distill.Correlation(hard=0.0)):  # fmt: skip
        assert value(lesson(loss, student, teacher), student) == pytest.approx(0, abs=1e-4), loss.name


def test_a_sum_adds_its_members_and_one_task_loss() -> None:
    student, teacher = network().eval(), network(1.0)
    members = [distill.Dkd(hard=3.0), distill.Attention(hard=5.0)]
    hard = value(lesson(distill.Attention(weight=0.0), student, teacher), student)
    alone = [value(lesson(m, student, teacher), student) - m.hard * hard for m in members]
    together = value(lesson(distill.Sum(members, [2, 0.5], hard=0.7), student, teacher), student)
    assert together == pytest.approx(0.7 * hard + 2 * alone[0] + 0.5 * alone[1], rel=1e-4)
    with_teacher = distill.Sum([distill.Hinton(alpha=0.8)])
    soft = value(lesson(distill.Hinton(alpha=0.8), student, teacher), student) - (1 - 0.8) * hard
    assert value(lesson(with_teacher, student, teacher), student) == pytest.approx(hard + soft, rel=1e-4)


def test_a_survey_changes_nothing_and_finds_stages_and_head() -> None:
    model, data = network(), task()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.layer1.eval()  # type: ignore[union-attr]
    found = survey(model, data.example(2))
    assert list(found.stages().values()) == ["layer1", "layer2", "layer3"] and found.head == "linear"
    assert found.shapes["layer2"] == (2, 16, 4, 4) and found.shapes["linear:in"] == (2, 32)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training and not model.layer1.training and not model.conv1._forward_hooks  # type: ignore[union-attr]


def test_taps_follow_patterns_in_the_order_of_the_network() -> None:
    scene = Scene(network(), network(1.0), task())
    assert scene.pairs({"layer3": "layer3", "layer1": "layer2"}, "stages") == (("layer1", "layer2"), ("layer3", "layer3"))
    assert [s for s, _ in scene.pairs(("layer?.0.conv1",), "stages")] == [f"layer{i}.0.conv1" for i in (1, 2, 3)]
    assert scene.pairs(("linear:in",), "stages") == (("linear:in", "linear:in"),)
    assert scene.pairs((), "embedding") == (("linear:in", "linear:in"),)


def test_taps_that_match_nothing_name_the_nearest() -> None:
    scene = Scene(network(), network(1.0), task())
    with pytest.raises(UnknownName, match=r"`taps` of the student: no layer is called `layr2`\. Did you mean .*`layer2`"):
        scene.pairs(("layr2",), "stages")
    with pytest.raises(UnknownName, match=r"distill\.at: `taps` of the teacher: no layer is called `stage2`"):
        fit(network(), task(), Fit(distill=distill.Attention({"layer2": "stage2"})), teacher=network())
    with pytest.raises(ConfigError, match=r"`layer\?` names 3 layers of the student .* and `linear` 1 of the teacher"):
        scene.pairs({"layer?": "linear"}, "stages")


class Shapeless(nn.Module):
    """A network without a classifier on features, and with one size of image only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3))  # type: ignore[no-any-return]


def test_what_cannot_be_found_by_itself_is_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"distill\.crd: no classifier .* name the embedding by `taps`"):
        lesson(distill.Contrast(), Shapeless(), network())
    with pytest.raises(
        ConfigError, match=r"end at `conv` \(8x8\) and the teacher's at .*`layer3` \(2x2\); pair layers by `taps`"
    ):
        lesson(distill.Attention(), Shapeless(), network())


def test_shapes_that_differ_are_said_with_the_layers() -> None:
    plan = Fit(distill=distill.Hints(adapt=False), batch_size=54)
    with pytest.raises(
        ConfigError, match=r"distill\.fitnets, layer2: the student gives \(54, 16, 4, 4\) and the teacher \(54, 32"
    ):
        fit(network(), task(), plan, teacher=network(1.0))


def test_a_teacher_of_other_classes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"the student gives \(54, 3\) and the teacher \(54, 5\)"):
        fit(network(), task(), Fit(distill=distill.Dkd(), batch_size=54), teacher=network(1.0, classes=5))
    fit(network(), task(), Fit(1, batch_size=54, distill=distill.Attention()), teacher=network(1.0, classes=5))


class Halves(Compressed):
    """A convolution as two: half its channels each."""

    name = "test_halves"

    def __init__(self, dense: nn.Conv2d) -> None:
        super().__init__()
        self.first = nn.Conv2d(dense.in_channels, dense.out_channels // 2, 3, dense.stride, 1, bias=False)  # type: ignore[arg-type]
        self.second = nn.Conv2d(dense.out_channels // 2, dense.out_channels, 1, bias=False)

    @classmethod
    def like(cls, dense: nn.Module) -> nn.Module:
        assert isinstance(dense, nn.Conv2d)
        return cls(dense)

    def absorb(self, dense: nn.Module) -> None:
        """Keeps the weights it was born with."""

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))  # type: ignore[no-any-return]


def test_taps_follow_pruned_swapped_and_mapped_networks() -> None:
    if Halves.name not in swaps:
        swaps.add(Halves.name, Halves)
    teacher = network(1.0)
    pruned = Channels(keep=0.5, scope="all")(teacher, Look(task().example(2)))
    swapped = perform(pruned, [Swap("layer2.0.conv2", Halves.name, {}), Map("layer1.0.conv2", "weight", "affine", {"bits": 8})])
    found = survey(swapped, task().example(2))
    assert "layer2.0.conv2" in found.shapes and not any("first" in site or "weight_maps" in site for site in found.shapes)
    loss = distill.Hints({"layer2.0.conv2": "layer2.0.conv2"})
    taught = lesson(loss, swapped, teacher)
    caught = {}
    layer = swapped.get_submodule("layer2.0.conv2")
    layer.register_forward_hook(lambda module, args, output: caught.update(output=output))
    x = task().example(4)
    swapped(x)
    assert torch.equal(taught.ours.take()["layer2.0.conv2"], caught["output"])
    done = fit(swapped, task(), Fit(1, batch_size=54, distill=loss), teacher=teacher)
    assert list(done.model.state_dict()) == list(swapped.state_dict())


class Counting(nn.Module):
    """A teacher that counts the images it sees."""

    seen = 0

    def __init__(self) -> None:
        super().__init__()
        self.net = network(1.0)

    def forward(self, x: Tensor) -> Tensor:
        assert torch.is_inference_mode_enabled() or not self.net.training
        Counting.seen += len(x)
        return self.net(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("loss", [distill.Hinton(), distill.Attention({"layer?": "net.layer?"})])
def test_a_remembered_teacher_runs_once_and_says_the_same(loss: distill.Distillation, tmp_path: Path) -> None:
    data = task()
    plain = Fit(3, batch_size=54, distill=loss, augment=False)
    cached = Fit(3, batch_size=54, distill=loss, augment=False, cache_teacher=True)
    asked = fit(network(), data, plain, teacher=Counting())
    Counting.seen = 0
    remembered = fit(network(), data, cached, teacher=Counting())
    assert Counting.seen - 4 <= len(data.train)  # 4 for the look at its layers
    for name, value in asked.model.state_dict().items():
        assert torch.allclose(value, remembered.model.state_dict()[name], rtol=1e-2, atol=1e-3), name

    def die(event: Event) -> None:
        if event["event"] == "step" and event["epoch"] == 2:
            raise Stop

    with pytest.raises(Stop):
        fit(network(), data, cached, teacher=Counting(), folder=tmp_path, watch=die)
    assert equal(fit(network(), data, cached, teacher=Counting(), folder=tmp_path).model, remembered.model)


def drawn() -> Task:
    """Stripes that are moved and mirrored anew each epoch."""
    return Task(stripes(120, 1), stripes(45, 2), augment="augment.crop_flip(pad=1)")


def test_trainings_of_a_seed_share_what_a_teacher_says_of_augmented_images(tmp_path: Path) -> None:
    def asked(loss: distill.Distillation, teacher: nn.Module | None = None, cached: bool = True, seed: int = 0) -> nn.Module:
        plan = Fit(2, batch_size=54, distill=loss, cache_teacher=cached)
        Counting.seen = 0
        return fit(network(), drawn(), plan, teacher=teacher or Counting(), answers=tmp_path, seed=seed).model

    hinton, embedding, other = distill.Hinton(), distill.Distance({"linear:in": "net.linear:in"}), Counting()
    first, epochs = asked(hinton), Counting.seen
    assert epochs == 2 * 108 + 1, "and one image to fold the norms"
    asked(distill.Dkd())
    assert Counting.seen == 0
    asked(embedding)
    assert Counting.seen >= epochs, "nobody heard the embeddings before"
    asked(embedding)
    assert Counting.seen <= 2, "a look at the layers is left"
    assert equal(asked(hinton), first) and Counting.seen == 0
    assert equal(asked(hinton, cached=False), first) and Counting.seen == epochs
    asked(hinton, seed=1)
    assert Counting.seen == epochs, "another seed draws other images"
    with torch.no_grad():
        other.net.get_parameter("linear.bias")[0] += 1
    asked(hinton, other)
    assert Counting.seen == epochs, "another teacher says something else"


@pytest.mark.parametrize("loss", [distill.Hinton(), distill.Attention(), distill.Review(middle=8)], ids=lambda loss: loss.name)
def test_killed_between_what_the_teacher_said_and_what_the_student_learned_it_goes_on_bit_equal(
    loss: distill.Distillation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = replace(loss, taps={"layer?": "net.layer?"}) if isinstance(loss, distill.Feature) else loss
    plan = Fit(2, batch_size=54, distill=loss, cache_teacher=True)
    straight = fit(network(), drawn(), plan, teacher=Counting(), answers=tmp_path / "one")
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr("lilliput.train.accuracy", lambda *_, **__: 1 / 0)
        fit(network(), drawn(), plan, teacher=Counting(), answers=tmp_path / "two", folder=tmp_path / "fit")
    resumed = fit(network(), drawn(), plan, teacher=Counting(), answers=tmp_path / "two", folder=tmp_path / "fit")
    assert equal(resumed.model, straight.model)


def test_a_teacher_that_cannot_be_remembered_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="learns, too"):
        fit(network(), task(), Fit(batch_size=27, distill=distill.Mutual(), cache_teacher=True), teacher=network())
    with pytest.raises(ConfigError, match="needs `distill`"):
        Fit(cache_teacher=True).check()
    monkeypatch.setattr(answers, "LIMIT", 100)
    with pytest.raises(ConfigError, match=r"takes 0\.0 GiB an epoch"):
        fit(network(), task(), Fit(1, batch_size=27, distill=distill.Hinton(), cache_teacher=True), teacher=network())


def test_a_network_learns_from_itself_and_from_several() -> None:
    plan = Fit(1, batch_size=54, distill=distill.Hinton())
    own = fit(network(), task(), Fit(1, batch_size=54, distill=distill.Hinton(), taught_by="previous"), teacher=network(1.0))
    assert equal(own.model, fit(network(), task(), plan, teacher=network()).model)
    one, pair = (fit(network(), task(), plan, teacher=t) for t in (network(1.0), [network(1.0), network(1.0)]))
    for name, value in one.model.state_dict().items():
        assert torch.allclose(value, pair.model.state_dict()[name], atol=1e-4)
    with pytest.raises(ConfigError, match="start or previous"):
        Fit(taught_by="next").check()  # type: ignore[arg-type]


def test_hints_alone_leave_the_layers_behind_as_they_are() -> None:
    done = fit(network(), task(), Fit(1, batch_size=54, distill=distill.Hints(hard=0.0)), teacher=network(1.0))
    assert torch.equal(done.model.linear.weight, network().linear.weight)  # type: ignore[union-attr, arg-type]
    assert not torch.equal(done.model.conv1.weight, network().conv1.weight)  # type: ignore[union-attr, arg-type]
    with pytest.raises(ConfigError, match="leaves layers without a gradient"):
        fit(network(), task(), Fit(distill=distill.Hints(hard=0.0)), teacher=network(1.0), machine=Machine("cpu", 2))


def test_peers_differ_when_the_other_is_fresh() -> None:
    same, fresh = (lesson(distill.Mutual(fresh=f), network(), network()) for f in (False, True))
    assert equal(same.teacher, network()) and not equal(fresh.teacher, network())


class NormFree(nn.Module):
    """No batch statistics, so that processes see the same function."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(1, 6, 3, padding=1), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.slow
def test_two_processes_distil_as_one(tmp_path: Path) -> None:
    plan = Fit(1, batch_size=36, lr=0.1, distill=distill.Sum([distill.Hinton(), distill.Attention(("conv",), weight=1.0)]))
    one = fit(NormFree(), task(), plan, teacher=NormFree())
    two = fit(NormFree(), task(), plan, teacher=NormFree(), machine=Machine("cpu", 2), folder=tmp_path)
    for name, value in one.model.state_dict().items():
        assert torch.allclose(value, two.model.state_dict()[name], atol=1e-4), name
    adapted = Fit(1, batch_size=36, distill=distill.Hints(("conv",)))
    fit(NormFree(), task(), adapted, teacher=NormFree(), machine=Machine("cpu", 2))
