"""How often a predictor is right, with how sure one can be of that."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Metric = Callable[[Tensor, Tensor], Any]


@dataclass(frozen=True)
class Accuracy:
    """The share of right answers, and the counts behind it; `hits` and `answers` (n) in the order of the images."""

    correct: int
    total: int
    per_class: tuple[float, ...] = ()
    loss: float | None = None
    hits: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool), repr=False, compare=False)
    answers: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long), repr=False, compare=False)

    @property
    def value(self) -> float:
        """Right answers over all answers."""
        return self.correct / self.total if self.total else math.nan

    def interval(self, z: float = 1.96) -> tuple[float, float]:
        """Wilson's score interval, 95 % by default (Wilson 1927)."""
        n, p = max(self.total, 1), self.value
        middle, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return (middle - spread) / (1 + z * z / n), (middle + spread) / (1 + z * z / n)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        low, high = self.interval()
        return {"accuracy": self.value, "correct": self.correct, "total": self.total, "low": low, "high": high,
                "per_class": [None if math.isnan(share) else share for share in self.per_class]}  # fmt: skip


def accuracy(
    predict: Callable[[Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    metric: Metric | None = None,
    *,
    device: Any = "cpu",
) -> Accuracy:
    """Run a predictor over labelled batches.

    `predict` takes (n, c, h, w) to (n, classes); a module runs in eval mode without gradients and its mode is restored.
    `metric` is kept for tasks whose score is not "the largest output is the label": (outputs, targets) to a share.
    """
    mode = predict.training if isinstance(predict, nn.Module) else None
    if isinstance(predict, nn.Module):
        predict.eval()
    answers, labels, score = [], [], 0.0
    with torch.no_grad():
        for x, y in batches:
            outputs = predict(x.to(device)).cpu()
            answers.append(outputs.argmax(1))
            labels.append(y)
            score += float(metric(outputs, y)) * len(y) if metric is not None else 0.0
    if isinstance(predict, nn.Module) and mode is not None:
        predict.train(mode)
    answer, label = torch.cat(answers), torch.cat(labels)
    hit = answer == label
    correct = round(score) if metric is not None else int(hit.sum())
    classes = int(label.max()) + 1 if len(label) else 0
    per_class = tuple(float(hit[label == c].float().mean()) for c in range(classes))
    return Accuracy(correct, len(label), per_class, hits=hit, answers=answer)
