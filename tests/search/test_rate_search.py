"""Laws of packing to a size or to a loss of accuracy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import lilliput as lp
from lilliput import kernels
from lilliput.data import open_task
from lilliput.errors import BudgetError, ConfigError
from lilliput.export import export
from lilliput.quant import Quantize
from lilliput.quant.rate import RateQuantize
from lilliput.search import pack
from lilliput.store import save

pytestmark = pytest.mark.skipif(kernels.backend() != "native", reason="only the native core rounds")
METHOD = RateQuantize(images=64)


@pytest.fixture(scope="module")
def task() -> lp.Task:
    return open_task("digits")


@pytest.fixture(scope="module")
def model(task: lp.Task) -> torch.nn.Module:
    """A network that is right now and then: a linear head on random features, by least squares."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = lp.zoo.create("resnet8:channels=1,width=0.5").eval()
    head = [m for m in made.modules() if isinstance(m, torch.nn.Linear)][-1]
    seen: list[torch.Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        labels = []
        for x, y in task.batches("val", 250):
            made(x)
            labels.append(y)
        hook.remove()
        features = torch.cat(seen)
        wanted = 4 * torch.nn.functional.one_hot(torch.cat(labels), 10).float()
        head.weight.copy_(torch.linalg.lstsq(features, wanted).solution.T)
        head.bias.zero_()  # type: ignore[union-attr]
    return made


def test_a_size_is_filled_and_kept(model: torch.nn.Module, task: lp.Task, tmp_path: Path) -> None:
    whole = save(model, tmp_path / "exact.lil")
    found = pack(model, task, size=0.2 * whole, method=METHOD)
    assert 0.18 * whole < found.bytes <= 0.2 * whole
    assert save(found.model, tmp_path / "packed.lil") == found.bytes


def test_what_follows_is_counted_and_small_weights_run_as_integers(
    model: torch.nn.Module, task: lp.Task, tmp_path: Path
) -> None:
    whole = save(model, tmp_path / "exact.lil")
    found = pack(model, task, size=0.25 * whole, method=METHOD, then=[Quantize(weights="power", images=64)])
    assert 0.22 * whole < found.bytes <= 0.25 * whole
    assert save(found.model, tmp_path / "packed.lil") == found.bytes
    loaded, x = lp.load(tmp_path / "packed.lil"), task.example(4)
    assert torch.equal(loaded.eval()(x), found.model.eval()(x))
    assert export(found.model, task.example(), tmp_path / "packed.onnx").integer_nodes["QLinearConv"] > 0


def test_a_drop_is_kept_and_used(model: torch.nn.Module, task: lp.Task) -> None:
    little, much = (pack(model, task, drop=drop, method=METHOD) for drop in (1.0, 10.0))
    assert little.drop <= 1 and much.drop <= 10
    assert much.bytes < little.bytes
    assert little.method.step < much.method.step


def test_what_cannot_be_is_said(model: torch.nn.Module, task: lp.Task) -> None:
    with pytest.raises(BudgetError, match="no step"):
        pack(model, task, size=100, method=METHOD)
    with pytest.raises(BudgetError, match=r"loses .* points"):
        pack(model, task, size=2500, drop=0, method=METHOD)
    with pytest.raises(ConfigError, match="a `size` or a `drop`"):
        pack(model, task)
