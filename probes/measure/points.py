"""The points that a sweep measures, and their order."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from conf.schema import PROBES, ProbeConf
from core.errors import UserError
from models.registry import ModelSpec
from probes.rows import SWEEPS, label_of

ONE_SEQUENCE = ("ttft", "decode", "generate", "layer", "operator", "max_batch", "max_batch_train")
"""Probes for which a full batch says nothing new; they are measured in the batch_1 sweep only."""


@dataclass(frozen=True)
class Point:
    """One measurement: a model, what is asked of it, and the shape `[batch, length]`."""

    spec: ModelSpec
    probe: str
    sweep: str
    length: int
    batch: int
    process: int = 0
    """Which of the fresh processes a point is measured in, from 0."""

    def __str__(self) -> str:
        who = label_of(self.spec)
        process = f" process {self.process}" if self.process else ""
        return f"{who} {self.probe} {self.sweep} T={self.length} B={self.batch}{process}"


def list_points(specs: Sequence[ModelSpec], conf: ProbeConf) -> list[Point]:
    """The points of a sweep, in a random order that depends on `conf.seed` alone.

    Models take turns: every (probe, sweep, length) is measured for all of them, in shuffled
    order, before the next one starts, so that a machine that slows down with time slows all of
    them. The lengths are shuffled too, or the drift would look like a slope. With several processes
    per point the sweep goes through all points that many times, each time in an order of its own,
    so that drift falls between the processes of a point, where its interval sees it; lengths with
    fewer processes are in the earlier passes. The first pass does not depend on how many follow.

    Raises `UserError` on a choice that does not exist, or if nothing is left to measure.
    """
    _check(specs, conf)
    rounds = [
        (probe, sweep, length)
        for probe in conf.probes
        for sweep in conf.sweeps
        for length in conf.lengths
        if not (probe in ONE_SEQUENCE and sweep == "fixed_tokens")
        and not (sweep == "fixed_tokens" and length > conf.fixed_tokens)
    ]
    if not rounds:
        raise UserError(
            f"nothing to measure with probes={list(conf.probes)}, sweeps={list(conf.sweeps)}, "
            f"lengths={list(conf.lengths)}: fixed_tokens takes lengths up to {conf.fixed_tokens}, "
            f"and {', '.join(ONE_SEQUENCE)} need the batch_1 sweep"
        )
    order = random.Random(conf.seed)
    points = []
    wanted = processes_of(conf)
    for process in range(max(wanted.values())):
        passed = [turn for turn in rounds if wanted[turn[-1]] > process]
        for probe, sweep, length in order.sample(passed, len(passed)):
            batch = conf.fixed_tokens // length if sweep == "fixed_tokens" else 1
            for spec in order.sample(list(specs), len(specs)):
                points.append(Point(spec, probe, sweep, length, batch, process))
    return points


def processes_of(conf: ProbeConf) -> dict[int, int]:
    """How many fresh processes measure a point, by its length."""
    numbers = list(conf.processes)
    if len(numbers) == 1:
        numbers *= len(conf.lengths)
    return dict(zip(conf.lengths, numbers, strict=True))


def left_out(conf: ProbeConf) -> list[str]:
    """What `list_points` does not measure although it was named, one line each."""
    notices = []
    too_long = sorted(length for length in conf.lengths if length > conf.fixed_tokens)
    if "fixed_tokens" in conf.sweeps and too_long:
        notices.append(
            f"fixed_tokens: lengths {', '.join(map(str, too_long))} are left out, "
            f"a batch holds {conf.fixed_tokens} tokens"
        )
    single = [probe for probe in conf.probes if probe in ONE_SEQUENCE]
    if single and "batch_1" not in conf.sweeps:
        verb = "are" if len(single) > 1 else "is"
        notices.append(f"{', '.join(single)} {verb} left out: measured in the batch_1 sweep only")
    return notices


def _check(specs: Sequence[ModelSpec], conf: ProbeConf) -> None:
    if not specs:
        raise UserError("no model to measure: name at least one with model=")
    for key, chosen, choices in (("probes", conf.probes, PROBES), ("sweeps", conf.sweeps, SWEEPS)):
        if unknown := sorted(set(chosen) - set(choices)):
            raise UserError(f"{key}={unknown}: choose from {', '.join(choices)}")
        if len(set(chosen)) < len(chosen):
            raise UserError(f"{key}={list(chosen)}: one is named twice")
    if len(set(conf.lengths)) < len(conf.lengths) or any(n < 1 for n in conf.lengths):
        raise UserError(f"lengths={list(conf.lengths)}: positive numbers, each once")
    if len(conf.processes) not in (1, len(conf.lengths)) or min(conf.processes) < 1:
        raise UserError(
            f"processes={list(conf.processes)}: one positive number, or one for each of "
            f"lengths={list(conf.lengths)}"
        )
    for key in ("repeats", "decode_steps", "fixed_tokens"):
        if getattr(conf, key) < 1:
            raise UserError(f"{key}={getattr(conf, key)}: must be at least 1")
