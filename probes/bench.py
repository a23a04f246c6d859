"""What stays the same during a sweep, and how one point becomes a row in child processes."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from conf.schema import ProbeConf
from models.errors import UserError
from probes import child, machine
from probes.capacity import largest_batch
from probes.measure import calibrate, measure
from probes.points import Point
from probes.predict import Predictor
from probes.rows import OK, Row, said_by
from probes.tasks.common import Task

GIB = 1 << 30
CALIBRATE_SECONDS = 300.0  # importing torch from a cold disk can take a while
BUDGET_PROBES = ("max_batch", "max_batch_train")


class Bench:
    """Configuration, machine, and the facts of the import-only child.

    Raises `UserError` if that child fails: then nothing can be measured here.
    """

    def __init__(self, conf: ProbeConf, kind: str) -> None:
        arguments = (kind, conf.threads, conf.precision)
        outcome = child.run(calibrate, arguments, CALIBRATE_SECONDS)
        if "baseline_bytes" not in outcome.facts:
            raise UserError(f"a process that only imports torch fails here: {outcome.error}")
        self.conf = conf
        self.facts = outcome.facts
        self.versions = machine.versions()
        self.command = shlex.join([Path(sys.executable).name, *sys.argv])
        self.predictor = Predictor(conf.timeout_s, self.facts.get("peak_flops"))

    @property
    def budget(self) -> int:
        """Bytes that the largest batch is sought for."""
        return int(self.conf.memory_budget_gib * GIB)

    def measure(self, point: Point) -> Row:
        """Run the point, or say why that cannot end well. Never raises for what happens there."""
        started = datetime.now(UTC).isoformat(timespec="seconds")
        load = psutil.getloadavg()[0]
        task = self.task(point)
        if (outcome := self.predictor.impossible(point, task)) is None:
            if point.probe in BUDGET_PROBES:
                outcome = largest_batch(partial(self._try, task), self.budget)
            else:
                outcome = child.run(measure, (task,), self.conf.timeout_s)
        row = self.row(
            point,
            status=outcome.status,
            error=outcome.error,
            started=started,
            load_before=load,
            **outcome.facts,
        )
        self.predictor.learn(row, task.memory_bytes)
        return row

    def _try(self, task: Task, batch: int) -> child.Outcome:
        """One batch of the search for the largest; what is far beyond the budget may fail early."""
        warmup, repeats = (0, 1) if task.probe == "max_batch_train" else (1, 2)
        limit = min(task.memory_bytes, 2 * self.budget)
        once = replace(task, batch=batch, warmup=warmup, repeats=repeats, memory_bytes=limit)
        return child.run(measure, (once,), self.conf.timeout_s)

    def usable(self, row: Row) -> bool:
        """Whether a row found in the file spares measuring its point again."""
        if row.status != OK:
            return False
        if row.probe in BUDGET_PROBES:
            return row.budget_bytes == self.budget
        return row.probe == "generate" or len(row.seconds) >= self.conf.repeats

    def row(self, point: Point, **fields: Any) -> Row:
        """The row of a point with what is known before measuring it, then `fields`."""
        nothing: dict[str, Any] = dict.fromkeys(
            ("error", "parameters", "peak_bytes", "state_bytes", "flops", "flops_dense")
        )
        known: dict[str, Any] = {
            "probe": point.probe,
            "sweep": point.sweep,
            "contestant": point.spec.name,
            "size": point.spec.size,
            "target": point.spec.target,
            "config": dict(point.spec.config),
            "context_length": point.length,
            "batch": point.batch,
            "process": point.process,
            **said_by(point.spec.target, point.spec.config),
            "status": "",
            "seconds": [],
            "peak_method": self.facts["peak_method"],
            "backends": {},
            "precision": self.conf.precision,
            "seed": self.conf.seed,
            "device": self.facts["device"],
            "versions": self.versions,
            "commit": self.versions["crossover"],
            "load_before": 0.0,
            "started": "",
            "command": self.command,
            "peak_flops": self.facts.get("peak_flops"),
        }
        return Row(**(nothing | known | fields))

    def task(self, point: Point) -> Task:
        """What the child of a point is told."""
        conf, kind = self.conf, self.facts["device"]["kind"]
        return Task(
            spec=point.spec,
            probe=point.probe,
            batch=point.batch,
            length=point.length,
            vocab_size=conf.vocab_size,
            seed=conf.seed,
            repeats=conf.repeats,
            warmup=conf.warmup,
            decode_steps=conf.decode_steps,
            precision=conf.precision,
            device=kind,
            threads=conf.threads,
            memory_bytes=self._memory_limit(),
            baseline_bytes=self.facts["baseline_bytes"],
            repeat_seconds=conf.repeat_seconds,
        )

    def _memory_limit(self) -> int:
        """Bytes one point may allocate: as configured, or all that is available now."""
        if self.conf.memory_gib:
            return int(self.conf.memory_gib * GIB)
        if self.facts["device"]["kind"] == "cuda":
            total: int = self.facts["device"]["memory_bytes"]
            return total
        return psutil.virtual_memory().available
