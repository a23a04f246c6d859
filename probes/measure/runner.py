"""What stays constant during a sweep, and how one point becomes a row in child processes."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from conf.schema import ProbeConf
from core import environment
from core.errors import UserError
from models.layers.compiled import chosen
from models.ops.backends import no_kernels
from probes.measure import isolated
from probes.measure.counters import disturbance
from probes.measure.feasibility import Predictor
from probes.measure.max_batch import largest_batch
from probes.measure.points import Point
from probes.measure.tasks.timing import Task
from probes.measure.worker import calibrate, measure
from probes.rows import OK, Row, said_by
from probes.trained import Trained

GIB = 1 << 30
CALIBRATE_SECONDS = 300.0  # importing torch from a cold disk can take a while
BUDGET_PROBES = ("max_batch", "max_batch_train")


class SweepRunner:
    """Configuration, machine, and the facts of the import-only child.

    `earlier` are the rows of the same sweep, if it is continued: all points of one have the same
    number of threads. Raises `UserError` if that child fails: then nothing can be measured here;
    and if one of `operators`, for which native kernels are wanted, has none on a GPU.
    """

    def __init__(
        self,
        conf: ProbeConf,
        kind: str,
        earlier: Sequence[Row] = (),
        operators: Sequence[str] = (),
    ) -> None:
        self.threads, self.threads_chosen = choose_threads(conf.threads, kind, earlier)
        arguments = (kind, self.threads, conf.precision, operators)
        outcome = isolated.run(calibrate, arguments, CALIBRATE_SECONDS)
        if "baseline_bytes" not in outcome.facts:
            raise UserError(f"a process that only imports torch fails here: {outcome.error}")
        for operator, reason in outcome.facts.get("no_kernels", {}).items():
            raise UserError(no_kernels(operator, reason))
        self.conf = conf
        self.facts = outcome.facts
        self.versions = environment.versions()
        self.command = shlex.join([Path(sys.executable).name, *sys.argv])
        self.predictor = Predictor(conf.timeout_s, self.facts.get("peak_flops"))

    @property
    def budget(self) -> int:
        """Memory budget in bytes of the search for the largest batch."""
        return int(self.conf.memory_budget_gib * GIB)

    def measure(self, point: Point) -> Row:
        """Run the point, or predict its failure. Never raises for what happens in the child."""
        started = datetime.now(UTC).isoformat(timespec="seconds")
        load = psutil.getloadavg()[0]
        task = self.task(point)
        if (outcome := self.predictor.impossible(point, task)) is None:
            if point.probe in BUDGET_PROBES:
                outcome = largest_batch(partial(self._try, task), self.budget)
            else:
                outcome = isolated.run(measure, (task,), self.conf.timeout_s)
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

    def _try(self, task: Task, batch: int) -> isolated.Outcome:
        """Run one batch of the search for the largest; one far beyond the budget may fail early."""
        warmup, repeats = (0, 1) if task.probe == "max_batch_train" else (1, 2)
        limit = min(task.memory_bytes, 2 * self.budget)
        once = replace(
            task,
            batch=batch,
            warmup=warmup,
            repeats=repeats,
            memory_bytes=limit,
            relative_half_width=0.0,
        )
        return isolated.run(measure, (once,), self.conf.timeout_s)

    def usable(self, row: Row) -> bool:
        """Whether a row found in the file spares measuring its point again.

        One that others disturbed does not, unless the configuration keeps those.
        """
        return self.answers(row) and not (row.is_disturbed and self.conf.remeasure > 0)

    def answers(self, row: Row) -> bool:
        """Whether the row is what this configuration asks for, disturbed or not."""
        if row.status != OK:
            return False
        if row.probe in BUDGET_PROBES:
            return row.budget_bytes == self.budget
        parts = self.conf.decode_steps if row.probe == "decode" else 1
        used_up = parts * sum(row.seconds) > self.conf.repeat_seconds
        return used_up or len(row.seconds) >= self.conf.repeats

    def key(self, point: Point) -> str:
        """Identity of the rows of the point on this device."""
        return self.row(point).key

    def row(self, point: Point, **fields: Any) -> Row:
        """The row of a point with what is known before measuring it, then `fields`."""
        nothing: dict[str, Any] = dict.fromkeys(
            ("error", "parameters", "peak_bytes", "state_bytes", "flops", "flops_dense")
        )
        facts: dict[str, Any] = {
            "probe": point.probe,
            "sweep": point.sweep,
            "model": point.spec.name,
            "size": point.spec.size,
            "target": point.spec.target,
            "config": dict(point.spec.config),
            "context_length": point.length,
            "batch": point.batch,
            "process": point.process,
            **said_by(point.spec.target, point.spec.config),
            "weights": point.spec.weights if isinstance(point.spec, Trained) else {},
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
            "threads_chosen": self.threads_chosen,
            "unmatched": self.conf.unmatched,
        }
        return Row(**(nothing | facts | fields))

    def task(self, point: Point) -> Task:
        """The task that the child of a point receives."""
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
            threads=self.threads,
            memory_bytes=self._memory_limit(),
            baseline_bytes=self.facts["baseline_bytes"],
            repeat_seconds=conf.repeat_seconds,
            relative_half_width=conf.relative_half_width,
            compile=chosen(conf.compile, kind == "cuda"),
        )

    def _memory_limit(self) -> int:
        """Bytes one point may allocate: as configured, or all that is available now."""
        if self.conf.memory_gib:
            return int(self.conf.memory_gib * GIB)
        if self.facts["device"]["kind"] == "cuda":
            total: int = self.facts["device"]["memory_bytes"]
            return total
        return psutil.virtual_memory().available


def choose_threads(asked: str | int, kind: str, earlier: Sequence[Row]) -> tuple[int, str]:
    """How many threads (0: PyTorch's default), and in words how that was decided.

    `auto` takes the number of the rows that the sweep has already on this kind of device, or else
    the physical cores that are free now; never more than OMP_NUM_THREADS, where the user set it.
    Raises `UserError` for another word, and if the rows before had more than that.
    """
    if str(asked).isdecimal():
        return int(asked), f"{asked} were asked for" if int(asked) else "PyTorch's default"
    if asked != "auto":
        raise UserError(f"threads={asked}: a number of threads, 0 for PyTorch's default, or auto")
    name = environment.cpu_name() if kind == "cpu" else None  # asking a GPU would take memory of it
    limit = disturbance.thread_limit()
    for row in reversed(earlier):
        here = row.device.get("kind") == kind and name in (None, row.device.get("name"))
        threads = row.device.get("threads")
        if not here or row.status != OK or not isinstance(threads, int):
            continue
        if limit is not None and limit < threads:
            raise UserError(
                f"OMP_NUM_THREADS allows {limit} of the {threads} threads that the rows of this "
                f"group were measured with: choose another group, or threads={threads}"
            )
        return threads, row.threads_chosen or "as in the rows before"
    free, most = disturbance.free_cores()
    reason = f"auto: {free} of {most} cores were free"
    if limit is None or limit >= free:
        return free, reason
    return limit, f"{reason}, OMP_NUM_THREADS allows {limit}"
