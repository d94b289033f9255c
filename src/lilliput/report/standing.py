"""How a candidate of a search stands with the budgets: what it costs too much of, and what its accuracy on validation says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lilliput.report import amounts
from lilliput.report.amounts import listing, mapping, milliseconds, number, share
from lilliput.report.compared import latency
from lilliput.report.outcome import Outcome
from lilliput.report.verdict import limit

SEEN = 0.03  # of accuracy on validation beyond what chance allows on test
Candidate = Mapping[str, Any]


@dataclass(frozen=True)
class Cost:
    """What accuracy is paid for with: its key in a candidate, its budget, and what it is of the uncompressed network."""

    title: str
    key: str
    budget: str
    axis: str
    unit: str
    show: Callable[[float], str]
    whole: Callable[[Outcome], float | None]

    def most(self, outcome: Outcome) -> float | None:
        """What the budget allows, in this unit."""
        whole = self.whole(outcome)
        if self.key != "ratio":
            return limit(outcome.metrics, self.budget, whole)
        took = latency(outcome.before)
        most = limit(outcome.metrics, self.budget, took)
        return most / took if most is not None and took else None

    def over(self, outcome: Outcome, candidate: Candidate) -> str | None:
        """In words, that a candidate costs more than the budget allows."""
        value, most = number(candidate.get(self.key)), self.most(outcome)
        return f"{self.budget} over {self.show(most)}" if value is not None and most is not None and value > most else None


def _ratio_of_one(outcome: Outcome) -> float | None:
    return None if latency(outcome.before) is None else 1.0


def _before(key: str) -> Callable[[Outcome], float | None]:
    return lambda outcome: number(outcome.before.get(key))


SIZE = Cost("size", "bytes", "size", "size, bytes", "B", amounts.size, _before("file_bytes"))
RATIO = Cost("latency", "ratio", "latency", "latency, times the uncompressed network", "x", "{:.2f}x".format, _ratio_of_one)
MILLISECONDS = Cost("milliseconds", "ms", "latency", "latency, ms", "ms", milliseconds, lambda o: latency(o.before))
MEMORY = Cost(
    "memory", "memory", "memory", "activations alive at once, bytes", "B", amounts.size, _before("peak_activation_bytes")
)
COSTS = (SIZE, RATIO, MILLISECONDS, MEMORY)


def over(outcome: Outcome, candidate: Candidate) -> list[str]:
    """Which limits a candidate costs more than, each in words.

    A limit that is a share of the uncompressed network's time is held against the share, since both were measured in turns: it
    outlives the drift of a machine.
    """
    relative = mapping(mapping(outcome.metrics.get("budget")).get("latency")).get("ratio")
    time = RATIO if relative and number(candidate.get("ratio")) is not None else MILLISECONDS
    return [text for cost in (SIZE, time, MEMORY) if (text := cost.over(outcome, candidate)) is not None]


def least(outcome: Outcome) -> float | None:
    """The accuracy on validation, in %, that a candidate may not fall below.

    None where no loss is limited, and where the uncompressed network seems to have `seen` those images: what is lost on images
    known by heart says nothing of what is lost on others.
    """
    start, drop = share(outcome.before.get("val_accuracy")), limit(outcome.metrics, "max_drop", None)
    return None if start is None or drop is None or seen(outcome) else 100 * start - drop


def seen(outcome: Outcome) -> bool:
    """Whether the uncompressed network knows far more of the validation images than chance lets it know of the test images."""
    validation, test = (number(outcome.before.get(key)) for key in ("val_accuracy", "accuracy"))
    if validation is None or test is None:
        return False
    ends = [end for end in map(number, listing(outcome.before.get("accuracy_interval"))) if end is not None]
    return validation >= max(ends, default=test) + SEEN


def missed(outcome: Outcome, candidate: Candidate) -> str:
    """By what a candidate misses the budgets, in words; empty where the figures do not tell."""
    found, floor, accuracy = over(outcome, candidate), least(outcome), share(candidate.get("accuracy"))
    if floor is not None and accuracy is not None and 100 * accuracy < floor - 1e-6:
        found.append(f"accuracy on validation below {floor:.2f} %")
    return f"misses the budget: {', '.join(found)}" if found else ""


def stands(outcome: Outcome, candidate: Candidate) -> bool | None:
    """Whether a candidate meets the budgets, as was found or where nothing but images known by heart speaks against it."""
    meets = candidate.get("meets")
    if meets or meets is None or share(candidate.get("accuracy")) is None or not seen(outcome):
        return None if meets is None else bool(meets)
    return not over(outcome, candidate)
