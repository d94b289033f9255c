"""What the figures say that a reader might not expect: a slow one, a class given up, a busy machine, images known before."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lilliput.report import classes, layers
from lilliput.report.amounts import listing, mapping, mappings, milliseconds, number, percent, plural, points, size, times
from lilliput.report.compared import latency
from lilliput.report.outcome import Outcome
from lilliput.report.standing import SIZE, seen
from lilliput.report.verdict import overlap

FEWER = 1.1  # times fewer multiply-adds ought to be faster
FASTER = 0.97  # of the time before; closer to it is no gain
CLEARLY = 0.9  # of the time before; closer to it is none where the spreads overlap
ZEROS = 0.5  # of the weights
RESTLESS = 2.0  # times between the first and the last decile
GIVEN_UP = 0.05  # of accuracy that a class loses beyond the whole


def doubts(outcome: Outcome) -> list[str]:
    """One line for each."""
    return [line for rule in RULES for line in rule(outcome)]


def _int8(outcome: Outcome) -> Iterator[str]:
    """Integers that gain nothing: in the result, or as the search found on the way to another one."""
    if number(outcome.details.get("integer_nodes")) and _no_faster(outcome):
        yield f"int8 is not faster on this CPU: {_latencies(outcome)}."
    for row in mappings(outcome.details.get("tried")):
        ratio = number(row.get("ratio"))
        alone = [str(method).partition("(")[0] for method in listing(row.get("methods"))]
        if alone in (["quant.quantize"], ["quant.int8"]) and ratio is not None and ratio > FASTER and not row.get("chosen"):
            yield f"int8 alone is not faster on this CPU: it takes {ratio:.2f}x the time of the uncompressed network."


def _macs(outcome: Outcome) -> Iterator[str]:
    was, now = number(outcome.before.get("macs")), number(outcome.after.get("macs"))
    if was and now and was / now >= FEWER and _no_faster(outcome):
        yield f"{times(was, now, 'fewer', 'more')} multiply-adds, yet not faster on this CPU: {_latencies(outcome)}."


def _zeros(outcome: Outcome) -> Iterator[str]:
    """Zeros of which no kernel makes use."""
    rows = layers.sides(outcome)[1]
    macs, effective = (sum(number(row.get(key)) or 0 for row in rows) for key in ("macs", "effective_macs"))
    if macs and 1 - effective / macs >= ZEROS and not any(mapping(outcome.details.get("packed_nodes")).values()):
        zeros = percent(1 - effective / macs)
        yield f"{zeros} of the multiply-adds have a weight of zero, and all are computed: smaller for it, not faster."
    if dense := listing(outcome.details.get("dense_nodes")):
        yield f"{plural(len(dense), 'layer')} full of zeros run dense all the same; why is told below."


def _machine(outcome: Outcome) -> Iterator[str]:
    for word, row in (("before", outcome.before), ("after", outcome.after)):
        low, high = (number(mapping(row.get("latency_ms")).get(name)) for name in ("p10", "p90"))
        if low and high and high / low >= RESTLESS:
            spread = f"{milliseconds(low)} to {milliseconds(high)}"
            yield f"Latencies {word} spread from {spread} (deciles): something else ran here. Time it again on an idle machine."


def _class(outcome: Outcome) -> Iterator[str]:
    was, now = number(outcome.before.get("accuracy")), number(outcome.after.get("accuracy"))
    changes = [(score.change, score) for score in classes.read(outcome) if score.change is not None]
    if was is None or now is None or not changes:
        return
    change, worst = min(changes, key=lambda pair: pair[0])
    if change <= min(now - was, 0) - GIVEN_UP:
        lost = points(worst.was or 0, worst.now or 0)
        yield f"The class {worst.name} changed by {lost}, all classes together by {points(was, now)}."


def _seen(outcome: Outcome) -> Iterator[str]:
    """Weights that were trained on what this run chose by."""
    if seen(outcome):
        validation, test = (percent(number(outcome.before.get(key)) or 0.0) for key in ("val_accuracy", "accuracy"))
        yield (
            f"The uncompressed network knows {validation} of the validation images but {test} of the test "
            "images, as if it had been trained on the former: what was chosen by them may not be what is best. A folder `val` "
            "of images that it has not seen chooses better."
        )


def _other_file(outcome: Outcome) -> Iterator[str]:
    """A size that one file keeps and the other does not."""
    most = SIZE.most(outcome)
    stored, other = (number(outcome.after.get(key)) for key in ("file_bytes", "onnx_bytes"))
    if most is not None and stored is not None and other is not None and stored <= most < other:
        yield (
            f"The size budget is that of model.lil, which is stored and sent. model.onnx takes {size(other)}, more than the "
            f"{size(most)} asked for; `lilliput export model.lil model.onnx` writes it where it runs."
        )


RULES: tuple[Callable[[Outcome], Iterator[str]], ...] = (_int8, _macs, _zeros, _machine, _class, _seen, _other_file)


def _no_faster(outcome: Outcome) -> bool:
    was, now = latency(outcome.before), latency(outcome.after)
    if not was or now is None:
        return False
    return now > FASTER * was or (now > CLEARLY * was and overlap(outcome.before, outcome.after))


def _latencies(outcome: Outcome) -> str:
    """Both, and where."""
    was, now = latency(outcome.before), latency(outcome.after)
    runtime = mapping(outcome.after.get("latency_ms")).get("runtime")
    return f"{_ms(was)} before, {_ms(now)} after" + (f" on {runtime}" if runtime else "")


def _ms(value: float | None) -> str:
    return "—" if value is None else milliseconds(value)
