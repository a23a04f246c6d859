"""The row of one point measured in one process, and the append-only file that holds them.

A row is one line of JSON. Lines are only ever added, each written whole and flushed to disk, so a
sweep that is killed loses at most the point it was measuring.
"""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from datetime import datetime
from functools import cache
from io import FileIO
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from pydantic import Field

from conf.schema import PROBES
from core import parsing
from core.errors import UserError
from core.parsing import parse_json
from models.registry import ModelSpec, nature
from probes.field_types import (
    Amount,
    Bytes,
    Count,
    Fields,
    Name,
    Number,
    Operations,
    Parameters,
    Plain,
    Rate,
    Scalar,
    Seconds,
    Text,
    fields_of,
    misfits,
    one_of,
    some,
)
from probes.trained import Trained

logger = logging.getLogger("crossover")

OK = "ok"
OOM = "oom"
TIMEOUT = "timeout"
ERROR = "error"
PREDICTED_OOM = "predicted_oom"
PREDICTED_TIMEOUT = "predicted_timeout"
STATUSES = (OK, OOM, TIMEOUT, ERROR, PREDICTED_OOM, PREDICTED_TIMEOUT)
NOT_TRIED = (PREDICTED_OOM, PREDICTED_TIMEOUT)
SWEEPS = ("fixed_tokens", "batch_1")
LONGEST = 16 << 20  # bytes of a line: every single token of a long sweep has its time in it
MOST_DAMAGED = 1000  # lines of a file that still is one of rows
TOLD = 5  # of them, one by one


def label(model: str, options: dict[str, Any], weights: dict[str, str] | None = None) -> str:
    """The model with the options set by hand: `gpt`, `gpt math`, `transformer window 256`; and with
    what weights from a file are called: `rwkv7 first@400`."""
    words = (
        value if isinstance(value, str) else name if value is True else f"{name} {value}"
        for name, value in options.items()
    )
    return " ".join([model, *words, *filter(None, [(weights or {}).get("source")])])


def label_of(spec: ModelSpec) -> str:
    """The label of a model that is about to be measured."""
    weights = spec.weights if isinstance(spec, Trained) else {}
    try:
        return label(spec.name, nature(spec.target, spec.config).options, weights)
    except UserError:  # it cannot be built; whoever builds it says so
        return spec.name


