"""The curve of accuracy against weights left, where a recipe prunes and trains in turns."""

from __future__ import annotations

from lilliput import Fit
from lilliput.prune import Weights, lottery
from lilliput.report.training import _sparsity


def stages(rounds: int) -> list[dict[str, object]]:
    """What a run of a ticket's recipe leaves behind."""
    steps = lottery(Weights(rate=round(1 - 0.8**rounds, 6)), Fit(epochs=1), rounds=rounds)
    history = [{"val_accuracy": 0.5}, {"val_accuracy": 0.75}]
    return [{"step": s.text(), "history": history if isinstance(s, Fit) else []} for s in steps]


def test_each_training_is_a_point() -> None:
    chart = _sparsity(stages(3))
    assert chart is not None
    data = chart.choices[0].data
    assert [round(x) for x in data["x"]] == [100, 80, 64, 51]
    assert data["lines"][0]["y"] == [75.0] * 4


def test_one_pruning_is_no_curve() -> None:
    assert _sparsity(stages(1)) is None
    assert _sparsity([{"step": "fit(epochs=1)", "history": [{"val_accuracy": 0.5}]}]) is None
