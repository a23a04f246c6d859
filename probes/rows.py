"""The row of one measured point, and the append-only file that holds them.

A row is one line of JSON. Lines are only ever added, each written whole and flushed to disk, so a
sweep that is killed loses at most the point it was measuring.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from models.errors import UserError

logger = logging.getLogger("crossover")

OK = "ok"
OOM = "oom"
TIMEOUT = "timeout"
ERROR = "error"

OPTIONS = ("attention", "wkv", "window")
"""Fields of a model's configuration that change how it computes, at the same size and name."""


def label(contestant: str, config: dict[str, Any]) -> str:
    """The contestant with the options set by hand: `gpt`, `gpt math`, `transformer window 256`."""
    words = [contestant]
    for name in OPTIONS:
        value = config.get(name)
        if value not in (None, "auto"):
            words.append(value if isinstance(value, str) else f"{name} {value}")
    return " ".join(words)


@dataclass(frozen=True)
class Row:
    """One point: what was measured, on what, and every repeat's raw time."""

    probe: str
    """`train` (forward and backward), `prefill` or `decode`."""
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
    """`ok`, `oom`, `timeout` or `error`: a failed point is data too."""
    error: str | None
    """Why the point failed, in one line."""
    seconds: list[float]
    """Raw repeats: of a whole batch (train, prefill), of one decoded token step (decode)."""
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
    device: dict[str, Any]
    """`kind`, `name`, `threads`, `memory_bytes`."""
    versions: dict[str, str]
    commit: str
    load_before: float
    """Load average of the last minute when the point started."""
    started: str
    """ISO 8601, UTC."""
    command: str

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
                where,
            ],
            sort_keys=True,
        )

    def to_json(self) -> str:
        """One line, without its newline."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Row:
        """Inverse of `to_json`. Raises `ValueError` unless the line has exactly a row's fields."""
        values = json.loads(line)
        names = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or set(values) != names:
            odd = sorted(names ^ set(values)) if isinstance(values, dict) else "not an object"
            raise ValueError(f"not a probe row (missing or unknown fields: {odd})")
        return cls(**values)


def read_rows(path: Path) -> list[Row]:
    """Every row of the file, oldest first; none if there is no file.

    A last line that a crash cut short (it lacks its newline) is left out with a notice. Raises
    `UserError` on any other line that is not a row.
    """
    if not path.exists():
        return []
    *lines, tail = path.read_text(encoding="utf-8", errors="replace").split("\n")
    if tail:
        logger.warning("%s: the last line is cut short and is ignored", path)
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(Row.from_json(line))
        except ValueError as error:
            raise UserError(
                f"{path}, line {number}: {error}. Remove that line to go on without it."
            ) from None
    return rows


def append_row(path: Path, row: Row) -> None:
    """Add one row, on disk when this returns. Removes a last line that a crash cut short."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
        file.write(row.to_json().encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
