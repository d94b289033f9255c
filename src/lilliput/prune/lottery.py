"""Lottery tickets: pruned networks trained from the weights that they began with, and what they must be compared with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import nn

from lilliput import zoo
from lilliput.config import Config, config
from lilliput.core.perform import perform
from lilliput.core.record import edits, record
from lilliput.errors import ConfigError
from lilliput.prune.masks import masks, settle
from lilliput.prune.patterns import pattern
from lilliput.prune.retrain import rising
from lilliput.prune.saliency import draw, own_seed
from lilliput.prune.weights import Weights

TICKETS = ("winning", "random", "reinitialised")


@config("rewind")
class Rewind(Config):
    """A step of a recipe: every weight, bias and norm goes back to what it was, and the masks of now stay.

    to        after which step of the recipe (1 is the first); 0 is the network that the recipe starts from
    shuffle   the same number of zeros in each layer at other, drawn places: the random ticket
    redraw    weights drawn anew instead of those of then: the reinitialised ticket; for networks of the zoo

    Edits made since are performed on the network of then, so channels that have left stay away.
    Frankle and Carbin 2019, arXiv:1803.03635; Frankle et al. 2020, "Linear mode connectivity", arXiv:1912.05671.
    """

    to: int = 0
    shuffle: bool = False
    redraw: bool = False

    def check(self) -> None:
        """Raise `ConfigError` for options that can never work."""
        if self.to < 0:
            raise ConfigError(f"`to` (={self.to}) is a step of the recipe, or 0 for its start")

    def __call__(self, now: nn.Module, then: nn.Module, seed: int = 0) -> nn.Module:
        """The network `now` with the numbers of `then`, from which its later edits were made. Neither is changed."""
        first = edits(then)
        if edits(now)[: len(first)] != first:
            raise ConfigError(f"rewind: edits of step {self.to} were baked since, so its weights fit no longer")
        made = perform(_redrawn(then, seed) if self.redraw else then, edits(now)[len(first) :])
        maps = {name: value for name, value in now.state_dict().items() if "_maps." in name}
        made.load_state_dict({**made.state_dict(), **maps})
        for site, (layer, mask) in masks(made).items():
            if self.shuffle:
                drawn = draw(mask.kept.shape, own_seed(seed, site)).to(mask.kept.device)
                mask.kept = pattern(mask.pattern).mask(drawn, int((~mask.kept).sum()))
            settle(layer, mask)
        return made.train(now.training)


def lottery(
    weights: Weights, fit: Config, *, early: Config | None = None, rounds: int = 5, ticket: str = "winning"
) -> list[Config]:
    """The steps that find a ticket: train, prune, rewind, and again, `rounds` times; the last training is the ticket's.

    early    a first training, to whose end weights rewind ("step k"); without it they rewind to the start
    ticket   winning; or its controls, which differ in the last rewinding alone: random (masks shuffled within layers) and
             reinitialised (weights drawn anew)

    The recipe starts from an untrained network. Recipes of one family begin alike, so a store trains what they share once.
    """
    if ticket not in TICKETS:
        raise ConfigError(f"`ticket` (={ticket}) is one of {', '.join(TICKETS)}")
    steps: list[Config] = [fit] if early is None else [early, fit]
    rewind = Rewind(len(steps) - 1)
    for rate in rising(weights, rounds):
        steps += [dataclasses.replace(weights, rate=rate), rewind, fit]
    last = {"winning": rewind, "random": dataclasses.replace(rewind, shuffle=True)}
    steps[-2] = last.get(ticket, dataclasses.replace(rewind, redraw=True))
    return steps


def left(steps: Sequence[Config]) -> list[float]:
    """The share of weights left after each pruning of a recipe."""
    return [1 - s.rate for s in steps if isinstance(s, Weights) and not isinstance(s.rate, dict)]


def _redrawn(model: nn.Module, seed: int) -> nn.Module:
    """The same structure with weights as its constructor draws them."""
    name = record(model).architecture
    if name is None or name.partition(":")[0] not in zoo.names():
        raise ConfigError(f"rewind: `redraw` builds a network of the zoo anew, and this one's architecture is `{name}`")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(own_seed(seed, "redraw"))
        fresh = zoo.create(name)
    return perform(fresh, edits(model))
