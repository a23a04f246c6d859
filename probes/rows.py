"""The row of one point measured in one process, and the append-only file that holds them.

A row is one line of JSON. Lines are only ever added, each written whole and flushed to disk, so a
sweep that is killed loses at most the point it was measuring.
"""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from math import inf
from pathlib import Path
from typing import Any

from models.errors import UserError
from models.registry import ModelSpec, nature

logger = logging.getLogger("crossover")

OK = "ok"
OOM = "oom"
TIMEOUT = "timeout"
ERROR = "error"
PREDICTED_OOM = "predicted_oom"
PREDICTED_TIMEOUT = "predicted_timeout"
STATUSES = (OK, OOM, TIMEOUT, ERROR, PREDICTED_OOM, PREDICTED_TIMEOUT)
NOT_TRIED = (PREDICTED_OOM, PREDICTED_TIMEOUT)


def label(contestant: str, options: dict[str, Any]) -> str:
    """The contestant with the options set by hand: `gpt`, `gpt math`, `transformer window 256`."""
    words = (one if isinstance(one, str) else f"{name} {one}" for name, one in options.items())
    return " ".join([contestant, *words])


def label_of(spec: ModelSpec) -> str:
    """The label of a contestant that is about to be measured."""
    try:
        return label(spec.name, nature(spec.target, spec.config).options)
    except UserError:  # it cannot be built; whoever builds it says so
        return spec.name