@dataclass(frozen=True)
class Row:
    """One point in one process: what was measured, on what, and every repeat's raw time."""

    probe: Annotated[str, one_of(PROBES)]
    """One of `conf.schema.PROBES`; docs/probes.md says what each of them times."""
    sweep: Annotated[str, one_of(SWEEPS)]
    """`fixed_tokens` (batch = fixed_tokens // context_length) or `batch_1`."""
    model: Name
    size: Name
    target: Name
    config: dict[Name, Plain]
    """Name, preset, class path and config fields of the model (`models.registry.ModelSpec`)."""
    parameters: Parameters | None
    context_length: Count
    batch: Count
    status: Annotated[str, one_of(STATUSES)]
    """One of `STATUSES`: a failed point is data too, and so is one that could only have failed."""
    error: Text | None
    """Why the point failed, or what says that it would, in one line."""
    seconds: list[Seconds]
    """Raw repeats: of a whole batch, or of one decoded token (`decode`: mean of each repeat)."""
    peak_bytes: Bytes | None
    peak_method: Text
    state_bytes: Bytes | None
    """Storage of the real state tensors at `context_length`; `None` in training."""
    flops: Operations | None
    """Work of one entry of `seconds`, causal convention; training counts forward times 3."""
    flops_dense: Operations | None
    """FLOPs with every query against every key."""
    backends: dict[Name, Name]
    precision: Name
    seed: Annotated[int, Field(ge=-(2**63), le=2**64)]
    """Seed of weights and tokens, and of the random order the points were measured in."""
    device: dict[Name, Scalar]
    """`kind`, `name`, `threads`, `memory_bytes`."""
    versions: dict[Name, Name]
    commit: Name
    load_before: Amount
    """Load average of the last minute when the point started."""
    started: Name
    """ISO 8601, UTC."""
    command: Text
    process: Number = 0
    """Which of the processes of its point this is, from 0; rows without it come from one."""
    token_seconds: list[Seconds] = field(default_factory=list)
    """`decode`: of every single token, repeat after repeat."""
    memory: dict[Name, Bytes] = field(default_factory=dict)
    """Peaks in bytes by name: `resident` on a CPU; `allocated`, `reserved`, `device` on a GPU."""
    energy_joules: Annotated[float, Field(ge=0, le=1e15)] | None = None
    """Used by the whole device during one entry of `seconds`, idling included."""
    energy_method: Text = "unavailable"
    """Which counter, or why there is none."""
    peak_flops: Rate | None = None
    """Operations per second of a matrix product on this device, when the sweep began."""
    max_batch: Count | None = None
    """Most sequences that ran within `budget_bytes`."""
    budget_bytes: Bytes | None = None
    tried: list[dict[Name, Plain]] = field(default_factory=list)
    """Every batch tried on the way: `batch`, `status`, `peak_bytes`, `error`."""
    cpu_seconds: list[Amount] = field(default_factory=list)
    """CPU time of all threads of this process during each timed repeat; this and the lists below
    have an entry for each of `seconds`, or none where the system does not tell."""
    involuntary: list[Annotated[int, Field(ge=0, le=10**15)]] = field(default_factory=list)
    """Times that the system took the core from one of its threads."""
    waited: list[Amount] = field(default_factory=list)
    """Seconds its threads were ready to run and had no core, summed over them."""
    others: list[Amount] = field(default_factory=list)
    """CPU seconds that others had on the cores this process may use."""
    pressure: list[Amount] = field(default_factory=list)
    """Seconds in which something on this machine waited for a core (Linux's PSI, `some`)."""
    steal: list[Amount] = field(default_factory=list)
    """CPU seconds that the hypervisor took."""
    disturbed: list[bool] = field(default_factory=list)
    """Whether others delayed the repeat (`probes.measure.counters.disturbance`); empty: unknown."""
    visit: Number = 0
    """How often the point had been measured before because others disturbed it."""
    threads_chosen: Text = ""
    """How the number of threads was decided; empty in rows of before it was told."""
    unmatched: bool = False
    """Whether models of other sizes were allowed beside it when it was measured."""
    recurrent: bool | None = None
    """What the model says it is; None where its class could not be found."""
    title: Name = ""
    """Its name inside a sentence: `RWKV-7`, `the Transformer`."""
    options: dict[Name, Scalar] = field(default_factory=dict)
    """Config fields that change how it computes at its size, where set by hand."""
    weights: dict[Name, Text] = field(default_factory=dict)
    """`source`, `path` and `sha256` of weights that come from a file; empty: drawn from `seed`."""

    @property
    def label(self) -> str:
        """The model with its options."""
        return label(self.model, self.options, self.weights)

    @property
    def is_disturbed(self) -> bool:
        """Whether fewer than half of the repeats, and fewer than `ENOUGH`, were left alone."""
        return self.status == OK and self.disturbed.count(False) < enough(self.disturbed)

    @property
    def undisturbed(self) -> list[float]:
        """Those of `seconds` that count: all where nothing better is known."""
        if self.is_disturbed or not self.disturbed:
            return self.seconds
        return [
            seconds for seconds, bad in zip(self.seconds, self.disturbed, strict=True) if not bad
        ]

    @property
    def key(self) -> str:
        """Equal for two measurements of the same point on the same kind of machine."""
        where = [self.device.get(name) for name in ("kind", "name", "threads")]
        weights = [self.weights.get("sha256")] if self.weights else []
        return json.dumps(
            [
                self.model,
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
                *weights,
            ],
            sort_keys=True,
        )

    def to_json(self) -> str:
        """One line, without its newline."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Row:
        """Inverse of `to_json`. Raises `ValueError` unless the line is a row."""
        values = parse_json(line)
        if not isinstance(values, dict):
            raise ValueError("not an object")
        return cls.of(values)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Row:
        """The row with these fields. Raises `ValueError` unless they make one."""
        values = parsing.current_names(values, RENAMED)
        if odd := sorted(_ALL ^ {*_YOUNGER, *values}):
            raise ValueError(f"not a probe row (missing or unknown fields: {some(odd)})")
        row = cls(**values)
        if odd := misfits(vars(row), _fields()) or sorted(_out_of_step(row)):
            raise ValueError(f"not a probe row (values that make no sense: {some(odd)})")
        for name in _BY_REPEAT:
            if (marks := getattr(row, name)) and len(marks) != len(row.seconds):
                raise ValueError(f"not a probe row ({name} has not one entry for each of seconds)")
        if "recurrent" not in values:  # written before models said what they are
            row = replace(row, **said_by(row.target, row.config))
        return row


RENAMED = {"contestant": "model"}
"""Fields of rows and summaries that older versions wrote under another name."""


_ALL = {column.name for column in fields(Row)}
_YOUNGER = {
    column.name
    for column in fields(Row)
    if column.default is not MISSING or column.default_factory is not MISSING
}
"""Those that rows of before may lack."""
_BY_REPEAT = (
    "disturbed", "cpu_seconds", "involuntary", "waited", "others", "pressure", "steal",
)  # fmt: skip
_INNER: dict[str, dict[str, Any]] = {
    "device": {
        "kind": Name, "name": Name, "threads": Count | None, "memory_bytes": Bytes | None,
    },
    "config": {"vocab_size": Count | None, "window": Count | None},
}  # fmt: skip
"""Entries that the analysis depends on."""


@cache
def _fields(name: str = "") -> Fields:
    """The check of a row, or of the entries of one of its fields."""
    return fields_of(_INNER[name] if name else get_type_hints(Row, include_extras=True))


def _out_of_step(row: Row) -> Iterator[str]:
    """Fields that are valid alone, and contradict others."""
    for name, inner in _INNER.items():
        values = {key: getattr(row, name).get(key) for key in inner}
        yield from (f"{name}.{key}" for key in misfits(values, _fields(name)))
    if not row.seconds and (row.status == OK or row.token_seconds):
        yield "seconds"
    try:
        datetime.fromisoformat(row.started)
    except ValueError:
        yield "started"


def check_name_of(spec: ModelSpec) -> None:
    """Raise `UserError` if rows could not hold what the model is called."""
    said = {"model.name": spec.name, "model.size": spec.size, "model.target": spec.target}
    for key in misfits(said, fields_of(dict.fromkeys(said, Name))):
        raise UserError(f"{key}={str(said[key])[:50]!r}: at most 200 characters, all printable")


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
    Raises `UserError` if the file cannot be read, or if more than `MOST_DAMAGED` lines are no rows.
    """
    rows: dict[int, Row] = {}
    damaged: list[str] = []
    try:
        for line in parsing.read_lines(path, LONGEST):
            try:
                if line.value is None:
                    raise ValueError(line.problem)
                rows[line.number] = Row.of(line.value)
            except ValueError as error:
                why = str(error) if line.ended else "the line is cut short"
                damaged.append(f"{path}, line {line.number}: left out, {why}")
            if len(damaged) > MOST_DAMAGED:
                raise UserError(
                    f"{path}: more than {MOST_DAMAGED:,} of the first {line.number:,} lines are no "
                    f"probe rows ({damaged[0]}): give the folder of a sweep"
                )
    except parsing.Missing:
        return Lines({}, ())
    for message in damaged[:TOLD]:
        logger.warning(message)
    if len(damaged) > TOLD:
        logger.warning(f"{path}: {len(damaged) - TOLD:,} more lines are left out")
    return Lines(rows, tuple(damaged))


