"""A small task, and its outcome in a child process."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from models.registry import ModelSpec, build
from probes.measure import isolated, worker
from probes.measure.isolated import Outcome
from probes.measure.tasks.timing import Task
from tests.probes.specs import VOCAB, transformer

MIB = 1 << 20


TASK = Task(
    spec=transformer(),
    probe="prefill",
    batch=2,
    length=48,
    vocab_size=VOCAB,
    seed=0,
    repeats=3,
    warmup=1,
    decode_steps=8,
    precision="float32",
    device="cpu",
    threads=1,
    memory_bytes=1 << 30,
    baseline_bytes=0,
)


def built(spec: ModelSpec) -> Any:
    """The model as the module it is."""
    return build(spec)


def run(**changes: Any) -> Outcome:
    return isolated.run(worker.measure, (replace(TASK, **changes),), 120)
