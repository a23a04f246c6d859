"""The input of a report: probe rows, finished trainings, and the series they belong to."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.parsing import Missing, Unreadable
from models.layer_pattern import largest_window
from probes.analysis.comparability import Placed, admitted, differences
from probes.analysis.scaling_study import swept
from probes.rows import TOLD, Row, read_lines
from probes.training_runs import TrainingRun, folders_in, runs_in
from probes.training_summaries import read_summary

logger = logging.getLogger("crossover")

MOST_ARMS = 40
MOST_PAIRS = 100
"""Comparisons of one report; a hundred take minutes."""


@dataclass(frozen=True)
class Series:
    """One curve of every chart: a model, or one variant of it when several were measured."""

    label: str
    """Model name, with its options (`probes.rows.label`) and whatever else distinguishes its
    variants: `gpt`, `gpt math`, `transformer window 256`, `rwkv7 small`."""
    model: str
    rows: tuple[Row, ...]
    recurrent: bool | None = None
    """Whether its rows call it recurrent, unless given."""
    title: str = ""
    """Its name inside a sentence, without options: `RWKV-7`, `the Transformer`; as its rows say."""

    def __post_init__(self) -> None:
        if self.recurrent is None and self.rows:
            answers = (row.recurrent for row in self.rows if row.recurrent is not None)
            object.__setattr__(self, "recurrent", next(answers, None))
        said = self.rows[0].title if self.rows else ""
        object.__setattr__(self, "title", self.title or said or self.model)

    @property
    def window(self) -> int | None:
        """Tokens that attention looks back at, where not at all."""
        return largest_window(self.rows[0].config)

    @property
    def size(self) -> str:
        return self.rows[0].size

    @property
    def parameters(self) -> int | None:
        """Unknown when no point got as far as building the model."""
        return max((row.parameters for row in self.rows if row.parameters), default=None)

    def backends(self, probe: str | None = None) -> dict[str, list[str]]:
        """Kernels used by operator, over the rows of one probe or of all."""
        kernels: dict[str, set[str]] = defaultdict(set)
        for row in self.rows:
            if probe in (None, row.probe):
                for operator, name in row.backends.items():
                    kernels[operator].add(str(name))
        return {operator: sorted(names) for operator, names in sorted(kernels.items())}


@dataclass(frozen=True)
class Dataset:
    """Rows in file order, trainings by name, series with the recurrent ones first."""

    rows: tuple[Row, ...]
    trainings: tuple[dict[str, Any], ...]
    all_series: tuple[Series, ...]
    mixed: tuple[str, ...] = ()
    """What differs between rows compared all the same (`probes.analysis.comparability`)."""
    damaged: tuple[str, ...] = ()
    """Lines and files that could not be read and were left out, one message for each."""
    runs: tuple[TrainingRun, ...] = ()
    """All trainings with their folders, unfinished ones too."""

    @property
    def pairs(self) -> list[tuple[Series, Series]]:
        """Every recurrent series against every attention series."""
        attention = [series for series in self.all_series if not series.recurrent]
        return [
            (recurrent, other)
            for recurrent in self.all_series
            if recurrent.recurrent
            for other in attention
        ]

    def trainings_of(self, series: Series) -> list[dict[str, Any]]:
        """Finished trainings of a series's model, size and options; kernels learn alike.

        Where some went on for more tokens than others, the longest.
        """
        kernels = set(series.backends())  # an option of an operator's name chooses its kernel
        wanted = (series.model, series.size, _learning(series.rows[0].options, kernels))
        # RUN@STEP, or a file that nothing is known of.
        source = series.rows[0].weights.get("source")
        matching = []
        for run in self.trainings:
            options = _learning(run.get("options", {}), kernels | set(run.get("backends", {})))
            own = source is None or run.get("name") == source.rpartition("@")[0]
            if own and (run.get("model"), run.get("size"), options) == wanted:
                matching.append(run)
        longest = max((run.get("tokens", 0) for run in matching), default=0)
        return [run for run in matching if run.get("tokens", 0) == longest]


def _learning(options: dict[str, Any], kernels: set[str]) -> dict[str, Any]:
    """Options that change what is learned, not only how fast."""
    return {name: value for name, value in options.items() if name not in kernels}


def collect(runs: Iterable[Path], allow_mixed: bool = False) -> Dataset:
    """Read `probes.jsonl` and `summary.json` of every folder, and of its sub-folders the latter,
    but for those that `resume=never` has put aside.

    Damaged lines and summaries, and trainings with a value that is no finite number in their
    configuration, are left out and named. Raises `UserError` for a folder that is
    missing, when no folder holds a probe row or a training, when there is too much to compare, and,
    unless `allow_mixed`, when the rows or the trainings of a scaling study must not be compared.
    Other trainings alone are never refused: what reports them says what does not compare.
    """
    rows: list[Placed] = []
    damaged: list[str] = []
    trainings: dict[Path, dict[str, Any]] = {}
    folders = list({folder.resolve(): folder for folder in runs}.values())
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; runs= takes run or group folders")
        path = folder / "probes.jsonl"
        lines = read_lines(path)
        damaged += lines.damaged
        placed = [Placed(row, path, line) for line, row in lines.rows.items()]
        # Within one file a later row of the same point is its repetition, and replaces it.
        rows += {latest.row.key: latest for latest in placed}.values()
        for path in [place / "summary.json" for place in folders_in(folder)]:
            try:
                summary = read_summary(path)
            except Missing:
                continue
            except Unreadable as error:
                damaged.append(f"{path}: left out, {error.reason}")
                logger.warning(damaged[-1])
                continue
            if summary["val_loss"] is not None:  # else nothing was held out
                trainings[path.resolve()] = summary
    found = {run.path.resolve(): run for each in folders for run in runs_in(each)}
    for place, run in [*found.items()]:
        if key := run.not_finite:
            damaged.append(f"{run.path / 'config.yaml'}: left out, {key} is not a finite number")
            logger.warning(damaged[-1])
            del found[place]
            trainings.pop(place / "summary.json", None)
    if not rows and not found:
        names = ", ".join(str(folder) for folder in folders) or "nothing"
        why = f" ({left_out(damaged)})" if damaged else ""
        raise UserError(
            f"no probe rows in {names}{why}, and no trainings: run scripts/probe.py or "
            "scripts/train.py and give the folder of the run or group"
        )
    compared = rows or swept(trainings.values())
    mixed = differences(rows, trainings) if compared else []
    mixture = list(dict.fromkeys([*admitted(rows), *mixed]))
    if mixed and not allow_mixed:
        raise UserError(
            f"these must not be compared: {'; '.join(mixed)}. Measure them alike, or pass "
            "allow_mixed=true"
        )
    dataset = Dataset(
        tuple(entry.row for entry in rows),
        tuple(sorted(trainings.values(), key=lambda run: str(run.get("name")))),
        tuple(series_of([entry.row for entry in rows])),
        tuple(mixture),
        tuple(damaged),
        tuple(found.values()),
    )
    if len(dataset.all_series) > MOST_ARMS or len(dataset.pairs) > MOST_PAIRS:
        raise UserError(
            f"{len(dataset.all_series)} models and variants make {len(dataset.pairs):,} "
            f"comparisons, and a report shows at most {MOST_PAIRS} of {MOST_ARMS}: measure fewer "
            "in one group"
        )
    return dataset


def left_out(damaged: Sequence[str]) -> str:
    """How many lines and files were left out, and the first of them."""
    count = len(damaged)
    were = "line or file was" if count == 1 else "lines or files were"
    more = f"; and {count - TOLD:,} more" if count > TOLD else ""
    return f"{count:,} damaged {were} left out: {'; '.join(damaged[:TOLD])}{more}"


# ---- series --------------------------------------------------------------------------------------


def series_of(rows: Iterable[Row]) -> list[Series]:
    """Split rows into series: by model and options, and where one point was measured in more
    than one way even so, by whatever differs."""
    by_option: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_option[row.label].append(row)
    all_series = []
    for name, of_label in by_option.items():
        parts: dict[str, list[Row]] = defaultdict(list)
        unset = {key: None for row in of_label for key in row.config}
        facts = [{"size": row.size, **unset, **row.config} for row in of_label]
        keys = _telling_apart(of_label, facts)
        if not keys:
            facts = [
                {f"{operator} kernel": kernel for operator, kernel in row.backends.items()}
                for row in of_label
            ]
            keys = _telling_apart(of_label, facts)
        for row, row_facts in zip(of_label, facts, strict=True):
            values = {key: row_facts[key] for key in keys if key in row_facts}
            words = [
                value if isinstance(value, str) else f"{key}={value}"
                for key, value in values.items()
            ]
            parts[" ".join([name, *words])].append(row)
        all_series += [
            Series(label, of_label[0].model, tuple(part)) for label, part in parts.items()
        ]
    for series in all_series:
        if series.recurrent is None:
            raise UserError(
                f"{series.model}: its rows do not say whether it is recurrent, and there is no "
                f"{series.rows[0].target} here to ask; bring back that file, or measure it again "
                "in a new group"
            )
    # Where two models have one title, they go by their names.
    bearers: dict[str, set[str]] = defaultdict(set)
    for series in all_series:
        bearers[series.title].add(series.model)
    return sorted(
        [
            replace(series, title=series.model) if len(bearers[series.title]) > 1 else series
            for series in all_series
        ],
        key=lambda series: (not series.recurrent, series.label),
    )


def _telling_apart(rows: list[Row], facts: list[dict[str, Any]]) -> list[str]:
    """Names of the facts that take more than one value among the rows of a single point."""
    values: dict[tuple[Any, ...], set[str]] = defaultdict(set)
    for row, row_facts in zip(rows, facts, strict=True):
        for name, value in row_facts.items():
            point = (name, row.probe, row.sweep, row.context_length)
            values[point].add(json.dumps(value, sort_keys=True))
    # The label names the options already that some row was measured with.
    named = {name for row in rows for name in row.options}
    names = {point[0] for point, different in values.items() if len(different) > 1} - named
    # A size is a name for a whole configuration: it says all that its fields would.
    return ["size"] if "size" in names else sorted(names)
