"""metrics.jsonl: every number that is logged, one JSON object per line, whoever else gets it."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from models.files import write_text


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file; a last line torn by a crash is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


class JsonlLogger(Logger):
    """A Lightning logger that appends to `metrics.jsonl`."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

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
        known = {key: value if math.isfinite(value) else None for key, value in metrics.items()}
        row = {"step": step, "time": round(time.time(), 3), **known}
        try:
            with self._path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:  # which only `open` would name
            raise OSError(error.errno, error.strerror, str(self._path)) from None

    @rank_zero_only
    def rewind(self, step: int) -> None:
        """Drop rows after `step`: a resumed run writes them again."""
        rows = [row for row in read_rows(self._path) if row["step"] <= step]
        write_text(self._path, "".join(json.dumps(row) + "\n" for row in rows))
