"""What must be equal before two measurements are compared.

A comparison is valid only when everything but the architecture is the same: one machine with one
number of threads, one precision, vocabulary, torch version and commit, one batch at every point of
a sweep, models of one size, and trainings on the same tokens in the same order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import UserError
from models.meta import count_parameters
from models.registry import ModelSpec
from probes.analysis.scaling_study import swept
from probes.rows import Row, label_of

MOST = 20  # differences that are told one by one
SIZE_TOLERANCE = 0.01  # largest relative difference of parameter counts called "the same size"


@dataclass(frozen=True)
class Placed:
    """A row and where it was read."""

    row: Row
    path: Path
    line: int

    def __str__(self) -> str:
        return f"{self.path}, line {self.line}"


_SAME: dict[str, Callable[[Row], Any]] = {
    "device": lambda row: f"{row.device.get('kind')} {row.device.get('name')}",
    "number of threads": lambda row: row.device.get("threads"),
    "precision": lambda row: row.precision,
    "vocabulary size": lambda row: row.config.get("vocab_size"),
    "torch version": lambda row: row.versions.get("torch"),
    "CUDA version": lambda row: row.versions.get("cuda"),
    "crossover commit": lambda row: row.commit,
}
_SAME_IF_KNOWN: dict[str, Callable[[Row], Any]] = {
    "memory budget of the largest batch": lambda row: row.budget_bytes,
}
# With what summaries stand for that were written before the field existed.
_SAME_TRAINING = {
    "precision": "unknown",
    "data_fingerprint": "unknown",
    "tokens": "unknown",
    "order_hash": "unknown",
    "packing": "stream",
}
_OF_ONE_LENGTH = ("tokens", "order_hash")
"""Those that differ between trainings of different length."""


def differences(rows: Sequence[Placed], trainings: Mapping[Path, dict[str, Any]]) -> list[str]:
    """Reasons why these must not be compared, one sentence for every field that differs; empty if
    they may be. Each names the field, two of its values, and where they stand."""
    differing = [
        _differing(name, ((read(placed.row), placed) for placed in rows))
        for name, read in _SAME.items()
    ]
    differing += [
        _differing(
            name, ((read(placed.row), placed) for placed in rows if read(placed.row) is not None)
        )
        for name, read in _SAME_IF_KNOWN.items()
    ]
    at_point: dict[tuple[str, str, int], list[Placed]] = defaultdict(list)
    for placed in rows:
        at_point[placed.row.probe, placed.row.sweep, placed.row.context_length].append(placed)
    for (probe, sweep, length), there in at_point.items():
        name = f"batch of {probe} at {length} tokens in the {sweep} sweep"
        differing.append(_differing(name, ((placed.row.batch, placed) for placed in there)))
    differing.append(_sizes([placed for placed in rows if not placed.row.unmatched]))
    sentences = list(filter(None, [*differing, *_trainings(trainings)]))
    more = [f"and {len(sentences) - MOST:,} more"] if len(sentences) > MOST else []
    return [*sentences[:MOST], *more]


def admitted(rows: Sequence[Placed]) -> list[str]:
    """What differs because it was asked for when it was measured, with `unmatched=true`."""
    asked = any(placed.row.unmatched for placed in rows)
    return list(filter(None, [_sizes(rows)])) if asked else []


def check_sizes(specs: Sequence[ModelSpec], earlier: Sequence[Row], path: Path) -> None:
    """Raise `UserError` unless models have as many parameters as each other, and as those
    that the rows `earlier` of the file `path` are of.

    A model that cannot be built is left to its row to explain. Rows that were measured with
    `unmatched=true` are left out.
    """
    old = [
        (row.parameters, f"{row.label} {row.size} in {path}")
        for row in earlier
        if row.parameters and not row.unmatched
    ]
    if len(specs) + len(old) < 2:
        return
    new = []
    for spec in specs:
        with suppress(UserError, TypeError, ValueError, ArithmeticError, RuntimeError):
            new.append((count_parameters(spec), f"{label_of(spec)} {spec.size}"))
    among_new = not alike(count for count, _ in new)
    compared = new if among_new or not new else [*new, *old]
    if alike(count for count, _ in compared):
        return
    ends = " and ".join(f"{count:,} ({name})" for count, name in (min(compared), max(compared)))
    group = "" if among_new else "take another group=, "
    raise UserError(
        f"models differ by more than {SIZE_TOLERANCE * 100:g} % in their numbers of "
        f"parameters, {ends}: {group}take one model.size for all (those shipped as tiny to 125m "
        "match at vocab_size=3072), change model.n_layer, model.n_embd or model.n_ffn of one in a "
        "command of its own, with the same group=, or say unmatched=true to compare them all the "
        "same"
    )


def alike(counts: Iterable[int]) -> bool:
    """Whether all are called the same size."""
    sizes = list(counts)
    return not sizes or max(sizes) <= (1 + SIZE_TOLERANCE) * min(sizes)


def _differing(name: str, values: Iterable[tuple[Any, object]]) -> str:
    """`precision differs: float32 (a.jsonl, line 1) and bfloat16 (b.jsonl, line 2)`, or nothing."""
    places: dict[str, list[object]] = defaultdict(list)
    for value, place in values:
        places[f"{value!s:.200}"].append(place)
    if len(places) < 2:
        return ""
    usual, odd, *more = sorted(places, key=lambda value: -len(places[value]))
    rest = f" and {len(more)} more" if more else ""
    return f"{name} differs: {usual} ({places[usual][0]}) and {odd} ({places[odd][0]}){rest}"


def _sizes(rows: Sequence[Placed]) -> str:
    counted = [(placed.row.parameters, placed) for placed in rows if placed.row.parameters]
    if alike(count for count, _ in counted):
        return ""
    by_size = sorted(counted, key=lambda pair: pair[0])
    ends = (
        (f"{count:,} of {placed.row.model} {placed.row.size}", placed)
        for count, placed in (by_size[0], by_size[-1])
    )
    return _differing(f"number of parameters (by more than {SIZE_TOLERANCE:.0%})", ends)


def _trainings(trainings: Mapping[Path, dict[str, Any]]) -> Iterable[str]:
    """Every model must have seen the same data, in the same order, for as long.

    In a scaling study lengths differ on purpose: then trainings of one length must agree.
    """
    if not swept(trainings.values()):
        yield from _alike(trainings, list(_SAME_TRAINING))
        return
    yield from _alike(trainings, [field for field in _SAME_TRAINING if field not in _OF_ONE_LENGTH])
    for tokens in sorted({run.get("tokens") for run in trainings.values()}, key=str):
        of_length = {path: run for path, run in trainings.items() if run.get("tokens") == tokens}
        yield from _alike(of_length, ["order_hash"])


def _alike(trainings: Mapping[Path, dict[str, Any]], wanted: Sequence[str]) -> Iterable[str]:
    for field in wanted:
        default = _SAME_TRAINING[field]
        seen: dict[str, dict[str, Path]] = defaultdict(dict)
        for path, run in trainings.items():
            value = str(run.get(field) or default)
            seen[f"{run['model']} {run.get('size')}"].setdefault(value, path)
        if len(seen) < 2:
            continue
        yield _differing(
            f"{field} of the trainings",
            (
                (", ".join(sorted(values)), f"{name} in {next(iter(values.values()))}")
                for name, values in seen.items()
            ),
        )
        if missing := [values["unknown"] for values in seen.values() if "unknown" in values]:
            yield f"{field} of the trainings is unknown ({missing[0]})"
