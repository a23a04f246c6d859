"""The run folder: its name is the run's identity, and everything about the run lies in it.

runs/[GROUP/]NAME/
    config.yaml      what was asked for
    checkpoints/     step-00000100.ckpt and its manifest: the last two, and the one in best.json
    metrics.jsonl    every number that was logged
    summary.json     written when the run has finished
    start.json       how it was begun, if by resume=never or from another checkpoint
    wandb/           the Weights & Biases id, and the records (with a group: in runs/GROUP/wandb/)
    lock             who is working on it, as long as somebody is
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import UserError
from models.files import sweep, write_text

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_name(key: str, name: str) -> str:
    """`name` if it can name one folder. Raises `UserError` otherwise."""
    if not NAME.fullmatch(name):
        raise UserError(
            f"{key}={name!r} is not a folder name: use letters, digits, '.', '_' and '-' "
            "(runs of one sweep go together with group=...)"
        )
    return name


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run."""

    path: Path

    @classmethod
    def of(cls, runs_dir: str, group: str | None, name: str) -> RunFolder:
        """The folder of a run. Raises `UserError` if a name cannot be a folder."""
        parts = [check_name("group", group)] if group else []
        return cls(Path(runs_dir, *parts, check_name("name", name)))

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        return self.checkpoints / "best.json"

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer.json"

    @property
    def start(self) -> Path:
        return self.path / "start.json"

    @property
    def summary_path(self) -> Path:
        return self.path / "summary.json"

    def summary(self) -> dict[str, Any] | None:
        """The summary of a finished run, or None; one that cannot be read is written again."""
        try:
            found = json.loads(self.summary_path.read_text())
        except (FileNotFoundError, ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) and "steps" in found else None

    def write_summary(self, summary: dict[str, Any]) -> None:
        write_text(self.summary_path, json.dumps(summary, indent=2) + "\n")

    def sweep(self) -> None:
        """Delete what a killed process was still writing; only for the owner of the run."""
        for folder in (self.path, self.checkpoints):
            sweep(folder)

    def aside(self) -> Path:
        """The first free NAME.old-K beside it."""
        number = 1
        while (aside := self.path.with_name(f"{self.name}.old-{number}")).exists():
            number += 1
        return aside

    def set_aside(self) -> Path | None:
        """Rename an existing folder to NAME.old-K, so that a fresh start loses nothing."""
        return self.path.rename(self.aside()) if self.path.exists() else None


def resume_target(resume: str, runs_dir: str) -> Path:
    """What `resume=` names: a checkpoint file, or a run's folder.

    A run may be named by its folder, or by NAME or GROUP/NAME below `runs_dir`. Raises `UserError`
    for anything else, and for a group, whose runs it lists.
    """
    candidates = (Path(resume), Path(runs_dir, resume))
    for path in candidates:
        if path.is_file():
            return path
        if (path / "checkpoints").is_dir():
            return path
    for path in candidates:
        if path.is_dir() and (runs := sorted(one.parent for one in path.glob("*/checkpoints"))):
            shown = ", ".join(str(one) for one in runs[:8]) + (", ..." if len(runs) > 8 else "")
            raise UserError(f"resume={resume!r} is a group of runs: choose one of {shown}")
    raise UserError(f"resume={resume!r}: not auto or never, and no such checkpoint or run")
