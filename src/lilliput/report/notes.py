"""The rest that a reader needs to repeat a run or to doubt it: recipe, edits, warnings, environment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from lilliput.report import amounts
from lilliput.report.amounts import MISSING, listing, mapping, number, plural
from lilliput.report.doubts import doubts
from lilliput.report.outcome import Outcome
from lilliput.report.parts import Beside, Cell, Code, Column, Folded, Listing, Part, Prose, Section, Table

LONGEST = 2000  # edits shown; a page is for reading


def warnings(outcome: Outcome) -> Section:
    """What was skipped, pinned or replaced, and what computes in floats in a network of integers."""
    lines = outcome.details.get("warnings")
    found = warned(outcome)
    empty = "No warnings." if isinstance(lines, list) else "Warnings were not recorded."
    parts: list[Part] = [Listing(found) if found else Prose(empty), *_dense(outcome.details), *_integers(outcome.details)]
    return Section("warnings", "Warnings", tuple(parts))


def warned(outcome: Outcome) -> tuple[str, ...]:
    """What the run wrote down, and what its figures say."""
    return (*(str(line) for line in listing(outcome.details.get("warnings"))), *doubts(outcome))


def _dense(details: Mapping[str, Any]) -> list[Part]:
    lines = tuple(str(line) for line in listing(details.get("dense_nodes")))
    return [Folded("Layers full of zeros that run dense", Listing(lines, code=True))] if lines else []


def _integers(details: Mapping[str, Any]) -> list[Part]:
    integer, floats = number(details.get("integer_nodes")), details.get("float_nodes")
    if not integer:
        return []
    names = [str(name) for name in listing(floats)]
    rest = f"{len(names):,} compute in floats." if isinstance(floats, list) else "Which compute in floats was not recorded."
    text = Prose(f"{plural(int(integer), 'node')} of the exported network compute in integers. {rest}")
    return [text, Folded("Nodes that compute in floats", Listing(tuple(names), code=True))] if names else [text]


def recipe(outcome: Outcome) -> Section:
    """The recipe as it stands in its file."""
    if outcome.recipe is None:
        return Section("recipe", "Recipe", (Prose("The recipe was not recorded."),))
    text = Prose("Running it again gives the same edits: lilliput compress MODEL --data D --recipe recipe.yaml")
    command = str(outcome.details.get("command") or "")
    typed: list[Part] = [Prose("This run was called so:"), Code(command)] if command else []
    return Section("recipe", "Recipe", (*typed, text, Code(outcome.recipe)))


def edits(outcome: Outcome) -> Section:
    """How many edits of each kind made the network, and all of them."""
    if not isinstance(outcome.details.get("edits"), list):
        return Section("edits", "Edits", (Prose("The edits were not recorded."),))
    lines = [str(line) for line in outcome.details["edits"]]
    if not lines:
        return Section("edits", "Edits", (Prose("No edits: the network is the one it came from."),))
    kinds = Counter(line.split(" ", 1)[0] for line in lines)
    counted = ", ".join(f"{many:,} {kind}" for kind, many in kinds.most_common())
    cut = (f"… and {len(lines) - LONGEST:,} more, all of them in model.lil",) if len(lines) > LONGEST else ()
    listed = Folded("All edits, in order", Listing((*lines[:LONGEST], *cut), code=True))
    return Section("edits", "Edits", (Prose(f"{plural(len(lines), 'edit')}: {counted}."), listed))


def environment(outcome: Outcome) -> Section:
    """Hardware, versions, seed and time."""
    took = number(outcome.metrics.get("seconds"))
    timed = mapping(outcome.after.get("latency_ms"))
    run = {
        "seed": outcome.metrics.get("seed"), "time": None if took is None else amounts.seconds(took),
        "runtime": timed.get("runtime"), "threads": timed.get("threads"), "edits": outcome.details.get("digest"),
        "weights and data": outcome.details.get("start"), "images": outcome.details.get("images"),
    }  # fmt: skip
    tables = (("Device", outcome.metrics.get("device")), ("Versions", outcome.metrics.get("versions")), ("Run", run))
    return Section("environment", "Environment", (Beside(tuple(_facts(title, mapping(facts)) for title, facts in tables)),))


def _facts(title: str, facts: Mapping[str, Any]) -> Part:
    rows = tuple((Cell.of(key.replace("_", " ")), Cell(value)) for key, value in _flat(facts))
    columns = (Column(title), Column(""))
    return Table(columns, rows or ((Cell(MISSING), Cell("")),), sortable=False)


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Names and values of nested mappings, as text."""
    for key, value in facts.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        else:
            yield name.removesuffix("_bytes"), _value(name, value)


def _value(name: str, value: object) -> str:
    found = number(value)
    if found is not None and name.endswith("_bytes"):
        return amounts.size(found)
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value) or "none"
    return MISSING if value is None or value == "" else str(value)
