"""The contract, for everything that is registered: the public checks of `lilliput.testing`, and methods after each other."""

from __future__ import annotations

import itertools

import pytest
import torch

import lilliput as lp
from lilliput import testing
from lilliput.config import configs
from lilliput.core.method import Method
from lilliput.errors import BudgetError, ModelError

STRONG = {"factor.factorize": {"macs": 0.5}, "prune.channels": {"keep": 0.5}, "prune.layers": {"remove": 1}}
"""Options under which a method does something, where its defaults do nothing."""

METHODS = {name: cls(**STRONG.get(name, {})) for name, cls in configs.items() if issubclass(cls, Method)}
FAST = [name for name in testing.CHECKS if name != "exports_and_agrees"]


def test_every_method_is_here() -> None:
    assert {"prune.channels", "quant.quantize"} <= set(METHODS)


@pytest.mark.parametrize("check", FAST)
@pytest.mark.parametrize("name", METHODS)
def test_contract(name: str, check: str) -> None:
    testing.check_method(METHODS[name], only=[check])


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_export(name: str) -> None:
    testing.check_method(METHODS[name], only=["exports_and_agrees"])


@pytest.mark.parametrize("name", METHODS)
def test_it_does_something(name: str) -> None:
    assert METHODS[name].plan(testing.subject_model(), testing.subject_look())


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(METHODS, 2)))
def test_methods_compose(first: str, second: str) -> None:
    model, look = testing.subject_model(), testing.subject_look()
    once = METHODS[first](model, look)
    try:
        twice = METHODS[second](once, look)
    except (ModelError, BudgetError) as refusal:  # a method that finds nothing, or too little, to do says so
        said = ("no channel can leave: ", "no layer can be factorized: ", "is below the floor: ")
        assert any(words in str(refusal) for words in said)
        return
    assert lp.edits(twice)[: len(lp.edits(once))] == lp.edits(once)
    with torch.no_grad():
        assert torch.isfinite(twice(look.example)).all()


def test_a_broken_method_is_caught() -> None:
    class Breaks(lp.prune.Channels):
        """Changes the model while it looks."""

        name = "prune.channels"

        def plan(self, model, look):  # type: ignore[no-untyped-def]
            with torch.no_grad():
                next(model.parameters()).add_(1)
            return super().plan(model, look)

    with pytest.raises(AssertionError, match="breaks `input_is_untouched`: a tensor of the model changed"):
        testing.check_method(Breaks(keep=0.5), only=["input_is_untouched"])


def test_randomness_is_caught() -> None:
    class Random(lp.prune.Channels):
        """Decides differently every time."""

        name = "prune.channels"

        def plan(self, model, look):  # type: ignore[no-untyped-def]
            return super().plan(model, look)[: int(torch.randint(1, 3, ()))]

    torch.manual_seed(1)
    with pytest.raises(AssertionError, match=r"global random state moved|two plans differ"):
        testing.check_method(Random(keep=0.5), only=["input_is_untouched", "same_seed_same_edits"])
