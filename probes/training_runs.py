"""The folders of trainings as a report reads them: summary, configuration, rows of metrics.

A training that has not finished has no summary; what its configuration and its rows say is read all
the same.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.parsing import LARGEST, Missing, Unreadable, read_object, read_yaml
from core.parsing import read_lines as lines_of
from probes.rows import label, said_by
from probes.training_summaries import read_summary
from tracking.configuration import flatten, today
from tracking.jsonl import problem_of

SET_ASIDE = re.compile(r".+\.old-\d+")
"""Folders that `resume=never` has put aside: another training has their name now."""
MOST_RUNS = 20_000
"""Folders in a group's, which take a few seconds to be looked into."""


@dataclass(frozen=True)
class TrainingRun:
    """One training. Its metrics are read when they are first asked for."""

    path: Path
    summary: dict[str, Any] | None
    """None for one that has not finished, or whose summary cannot be read."""
    config: dict[str, Any]
    """By dotted key, in present names; empty where it cannot be read."""

    @cached_property
    def _said(self) -> dict[str, Any]:
        """What the model says it is, where no summary tells."""
        if self.summary is not None:
            return self.summary
        config = {
            key.removeprefix("model.config."): value
            for key, value in self.config.items()
            if key.startswith("model.config.")
        }
        names = {key: str(self.config.get(f"model.{key}")) for key in ("name", "size")}
        said = said_by(self.config.get("model.target"), config)
        return {"model": names["name"], "size": names["size"], **said}

    @property
    def name(self) -> str:
        return str((self.summary or {}).get("name") or self.path.name)

    @property
    def model(self) -> str:
        return str(self._said["model"])

    @property
    def size(self) -> str:
        return str(self._said.get("size") or "")

    @property
    def label(self) -> str:
        """The model with its options."""
        return label(self.model, self._said.get("options") or {})

    @property
    def title(self) -> str:
        """Its name inside a sentence, without options."""
        return str(self._said.get("title") or self.model)

    @property
    def recurrent(self) -> bool | None:
        return self._said.get("recurrent")

    @property
    def seed(self) -> int | None:
        seed = self.config.get("seed")
        return seed if type(seed) is int else None

    @property
    def ended_early(self) -> str | None:
        """Why it ended before its last step."""
        return (self.summary or {}).get("ended_early")

    @property
    def is_complete(self) -> bool:
        """Whether it was trained to its last step: only such losses are compared."""
        return self.summary is not None and not self.ended_early

    @property
    def how_it_ended(self) -> str:
        """`finished`, or what else became of it."""
        if self.summary is None:
            last = max((row["step"] for row in self.rows), default=None)
            return "unfinished" if last is None else f"unfinished, last row at step {last:,}"
        return f"ended early: {self.ended_early}" if self.ended_early else "finished"

    def figure(self, key: str) -> float | None:
        """A finite number of the summary, of which sums and products are finite too."""
        return as_figure((self.summary or {}).get(key))

    @cached_property
    def not_finite(self) -> str | None:
        """A key of its configuration whose value is no finite number, nor has only such in it: no
        training has been made with one, and JSON cannot hold it."""
        return next((key for key, value in self.config.items() if not _is_json(value)), None)

    @cached_property
    def _metrics(self) -> tuple[tuple[dict[str, Any], ...], str]:
        """The rows of `metrics.jsonl`, and what is wrong with the others."""
        rows, problems = [], []
        path = self.path / "metrics.jsonl"
        try:
            for line in lines_of(path):
                if (problem := problem_of(line)) and line.ended:
                    problems.append(f"line {line.number}: {problem}")
                elif not problem and line.value:
                    rows.append(line.value)
        except Missing:
            pass
        except Unreadable as error:
            problems.append(error.reason)
        more = f"; and {len(problems) - 1:,} more" if len(problems) > 1 else ""
        return tuple(rows), f"{path}: left out, {problems[0]}{more}" if problems else ""

    @property
    def rows(self) -> tuple[dict[str, Any], ...]:
        return self._metrics[0]

    @property
    def damage(self) -> str:
        """What of its metrics was left out and why; empty if nothing was."""
        return self._metrics[1]

    @cached_property
    def sample(self) -> dict[str, Any] | None:
        """The last text in `samples.jsonl`, if there is one: its `step`, `prompt` and `text`."""
        found = None
        try:
            for line in lines_of(self.path / "samples.jsonl"):
                if _is_sample(line.value):
                    found = line.value
        except Unreadable:
            return None
        return found

    @cached_property
    def study(self) -> dict[str, Any] | None:
        """What `hydra/sweeper=optuna` searched, if this is a trial of such a study."""
        try:
            content = read_object(self.path.parent / "study.json")
        except Unreadable:
            return None
        space, trials = content.get("space"), content.get("trials")
        is_study = isinstance(space, dict) and isinstance(trials, list)
        is_trial = re.fullmatch(r"trial-\d+", self.path.name)
        return content if is_study and is_trial and _is_json(content) else None


def _is_sample(row: dict[str, Any] | None) -> bool:
    if row is None or type(row.get("step")) is not int:
        return False
    return all(isinstance(row.get(name), str) for name in ("prompt", "text"))


def as_figure(value: Any) -> float | None:
    """What stands in a file, if it is a finite number of which sums and products are finite too."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return value if abs(value) < LARGEST else None  # which no NaN is


def _is_json(value: Any) -> bool:
    """Whether JSON can hold it: NaN and infinity are not numbers there."""
    try:
        json.dumps(value, allow_nan=False, default=str)
    except ValueError:
        return False
    return True


def read_run(folder: Path) -> TrainingRun | None:
    """The training in a folder; None if there is none. A damaged summary counts as missing."""
    try:
        summary = read_summary(folder / "summary.json")
    except Unreadable:
        summary = None
    try:
        config = today(flatten(read_yaml(folder / "config.yaml")))
    except Unreadable:
        config = {}
    is_one = summary is not None or (
        isinstance(config.get("model.name"), str) and (folder / "metrics.jsonl").is_file()
    )
    return TrainingRun(folder, summary, config) if is_one else None


def folders_in(folder: Path) -> list[Path]:
    """Where the trainings of a run's folder or of a group's are, by name; not those set aside.

    Raises `UserError` where there are so many that somebody else's folder must be meant.
    """
    inside = [path for path in sorted(folder.glob("*/")) if not SET_ASIDE.fullmatch(path.name)]
    if len(inside) > MOST_RUNS:
        raise UserError(
            f"{folder}: {len(inside):,} folders, and a group has at most {MOST_RUNS:,} runs; runs= "
            "takes run or group folders"
        )
    return [folder, *inside]


def runs_in(folder: Path) -> list[TrainingRun]:
    """The trainings of a run's folder or of a group's, by name; those set aside are left out."""
    return [run for path in folders_in(folder) if (run := read_run(path)) is not None]
