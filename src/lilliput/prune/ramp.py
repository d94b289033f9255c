"""When masks change in a training, and how many zeros they then have."""

from __future__ import annotations

from dataclasses import dataclass

from lilliput.errors import ConfigError


@dataclass(frozen=True)
class Ramp:
    """A cubic from rate `low` at step `first` to `high` at step `last`; masks change every `every` steps, and at `last`."""

    first: int
    last: int
    every: int
    low: float
    high: float

    def changes(self, step: int) -> bool:
        """Whether masks change after this step."""
        return self.first <= step <= self.last and ((step - self.first) % self.every == 0 or step == self.last)

    def rate(self, step: int) -> float:
        """The share of zeros from this step on.

        >>> Ramp(0, 100, 10, 0.0, 0.8).rate(50)
        0.7000000000000001
        """
        left = 1 - (step - self.first) / (self.last - self.first)
        return self.high + (self.low - self.high) * max(0.0, left) ** 3

    def done(self, step: int) -> float:
        """The share of the ramp that is behind at a step."""
        return (step - self.first) / (self.last - self.first)


def ramp(steps: int, span: tuple[float, float], rates: tuple[float, float], every: int) -> Ramp:
    """The ramp over a span of a training, given as shares of its `steps`. Raises `ConfigError` where it has no room."""
    first, last = int(span[0] * steps), min(int(span[1] * steps), steps - 1)
    if last - first < every:
        raise ConfigError(
            f"the training has `{steps}` steps, {max(0, last - first)} of them between `since` and `until`: too short for a "
            f"change every `{every}`. Train longer, or lower `every`."
        )
    return Ramp(first, last, every, *rates)


def check_ramp(start: float, rate: float, since: float, until: float, every: int) -> None:
    """Raise `ConfigError` for a ramp that no training has room for."""
    if not 0 <= start <= rate < 1:
        raise ConfigError(f"`start` (={start}) and `rate` (={rate}) are shares of zeros: 0 <= start <= rate < 1")
    if not 0 <= since < until <= 1:
        raise ConfigError(f"`since` (={since}) and `until` (={until}) are shares of the training: 0 <= since < until <= 1")
    if every < 1:
        raise ConfigError(f"`every` (={every}) is a number of steps, at least 1")