def read_rows(path: Path) -> list[Row]:
    """The rows of `read_lines`, oldest first."""
    return list(read_lines(path).rows.values())


def _end(file: FileIO) -> tuple[int, bool]:
    """Where the last whole line ends, and whether with a newline: an editor may leave that out."""
    size = file.seek(0, os.SEEK_END)
    start = max(0, size - LONGEST)
    file.seek(start)
    tail = file.readall()
    torn = tail[tail.rfind(b"\n") + 1 :]
    try:
        Row.from_json(torn.decode())
    except ValueError:
        return (size, False) if start and torn == tail else (size - len(torn), True)
    return size, False


def append_rows(path: Path, rows: Sequence[Row]) -> None:
    """Add rows that belong together in one write, on disk when this returns.

    Removes a last line that a crash cut short. Raises `UserError` if the file cannot be written;
    the rows before are still there.
    """
    lines = "".join(f"{row.to_json()}\n" for row in rows).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+", buffering=0) as file:
            whole, ended = _end(file)
            file.truncate(whole)
            if not ended:
                lines = b"\n" + lines
            if file.write(lines) < len(lines):  # a full disk takes what fits
                file.truncate(whole)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}): what was measured before is in it; make "
            "room, or choose another runs_dir, and the same command goes on"
        ) from None
