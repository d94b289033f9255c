"""Recipe writers: how pruning and training take turns. Each is a function that returns the steps of a `Recipe`.

A `fit` is any training step, such as `Fit(epochs=10, lr=0.02)`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from lilliput.config import Config
from lilliput.errors import ConfigError
from lilliput.prune.gradual import Gradual
from lilliput.prune.regrow import Regrow
from lilliput.prune.weights import Weights


def one_shot(weights: Weights, fit: Config) -> list[Config]:
    """Prune once, train once.

    >>> one_shot(Weights(rate=0.8), Weights())
    [prune.weights(rate=0.8), prune.weights()]
    """
    return [weights, fit]


def iterative(weights: Weights, fit: Config, rounds: int = 5) -> list[Config]:
    """Prune and train in turns, every round the same share of what is left: 1 - (1 - rate)^(k / rounds) are zero after k.

    Han et al. 2015, arXiv:1506.02626.
    """
    steps: list[Config] = []
    for rate in rising(weights, rounds):
        steps += [dataclasses.replace(weights, rate=rate), fit]
    return steps


def gradual(weights: Weights, fit: Config, *, every: int = 50, until: float = 0.75) -> list[Config]:
    """One training in which the share of zeros rises by a cubic (`prune.gradual`). Zhu and Gupta 2017, arXiv:1710.01878."""
    masks, rate = dataclasses.replace(weights, rate=0.0), _rate(weights)
    ramp = Gradual(rate, criterion=weights.criterion, allocate=weights.allocate, every=every, until=until)
    return [masks, _with(fit, ramp)]


def regrown(
    weights: Weights, fit: Config, *, start: float | None = None, every: int = 100, until: float = 0.75
) -> list[Config]:
    """One training with masks that move (`prune.regrow`), from random masks of `start` zeros.

    Without `start` the share of zeros never changes (RigL, arXiv:1911.11134); below the rate it rises (GraNet,
    arXiv:2106.10404).
    """
    rate = _rate(weights)
    start = rate if start is None else start
    masks = dataclasses.replace(weights, criterion="random", rate=start, allocate="erk")
    return [masks, _with(fit, Regrow(rate, start, allocate=weights.allocate, every=every, until=until))]


def rising(weights: Weights, rounds: int) -> list[float]:
    """The rate after each round."""
    if rounds < 1:
        raise ConfigError(f"`rounds` (={rounds}) must be at least 1")
    # Rounded, so that recipes of three and of four rounds to the same rates begin with the same text.
    return [round(1 - (1 - _rate(weights)) ** (k / rounds), 6) for k in range(1, rounds)] + [_rate(weights)]


def _rate(weights: Weights) -> float:
    weights.check()
    if isinstance(weights.rate, dict):
        raise ConfigError("a schedule raises one `rate`; rates by layer have none in common")
    return weights.rate


def _with(fit: Config, callback: Any) -> Config:
    """The training with one more callback."""
    callback.check()
    already: tuple[Any, ...] = getattr(fit, "callbacks", ())
    return dataclasses.replace(fit, callbacks=(*already, callback))  # type: ignore[type-var]
