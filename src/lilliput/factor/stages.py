"""A little at a time: recipes that factorize, train, and factorize again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lilliput.config import Config
from lilliput.errors import ConfigError
from lilliput.factor.factorize import RULES, Factorize

SHARES = ("macs", "params", "latency")


def stages(method: Factorize, count: int, between: Sequence[Config]) -> list[Config]:
    """The steps of a recipe that reaches a budget in `count` equal factors, each followed by the steps `between`.

    With a budget b on the whole network each stage may cost b^(1/count) of the stage before; with "vbmf" each stage goes
    part of the way that is left, `strength` 1/count, 1/(count−1), …, 1. A stage decomposes the kernels of the one before.
    Gusak et al. 2019, "MUSCO: multi-stage compression of neural networks", arXiv:1903.09973.

    >>> [step.text() for step in stages(Factorize(macs=0.25), 2, [])]
    ['factor.factorize(macs=0.5)', 'factor.factorize(macs=0.5)']
    """
    method.check()
    if count < 1:
        raise ConfigError(f"`count` (={count}) of stages is at least 1")
    budget = next((rule for rule in SHARES if getattr(method, rule) is not None), None)
    if budget is None and method.rank != "vbmf":
        raise ConfigError(f'stages need a budget ({", ".join(SHARES)}) or `rank="vbmf"`, not {_rules(method)}')
    steps: list[Config] = []
    for stage in range(count):
        part = {budget: getattr(method, budget) ** (1 / count)} if budget else {"strength": method.strength / (count - stage)}
        steps += [replace(method, **part), *between]  # type: ignore[arg-type]
    return steps


def _rules(method: Factorize) -> str:
    """The rules a method has."""
    return ", ".join(f"`{rule}`" for rule in RULES if getattr(method, rule) is not None) or "none"
