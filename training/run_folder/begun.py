"""How a run was begun: `start.json` in its folder, where that was not by plain `resume=auto`.

Imports nothing heavy, because `scripts/runs.py` reads the parents of many runs.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from conf.schema import EVERYTHING, TAKES
from core.errors import UserError
from core.files import recorded_digest, write_text
from core.parsing import Missing, Unreadable, read_object
from models.formats.run_checkpoints import is_there, step_of
from training.run_folder.folder import RunFolder, resume_target


@dataclass(frozen=True)
class Parent:
    """The checkpoint that a branch leaves, as it was then."""

    path: str
    step: int
    sha256: str
    take: str = EVERYTHING
    """What was taken over, among `conf.schema.TAKES`; less than everything begins at step 0."""

    @property
    def taken(self) -> str:
        """What was taken over, in words."""
        return {"ema": "averaged weights"}.get(self.take, self.take.replace(",", " and "))

    @classmethod
    def of(cls, path: Path) -> Parent:
        """The starting point that an undamaged checkpoint gives."""
        return cls(str(path), step_of(path), recorded_digest(path) or "")


@dataclass(frozen=True)
class Begun:
    """What `start.json` holds: the `resume` of the command line, and the branch's parent."""

    resume: str
    parent: Parent | None = None

    @classmethod
    def read(cls, folder: RunFolder) -> Begun | None:
        """None if the run was begun from nothing, or before this was written down.

        Raises `UserError` if what is written there makes no sense.
        """
        try:
            record = read_object(folder.start)
        except Missing:
            return None
        except Unreadable as error:
            raise _damaged(folder, error.reason) from None
        resume, parent = record.get("resume"), record.get("parent")
        if not isinstance(resume, str) or "\0" in resume:
            raise _damaged(folder, "resume is missing or wrong")
        if parent is not None and not is_parent(parent):
            raise _damaged(folder, "parent is missing or wrong")
        return cls(resume, Parent(**parent) if parent else None)

    def write(self, folder: RunFolder) -> None:
        write_text(folder.start, json.dumps(asdict(self), indent=2) + "\n")

    def is_by(self, resume: str, runs_dir: str) -> bool:
        """Whether a command with this `resume` has begun it: the same branch of the same file."""
        if self.parent is None:
            return resume == self.resume
        same_file = os.path.realpath(resume) == os.path.realpath(self.parent.path)
        if resume != self.resume and not same_file:
            return False
        try:
            target = resume_target(resume, runs_dir)
        except UserError:  # the parent may have gone on, and deleted it
            return True
        return not is_there(target) or recorded_digest(target) in (None, self.parent.sha256)


def is_parent(value: Any) -> bool:
    """Whether this plain value describes the checkpoint that a branch has left."""
    if not isinstance(value, dict):
        return False
    value = {"take": EVERYTHING, **value}  # older versions took nothing less
    return (
        value.keys() == {"path", "step", "sha256", "take"}
        and value["take"] in TAKES
        and isinstance(value["path"], str)
        and "\0" not in value["path"]
        and isinstance(value["sha256"], str)
        and type(value["step"]) is int
        and 0 <= value["step"] < 1 << 63
    )


def _damaged(folder: RunFolder, reason: str) -> UserError:
    return UserError(
        f"{folder.start} is damaged ({reason}): it says from which checkpoint this run was "
        "begun. Move it away, and resume=CHECKPOINT begins that branch again; a run that "
        "is no branch goes on without it"
    )