@dataclass(frozen=True)
class Row:
    """One point in one process: what was measured, on what, and every repeat's raw time."""

    probe: str
    """One of `conf.schema.PROBES`; docs/probes.md says what each of them times."""
    sweep: str
    """`fixed_tokens` (batch = fixed_tokens // context_length) or `batch_1`."""
    contestant: str
    size: str
    target: str
    config: dict[str, Any]
    """Name, preset, class path and config fields of the model (`models.registry.ModelSpec`)."""
    parameters: int | None
    context_length: int
    batch: int
    status: str
    """One of `STATUSES`: a failed point is data too, and so is one that could only have failed."""
    error: str | None
    """Why the point failed, or what says that it would, in one line."""
    seconds: list[float]
    """Raw repeats: of a whole batch, or of one decoded token (`decode`: mean of each repeat)."""
    peak_bytes: int | None
    peak_method: str
    state_bytes: int | None
    """Storage of the real state tensors at `context_length`; `None` in training."""
    flops: int | None
    """Work of one entry of `seconds`, causal convention; training counts forward times 3."""
    flops_dense: int | None
    """The same with every query against every key."""
    backends: dict[str, str]
    precision: str
    seed: int
    """Of weights and tokens, and of the random order the points were measured in."""
    device: dict[str, Any]
    """`kind`, `name`, `threads`, `memory_bytes`."""
    versions: dict[str, str]
    commit: str
    load_before: float
    """Load average of the last minute when the point started."""
    started: str
    """ISO 8601, UTC."""
    command: str
    process: int = 0
    """Which of the processes of its point this is, from 0; rows without it come from one."""
    token_seconds: list[float] = field(default_factory=list)
    """`decode`: of every single token, repeat after repeat."""
    memory: dict[str, int] = field(default_factory=dict)
    """Peaks in bytes by name: `resident` on a CPU; `allocated`, `reserved`, `device` on a GPU."""
    energy_joules: float | None = None
    """Used by the whole device during one entry of `seconds`, idling included."""
    energy_method: str = "unavailable"
    """Which counter, or why there is none."""
    peak_flops: float | None = None
    """Operations per second of a matrix product on this device, when the sweep began."""
    max_batch: int | None = None
    """Most sequences that ran within `budget_bytes`."""
    budget_bytes: int | None = None
    tried: list[dict[str, Any]] = field(default_factory=list)
    """Every batch tried on the way: `batch`, `status`, `peak_bytes`, `error`."""
    cpu_seconds: list[float] = field(default_factory=list)
    """CPU time of all threads of this process during each timed repeat; this and the lists below
    have an entry for each of `seconds`, or none where the system does not tell."""
    involuntary: list[int] = field(default_factory=list)
    """Times that the system took the core from one of its threads."""
    waited: list[float] = field(default_factory=list)
    """Seconds its threads were ready to run and had no core, summed over them."""
    others: list[float] = field(default_factory=list)
    """CPU seconds that others had on the cores this process may use."""
    pressure: list[float] = field(default_factory=list)
    """Seconds in which something on this machine waited for a core (Linux's PSI, `some`)."""
    steal: list[float] = field(default_factory=list)
    """CPU seconds that the hypervisor took."""
    disturbed: list[bool] = field(default_factory=list)
    """Whether others delayed the repeat (probes/disturbance.py); empty: not known."""
    visit: int = 0
    """How often the point had been measured before because others disturbed it."""
    threads_chosen: str = ""
    """How the number of threads was decided; empty in rows of before it was told."""
    recurrent: bool | None = None
    """What the model says it is; None where its class could not be found."""
    title: str = ""
    """Its name inside a sentence: `RWKV-7`, `the Transformer`."""
    options: dict[str, Any] = field(default_factory=dict)
    """Config fields that change how it computes at its size, where set by hand."""

    @property
    def label(self) -> str:
        """The contestant with its options."""
        return label(self.contestant, self.options)

    @property
    def is_disturbed(self) -> bool:
        """Whether fewer than half of the repeats, and fewer than `ENOUGH`, were left alone."""
        return self.status == OK and self.disturbed.count(False) < enough(self.disturbed)

    @property
    def undisturbed(self) -> list[float]:
        """Those of `seconds` that count: all where nothing better is known."""
        if self.is_disturbed or not self.disturbed:
            return self.seconds
        return [one for one, bad in zip(self.seconds, self.disturbed, strict=True) if not bad]

    @property
    def key(self) -> str:
        """Equal for two measurements of the same point on the same kind of machine."""
        where = [self.device.get(name) for name in ("kind", "name", "threads")]
        return json.dumps(
            [
                self.contestant,
                self.target,
                self.config,
                self.probe,
                self.sweep,
                self.context_length,
                self.batch,
                self.precision,
                self.seed,
                self.process,
                where,
            ],
            sort_keys=True,
        )

    def to_json(self) -> str:
        """One line, without its newline."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Row:
        """Inverse of `to_json`. Raises `ValueError` unless the line is a row."""
        try:
            values = json.loads(line)
        except ValueError:
            raise ValueError("not JSON") from None
        if not isinstance(values, dict):
            raise ValueError("not a probe row (not an object)")
        names = {one.name for one in fields(cls)}
        younger = {
            one.name
            for one in fields(cls)
            if one.default is not MISSING or one.default_factory is not MISSING
        }
        if odd := sorted(names ^ {*younger, *values}):
            raise ValueError(f"not a probe row (missing or unknown fields: {_some(odd)})")
        row = cls(**values)
        if "recurrent" not in values:  # written before models said what they are
            row = replace(row, **said_by(row.target, row.config))
        if odd := sorted(name for name, fits in _FITS.items() if not fits(getattr(row, name))):
            raise ValueError(f"not a probe row (values that make no sense: {_some(odd)})")
        if row.disturbed and len(row.disturbed) != len(row.seconds):
            raise ValueError("not a probe row (disturbed has not one entry for each of seconds)")
        return row


ENOUGH = 3
"""Undisturbed repeats that make a point, however many were disturbed."""


def enough(disturbed: list[bool]) -> int:
    """Half of the repeats, but not more than `ENOUGH`."""
    return min(ENOUGH, (len(disturbed) + 1) // 2)


def said_by(target: Any, config: Any) -> dict[str, Any]:
    """The fields `recurrent`, `title` and `options` as the class says; nothing without a class."""
    try:
        return asdict(nature(target, config))
    except (UserError, AttributeError):
        return {}


def _some(names: list[str]) -> str:
    return ", ".join(names if len(names) < 6 else [*names[:4], f"and {len(names) - 4} more"])


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value >= 1


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value < inf


def _is_times(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_time, value))


def _is_list_of(kind: type, value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, kind) for one in value)


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


_FITS: dict[str, Callable[[Any], bool]] = {
    "context_length": _is_count,
    "batch": _is_count,
    "process": lambda value: isinstance(value, int) and value >= 0,
    "status": lambda value: value in STATUSES,
    "seconds": _is_times,
    "token_seconds": _is_times,
    "max_batch": lambda value: value is None or _is_count(value),
    "peak_flops": lambda value: value is None or _is_time(value),
    "memory": _is_dict,
    "disturbed": lambda value: _is_list_of(bool, value),
    "visit": lambda value: isinstance(value, int) and value >= 0,
    "config": _is_dict,
    "recurrent": lambda value: value is None or isinstance(value, bool),
    "title": lambda value: isinstance(value, str),
    "options": _is_dict,
    "backends": _is_dict,
    "device": _is_dict,
    "versions": _is_dict,
}


@dataclass(frozen=True)
class Lines:
    """What a file of rows holds."""

    rows: dict[int, Row]
    """By line number, from 1."""
    damaged: tuple[str, ...]
    """One message for every line that is not a row, with file and line."""


def read_lines(path: Path) -> Lines:
    """Every row of the file; none if there is no file.

    A line that is not a row, like the last one of a sweep that was killed, is left out and named.
    """
    if not path.exists():
        return Lines({}, ())
    *lines, tail = path.read_text(encoding="utf-8", errors="replace").split("\n")
    rows, damaged = {}, []
    for number, line in enumerate(lines, start=1):
        try:
            rows[number] = Row.from_json(line)
        except ValueError as error:
            damaged.append(f"{path}, line {number}: left out, {error}")
    if tail:
        damaged.append(f"{path}, line {len(lines) + 1}: left out, the line is cut short")
    for message in damaged:
        logger.warning(message)
    return Lines(rows, tuple(damaged))


def read_rows(path: Path) -> list[Row]:
    """The rows of `read_lines`, oldest first."""
    return list(read_lines(path).rows.values())


def append_row(path: Path, row: Row) -> None:
    """Add one row, as `append_rows` does."""
    append_rows(path, [row])


def append_rows(path: Path, rows: Sequence[Row]) -> None:
    """Add rows that belong together in one write, on disk when this returns.

    Removes a last line that a crash cut short. Raises `UserError` if the file cannot be written;
    the rows before are still there.
    """
    lines = "".join(f"{row.to_json()}\n" for row in rows).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+", buffering=0) as file:
            file.seek(0)
            whole = file.readall().rfind(b"\n") + 1
            file.truncate(whole)
            if file.write(lines) < len(lines):  # a full disk takes what fits
                file.truncate(whole)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}): what was measured before is in it; make "
            "room, or choose another runs_dir, and the same command goes on"
        ) from None
