"""docs/sparsity.md: its recipe is what the function writes, and it names every criterion and rule."""

from __future__ import annotations

import re
from pathlib import Path

import lilliput as lp
from lilliput.prune.rates import shares
from lilliput.prune.saliency import saliencies

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/sparsity.md").read_text()


def test_the_recipe_is_what_the_function_writes() -> None:
    block, _ = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    fit = lp.Fit(epochs=10, lr=0.05, distill=lp.distill.Hinton())
    written = lp.Recipe(lp.prune.gradual(lp.prune.Weights(rate=0.9, allocate="lamp"), fit))
    ours = lp.Recipe.from_yaml(block)
    assert ours.steps[1] == written.steps[1]


def test_every_criterion_and_rule_is_named() -> None:
    assert all(f"| `{name}` |" in PAGE for name in (*saliencies, *shares))


def test_the_picture_is_small() -> None:
    assert (ROOT / "docs/granularities.svg").stat().st_size < 100_000
