"""Recipe writers for whole channels: a little at a time over the network, or one group after the other.

Each returns the steps of a `Recipe`: data, to be printed and edited. A `fit` is a training step, or several steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from lilliput.config import Config
from lilliput.errors import ConfigError
from lilliput.prune import retrain
from lilliput.prune.amounts import TARGETS
from lilliput.prune.channels import Channels
from lilliput.prune.weights import Weights


def iterative(method: Channels | Weights, fit: Config | Sequence[Config], rounds: int = 5) -> list[Config]:
    """Prune and train in turns; every round takes the same share of what is left.

    Of channels each round keeps share^(1 / rounds) of what it finds, whether the share is of channels or of a cost.
    Han et al. 2015, arXiv:1506.02626; Molchanov et al. 2017, arXiv:1611.06440.

    >>> iterative(Channels(macs=0.25), Channels(), rounds=2)
    [prune.channels(macs=0.5), prune.channels(), prune.channels(macs=0.5), prune.channels()]
    """
    if isinstance(method, Weights):
        if not isinstance(fit, Config):
            raise ConfigError("single weights are trained by one step after each pruning; give one `fit`")
        return retrain.iterative(method, fit, rounds)
    if rounds < 1:
        raise ConfigError(f"`rounds` (={rounds}) must be at least 1")
    method.check()
    asked = {name: value for name in ("keep", *TARGETS) if (value := getattr(method, name)) is not None}
    less: dict[str, Any] = {name: _root(value, rounds) for name, value in asked.items()}
    part = dataclasses.replace(method, **less)
    return [step for _ in range(rounds) for step in (part, *_steps(fit))]


def greedy(method: Channels, fit: Config | Sequence[Config], groups: Sequence[str]) -> list[Config]:
    """Prune one group of channels after the other, with training in between: each choice sees what the ones before did.

    `groups` are names of groups or patterns of them, in order (`prune.widths` lists a network's). `keep` is the share of
    each. Luo et al. 2017, arXiv:1707.06342, prune so, from the first layer to the last.

    >>> greedy(Channels(0.5), Channels(), ["layer1.*", "layer2.*"])[::2]
    [prune.channels(keep={"layer1.*": 0.5}), prune.channels(keep={"layer2.*": 0.5})]
    """
    method.check()
    if isinstance(method.keep, dict) or any(getattr(method, name) is not None for name in TARGETS):
        raise ConfigError("group after group each keeps one share of its channels: give `keep` as a number, and no target")
    if not groups:
        raise ConfigError("`groups` is empty: name the groups of channels to prune, in order")
    parts = [dataclasses.replace(method, keep={group: method.keep}, allocate="uniform") for group in groups]
    return [step for part in parts for step in (part, *_steps(fit))]


def _root(share: float | dict[str, float], rounds: int) -> float | dict[str, float]:
    """What each round keeps, to six digits, so that recipes stay readable."""
    if isinstance(share, dict):
        return {pattern: round(float(own ** (1 / rounds)), 6) for pattern, own in share.items()}
    return round(float(share ** (1 / rounds)), 6)


def _steps(fit: Config | Sequence[Config]) -> tuple[Config, ...]:
    return (fit,) if isinstance(fit, Config) else tuple(fit)
