"""Which quantities are drawn against context length, and how one is read from a row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from probes.rows import Row


@dataclass(frozen=True)
class Measure:
    """One quantity against context length. Less of it is better, always."""

    key: str
    probe: str
    sweep: str
    field: str  # seconds | p95 | peak_bytes | state_bytes | share | batch_seconds
    title: str
    noun: str  # as it stands in a sentence
    wins: str  # what the cheaper one does, as in "RWKV-4 trains faster"
    per: str  # sequence | token: what one value is the cost of
    always: bool = False  # named in crossover.json also where it was not probed
    prose: bool = True  # told in the paragraphs; the others have their chart and tables only

    @property
    def unit(self) -> str:
        return "s" if self.timed else "B"

    @property
    def timed(self) -> bool:
        """Whether other work on the machine disturbs it."""
        return self.field in ("seconds", "p95", "batch_seconds")


# fmt: off
MEASURES = (
    Measure("train", "train", "batch_1", "seconds", "Training time per sequence",
            "training time per sequence", "trains faster", "sequence", always=True),
    Measure("train_fixed_tokens", "train", "fixed_tokens", "seconds",
            "Training time per token, full batches", "training time per token in full batches",
            "trains faster in full batches", "token", prose=False),
    Measure("prefill", "prefill", "batch_1", "seconds", "Time to read a prompt (prefill)",
            "time to read a prompt", "reads a prompt faster", "sequence", always=True),
    Measure("prefill_fixed_tokens", "prefill", "fixed_tokens", "seconds",
            "Prefill time per token, full batches", "prefill time per token in full batches",
            "reads prompts faster in full batches", "token", prose=False),
    Measure("ttft", "ttft", "batch_1", "seconds", "Time to the first token of an answer",
            "time to the first token", "begins its answer sooner", "sequence"),
    Measure("decode", "decode", "batch_1", "seconds", "Time per generated token (decode)",
            "time per generated token", "generates text faster", "token", always=True),
    Measure("decode_p95", "decode", "batch_1", "p95", "Slow tokens (decode, 95th percentile)",
            "time for a slow token", "has faster slow tokens", "token", prose=False),
    Measure("generate", "generate", "batch_1", "seconds", "Time to write a whole text from nothing",
            "time to write a whole text", "writes a whole text faster", "sequence"),
    Measure("memory", "train", "batch_1", "peak_bytes", "Peak memory of a training step",
            "peak training memory", "trains in less memory", "sequence", always=True),
    Measure("memory_prefill", "prefill", "batch_1", "peak_bytes", "Peak memory of a prefill",
            "peak memory of reading a prompt", "reads a prompt in less memory", "sequence",
            prose=False),
    Measure("memory_decode", "decode", "batch_1", "peak_bytes", "Peak memory of decoding",
            "peak memory of decoding", "decodes in less memory", "sequence", prose=False),
    Measure("state", "decode", "batch_1", "state_bytes", "Memory of the context (state)",
            "memory to remember the context", "remembers the context in less memory", "sequence",
            always=True),
    Measure("max_batch", "max_batch", "batch_1", "share",
            "Memory per sequence in the largest batch",
            "memory per sequence in the largest batch", "serves more sequences at once",
            "sequence"),
    Measure("max_batch_time", "max_batch", "batch_1", "batch_seconds",
            "Time per token in the largest batch", "time per token in the largest batch",
            "generates faster in the largest batch", "token", prose=False),
    Measure("max_batch_train", "max_batch_train", "batch_1", "share",
            "Memory per sequence in the largest training batch",
            "memory per sequence in the largest training batch",
            "trains on more sequences at once", "sequence", prose=False),
    Measure("layer", "layer", "batch_1", "seconds", "One layer, forward and backward",
            "time for one layer", "runs a layer faster", "sequence", prose=False),
    Measure("operator", "operator", "batch_1", "seconds",
            "The operator that mixes tokens, forward and backward", "time for the operator alone",
            "runs its operator faster", "sequence", prose=False),
)
# fmt: on
BY_KEY = {measure.key: measure for measure in MEASURES}


def values_of(row: Row, measure: Measure) -> tuple[float, ...]:
    """One value per repeat, or a single one for what is not repeated; none if it is unknown.

    Disturbed repeats are left out, unless the whole row is.
    """
    if measure.field == "p95":
        if not row.token_seconds or not row.seconds:
            return ()
        repeats = np.array_split(np.array(row.token_seconds), len(row.seconds))
        slow = tuple(float(np.percentile(tokens, 95)) for tokens in repeats)
        return _undisturbed(row, slow)
    if measure.field == "share":
        return (row.budget_bytes / row.max_batch,) if row.budget_bytes and row.max_batch else ()
    seconds = _undisturbed(row, tuple(row.seconds))
    if measure.field == "batch_seconds":
        return tuple(value / row.max_batch for value in seconds) if row.max_batch else ()
    if measure.field == "seconds":
        if measure.probe == "decode":
            return seconds
        parts = row.batch * (row.context_length if measure.per == "token" else 1)
        return tuple(value / parts for value in seconds)
    value = getattr(row, measure.field)
    return (value / row.batch,) if value else ()


def _undisturbed(row: Row, values: tuple[float, ...]) -> tuple[float, ...]:
    """Values of the repeats that nothing disturbed; all of them in a disturbed row."""
    marks = row.disturbed
    if row.is_disturbed or len(marks) != len(values):
        return values
    return tuple(value for value, mark in zip(values, marks, strict=True) if not mark)
