"""How many channels each group keeps: a share of them, or as many as a target allows.

A target is a share of what the given network costs. The shares of groups are alike (`uniform`), follow one threshold on the
worth of channels (`global`), or are chosen by measured time (`latency`, prune/timed).
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from lilliput.core.method import Look
from lilliput.errors import ConfigError
from lilliput.prune.spread import NOUNS, gentlest, rounded, spread
from lilliput.prune.thinning import Counts, Thinning
from lilliput.prune.timed import by_time

SPREAD = ("uniform", "global", "latency")
TARGETS = ("macs", "params", "bytes", "latency")


@dataclass(frozen=True)
class Amount:
    """What is asked for: `keep`, or one of the targets; how it is spread over the groups; and which widths are allowed."""

    keep: float | dict[str, float] = 1.0
    macs: float | None = None
    params: float | None = None
    bytes: float | None = None
    latency: float | None = None
    allocate: str = "uniform"
    multiple: int = 1

    def check(self) -> None:
        """Raise `ConfigError` for an amount that can never be met."""
        set_targets = self._targets()
        shares = self.keep if isinstance(self.keep, dict) else {"": self.keep}
        for share in shares.values():
            if not 0 < share <= 1:
                raise ConfigError(f"`keep` (={share}) is the share of channels that stays, above 0 and at most 1")
        for name, share in set_targets.items():
            if not 0 < share <= 1:
                raise ConfigError(f"`{name}` (={share}) is the share of the {NOUNS[name]} that stays, above 0 and at most 1")
        if len(set_targets) + (self.keep != 1.0) > 1:
            given = [*(["keep"] if self.keep != 1.0 else []), *set_targets]
            raise ConfigError(f"{' and '.join(f'`{n}`' for n in given)} each say how much stays; give one of them")
        if self.allocate not in SPREAD:
            raise ConfigError(f"`allocate` (={self.allocate}) is one of {', '.join(SPREAD)}")
        if isinstance(self.keep, dict) and self.allocate != "uniform":
            raise ConfigError(
                f"`keep` by patterns says itself how channels are spread; leave out `allocate` (={self.allocate})"
            )
        if self.multiple < 1:
            raise ConfigError(f"`multiple` (={self.multiple}) is at least 1")

    @property
    def asks(self) -> bool:
        """Whether any channel should leave at all."""
        shares = self.keep.values() if isinstance(self.keep, dict) else (self.keep,)
        return any(share < 1 for share in (*shares, *self._targets().values()))

    @property
    def target(self) -> tuple[str, float]:
        """What is limited, and to which share."""
        return next(iter(self._targets().items()), ("keep", self.keep))  # type: ignore[return-value]

    def _targets(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in TARGETS if getattr(self, name) is not None}


def counts(thinning: Thinning, amount: Amount, look: Look) -> Counts:
    """How many atoms each group keeps.

    A target is met by the gentlest thinning of its family. Raises `ConfigError` with the smallest share that can be reached
    for a target below it, and where a clock is needed and there is none.
    """
    amount.check()
    if isinstance(amount.keep, dict):
        return _by_pattern(thinning, amount.keep, amount.multiple)
    if not amount.asks:
        return thinning.whole
    if amount.allocate == "latency" or amount.latency is not None:
        return by_time(thinning, amount.target, amount.allocate, amount.multiple, look.need_clock("channel pruning"))
    family = spread(thinning, amount.allocate, amount.multiple)
    name, share = amount.target
    if name == "keep":
        return family(share)
    return gentlest(family, lambda c: thinning.left(name, c), share, name)


def _by_pattern(thinning: Thinning, keep: dict[str, float], multiple: int) -> Counts:
    names = [group.name for group in thinning.groups]
    for pattern in keep:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(f"`keep`: `{pattern}` matches no group of channels; they are {', '.join(names)}")
    shares = (next((s for p, s in keep.items() if fnmatchcase(name, p)), 1.0) for name in names)
    return tuple(rounded(share, size, multiple) for share, size in zip(shares, thinning.whole, strict=True))
