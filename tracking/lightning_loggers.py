"""Loggers for Lightning's trainer: metrics.jsonl, and the run's wandb record.

Apart from the rest, so that what reads metrics or records curves does not import Lightning.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from core.files import appending, atomic, write_text
from core.parsing import Missing, read_lines
from tracking.jsonl import problem_of
from tracking.wandb_run import Tracker

log = logging.getLogger("crossover")


class TrackingLogger(Logger):
    """Logs to the wandb run of a training."""

    def __init__(self, tracker: Tracker) -> None:
        super().__init__()
        self._tracker = tracker

    @property
    def name(self) -> str:
        return self._tracker.name

    @property
    def version(self) -> str:
        return self._tracker.version

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The configuration was given at the start."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._tracker.log_metrics(metrics, step)

    def log_text(self, key: str, columns: list[str], data: list[list[Any]]) -> None:
        """Texts as the rows of a table."""
        self._tracker.table(key, columns, data)


class JsonlLogger(Logger):
    """A Lightning logger that appends to `metrics.jsonl`."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._rows, self._digest = 0, hashlib.sha256()

    @property
    def name(self) -> str:
        return "jsonl"

    @property
    def version(self) -> int:
        return 0

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The configuration is in config.yaml already."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        # JSON has no NaN and no infinity.
        finite = {key: value if math.isfinite(value) else None for key, value in metrics.items()}
        row = json.dumps({"step": step, "time": round(time.time(), 3), **finite}) + "\n"
        try:
            with appending(self._path) as file:
                file.write(row.encode())
        except OSError as error:  # which only `open` would name
            raise OSError(error.errno, error.strerror, str(self._path)) from None
        self._count(row.encode())

    def written(self) -> dict[str, Any]:
        """Number and SHA-256 of the rows that the file holds; a checkpoint knows them."""
        return {"count": self._rows, "sha256": self._digest.hexdigest()}

    def _count(self, row: bytes) -> None:
        self._rows += 1
        self._digest.update(row)

    @rank_zero_only
    def rewind(self, step: int, expected: dict[str, Any] | None = None) -> None:
        """Drop rows after `step`: a resumed run writes them again.

        Lines that are no rows are left out with a warning, and the file as it was is kept beside
        it; only the last line may be cut short, as a killed process leaves it. There is a warning
        too if what is left is not `expected`, what had been `written` by that step.
        """
        damaged, dropped = [], 0
        self._rows, self._digest = 0, hashlib.sha256()
        # A callback may have logged more for this very step after it was saved.
        most = math.inf if expected is None else expected["count"]
        try:
            with atomic(self._path) as file:
                for line in read_lines(self._path):
                    if (problem := problem_of(line)) and line.ended:
                        damaged.append(f"line {line.number}: {problem}")
                    elif (
                        not problem
                        and line.value
                        and line.value["step"] <= step
                        and (line.value["step"] < step or self._rows < most)
                    ):
                        row = json.dumps(line.value).encode() + b"\n"
                        file.write(row)
                        self._count(row)
                    elif not problem and line.value:
                        dropped = max(dropped, line.value["step"])
                if damaged:
                    self._keep(damaged)
            if dropped and not step:
                log.warning(
                    "%s has rows up to step %d, but no checkpoint was saved: starting from nothing",
                    self._path, dropped,
                )  # fmt: skip
        except Missing:
            write_text(self._path, "")
        if expected is not None and expected != self.written():
            log.warning(
                "%s has %d rows up to step %d, not the %d that had been written",
                self._path, self._rows, step, expected["count"],
            )  # fmt: skip

    def _keep(self, damaged: list[str]) -> None:
        number = 1
        while os.path.lexists(aside := self._path.with_name(f"metrics.damaged-{number}.jsonl")):
            number += 1
        try:
            os.link(self._path, aside)  # a new file takes the old one's name; it may be enormous
        except OSError:  # a file system without links
            shutil.copyfile(self._path, aside)
        more = f"; and {len(damaged) - 1} more lines" if len(damaged) > 1 else ""
        log.warning(
            "%s, %s%s: left out; the file as it was is now %s",
            self._path, damaged[0], more, aside.name,
        )  # fmt: skip
