"""A guest among the callbacks of Lightning's Trainer: the same training as in a plain loop, and a checkpoint goes on."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from small import network, task
from torch import Tensor, nn

import lilliput as lp
from lilliput import lightning
from lilliput.errors import ConfigError, LilliputError, TrainError, UsageError
from lilliput.train import Guest

BATCH, EPOCHS = 27, 2
PLANS: list[dict[str, Any]] = [
    {"callbacks": (lp.prune.Gradual(rate=0.7, every=1), lp.prune.Sparsify(strength=1e-3))},
    {"distill": lp.distill.Hints()},
]


@pytest.fixture
def pl() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("lightning.pytorch", reason="Lightning is not installed: pip install lightning")


def student() -> nn.Module:
    return lp.prune.Weights(rate=0.0)(network(), lp.Look(task().example()))


def loader() -> list[tuple[Tensor, Tensor]]:
    return list(task().batches("train", BATCH, drop_last=True))


def loading() -> Any:
    return torch.utils.data.DataLoader(loader(), batch_size=None)  # type: ignore[arg-type]


def module(pl: Any, **changes: Any) -> Any:
    """A LightningModule as users write them."""

    class Mine(pl.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = student()

        def training_step(self, batch: Any, index: int) -> Tensor:
            x, y = batch
            return nn.functional.cross_entropy(self.net(x), y)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    for name, value in changes.items():
        setattr(Mine, name, value)
    return Mine()


def trainer(pl: Any, guest: Any, folder: Path, **options: Any) -> Any:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    warnings.simplefilter("ignore")  # Lightning's advice about workers; pytest undoes this after the test
    return pl.Trainer(callbacks=[guest], default_root_dir=folder, **{"max_epochs": EPOCHS, **quiet, **options})


def plain(plan: dict[str, Any]) -> nn.Module:
    """The same training in a loop of one's own."""
    model = student().train()
    guest = Guest(model, steps=EPOCHS * 4, **taught(plan))
    optimizer = torch.optim.SGD([*model.parameters(), *guest.parameters()], lr=0.05, momentum=0.9)
    for _ in range(EPOCHS):
        for x, y in loader():
            outputs = model(x)
            optimizer.zero_grad()
            guest.loss(x, outputs, y, nn.functional.cross_entropy(outputs, y)).backward()
            guest.before_step()
            optimizer.step()
            guest.after_step()
    guest.end()
    return model


def taught(plan: dict[str, Any]) -> dict[str, Any]:
    return {**plan, "teacher": network(1.0) if "distill" in plan else None, "task": task().example(2)}


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())


@pytest.mark.parametrize("plan", PLANS, ids=["masks and a penalty", "hints"])
def test_the_trainer_trains_as_a_loop_does_and_goes_on_from_a_checkpoint(pl: Any, plan: dict[str, Any], tmp_path: Path) -> None:
    mine = module(pl)
    first = trainer(pl, lightning.guest("net", **taught(plan)), tmp_path)
    first.fit(mine, loading())
    assert equal(mine.net, plain(plan))
    assert not equal(mine.net, plain({}))
    assert "training_step" not in vars(mine) and not any("guest" in name for name in dict(mine.named_modules()))

    half = module(pl)

    class Stop(pl.Callback):  # type: ignore[misc, name-defined]
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            trainer.save_checkpoint(tmp_path / "half.ckpt")
            trainer.should_stop = True

    stopping = trainer(pl, lightning.guest("net", **taught(plan)), tmp_path)
    stopping.callbacks.insert(0, Stop())
    stopping.fit(half, loading())
    kept = torch.load(tmp_path / "half.ckpt", weights_only=True)
    assert list(kept["state_dict"]) == list(module(pl).state_dict())
    again = module(pl)
    trainer(pl, lightning.guest("net", **taught(plan)), tmp_path).fit(again, loading(), ckpt_path=tmp_path / "half.ckpt")
    assert equal(again.net, mine.net)


def only_net(self: Any) -> Any:
    return torch.optim.SGD(self.net.parameters(), lr=0.1)


def no_network(self: Any, batch: Any, index: int) -> Tensor:
    return self.net.conv1.weight.sum()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("changes", "options", "fault", "says"),
    [
        ({"configure_optimizers": only_net}, {}, ConfigError, "give it `self.parameters"),
        ({"training_step": no_network}, {}, TrainError, "did not run the network `net`"),
        ({"automatic_optimization": False}, {}, ConfigError, "optimizes by hand"),
        ({}, {"max_epochs": -1}, ConfigError, "`max_steps`"),
    ],
)
def test_what_cannot_work_says_so(
    pl: Any, changes: dict[str, Any], options: dict[str, Any], fault: type[LilliputError], says: str, tmp_path: Path
) -> None:
    with pytest.raises(fault, match=says):
        trainer(pl, lightning.guest("net", **taught(PLANS[1])), tmp_path, **options).fit(module(pl, **changes), loading())


def test_batches_are_pairs_or_have_labels() -> None:
    y = torch.zeros(3, dtype=torch.long)
    assert lightning._classes((None, y)) is y and lightning._classes({"image": None, "label": y}) is y
    with pytest.raises(ConfigError, match="a `Tensor`, not a pair"):
        lightning._classes(y)


def test_without_lightning_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lightning, "LIBRARIES", ("no_such_library.pytorch",))
    with pytest.raises(UsageError, match="pip install lightning"):
        lightning.guest("net")


@pytest.mark.parametrize("plan", PLANS, ids=["masks and a penalty", "hints"])
def test_a_fit_that_broke_off_leaves_the_module_as_it_was(pl: Any, plan: dict[str, Any], tmp_path: Path) -> None:
    def breaks(self: Any, batch: Any, index: int) -> Tensor:
        if index == 1:
            raise OSError("the disk is full")
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    mine = module(pl, training_step=breaks)
    before = {name: type(each) for name, each in mine.named_modules()}
    with pytest.raises(OSError, match="full"):
        trainer(pl, lightning.guest("net", **taught(plan)), tmp_path).fit(mine, loading())
    assert {name: type(each) for name, each in mine.named_modules()} == before and "training_step" not in vars(mine)
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in mine.modules())
    type(mine).training_step = lambda self, batch, index: nn.functional.cross_entropy(self.net(batch[0]), batch[1])
    mine.net.load_state_dict(student().state_dict())
    trainer(pl, lightning.guest("net", **taught(plan)), tmp_path).fit(mine, loading())
    assert equal(mine.net, plain(plan))
