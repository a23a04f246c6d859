"""Where a start of a run begins: at its own newest checkpoint, at another one, or from nothing.

`start.json` in the run folder says how what lies there was begun, when that was not by plain
`resume=auto`: with which `resume`, and from which checkpoint. The same command later finds itself
there, and so continues where it was interrupted.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from models.errors import UserError
from models.files import damage, manifest_path, write_text
from training.checkpoint import newest, saved, step_of
from training.folder import RunFolder, resume_target

log = logging.getLogger("crossover")


@dataclass(frozen=True)
class Parent:
    """The checkpoint that a branch leaves, as it was then."""

    path: str
    step: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Parent:
        """Of an undamaged checkpoint."""
        return cls(str(path), step_of(path), _digest(path) or "")


@dataclass(frozen=True)
class Begun:
    """What `start.json` holds: the `resume` of the command line, and the branch's parent."""

    resume: str
    parent: Parent | None = None

    @classmethod
    def read(cls, folder: RunFolder) -> Begun | None:
        """None if the run was begun from nothing, or before this was written down."""
        try:
            found = json.loads(folder.start.read_text())
            parent = found["parent"]
            return cls(str(found["resume"]), Parent(**parent) if parent else None)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def write(self, folder: RunFolder) -> None:
        write_text(folder.start, json.dumps(asdict(self), indent=2) + "\n")

    def is_by(self, resume: str, runs_dir: str) -> bool:
        """Whether a command with this `resume` has begun it: the same branch of the same file."""
        if self.parent is None:
            return resume == self.resume
        same_file = Path(resume).resolve() == Path(self.parent.path).resolve()
        if resume != self.resume and not same_file:
            return False
        try:
            target = resume_target(resume, runs_dir)
        except UserError:  # the parent may have gone on, and deleted it
            return True
        return not target.is_file() or _digest(target) in (None, self.parent.sha256)


@dataclass(frozen=True)
class Start:
    """What a start reads, and what it leaves."""

    path: Path | None
    """The checkpoint to continue from; None to begin from nothing."""
    parent: Parent | None = None
    """Set where a branch begins: `path` is not the latest that this run has written."""
    all_damaged: bool = False
    """Nothing of the run's own can be trusted, and `resume=never` may put it aside."""


def is_finished(folder: RunFolder, max_steps: int, resume: str, runs_dir: str) -> bool:
    """Whether there is nothing to do for this `resume`: a new branch of a finished run is work."""
    summary = folder.summary()
    if summary is None or summary["steps"] < max_steps:
        return False
    begun = Begun.read(folder)
    return (
        resume in ("auto", "never")
        or (begun is not None and begun.is_by(resume, runs_dir))
        or _is_own(folder, resume, runs_dir)
    )


def goes_on(folder: RunFolder) -> bool:
    """Whether `resume=never` has begun what lies there, and was interrupted."""
    begun = Begun.read(folder)
    return begun is not None and begun.resume == "never" and folder.summary() is None


def choose(resume: str, folder: RunFolder, runs_dir: str) -> Start:
    """The undamaged checkpoint to start from.

    `resume` is auto, never, a checkpoint's path, or a run: its name, GROUP/NAME or folder. This is
    the one place where a resuming run hashes a checkpoint. Raises `UserError` if what was asked
    for is not there or cannot be trusted.
    """
    begun = Begun.read(folder)
    if resume == "never":
        try:
            return Start(newest(folder))
        except UserError as error:
            log.warning("%s", error)
            return Start(None, all_damaged=True)
    if resume == "auto" or _is_own(folder, resume, runs_dir):
        if (own := newest(folder)) is not None:
            return Start(own)
        if begun is None or begun.parent is None:
            return Start(None)
        resume = begun.parent.path  # a branch that has not saved anything yet
    elif begun is not None and begun.parent is not None and begun.is_by(resume, runs_dir):
        own = newest(folder)
        if own is not None and step_of(own) > begun.parent.step:
            return Start(own)
    target = resume_target(resume, runs_dir)
    path = target if target.is_file() else newest(RunFolder(target))
    if path is None:
        raise UserError(f"resume={resume}: {target} has no checkpoint yet: train it first")
    if target.is_file() and (problem := damage(path)):
        raise UserError(f"checkpoint {path}: {problem}")
    return Start(path, Parent.of(path))


def begin(start: Start, resume: str, folder: RunFolder) -> None:
    """Make the folder one of this start: what another branch has written goes aside."""
    if start.all_damaged:
        _set_aside(folder, saved(folder))
    if start.parent is not None:
        assert start.path is not None
        is_own = start.path.resolve().parent == folder.checkpoints.resolve()
        stay = start.parent.step if is_own else -1
        _set_aside(folder, [path for path in saved(folder) if step_of(path) > stay])
        begun = Begun.read(folder)
        if begun is None or begun.parent != start.parent or begun.resume == "never":
            again = resume if resume != "auto" else start.parent.path
            Begun(again, start.parent).write(folder)
    elif resume == "never" and start.path is None:
        Begun(resume).write(folder)


def _set_aside(folder: RunFolder, paths: list[Path]) -> None:
    """Move checkpoints to NAME.old-K, with copies of what else belongs to them."""
    if not paths:
        return
    aside = RunFolder(folder.aside())
    aside.checkpoints.mkdir(parents=True)
    beside = (folder.config, folder.tokenizer, folder.metrics, folder.start, folder.summary_path)
    for path in beside:
        if path.is_file():
            shutil.copy2(path, aside.path)
    for path in paths:  # never at its new place without its manifest
        manifest = manifest_path(path)
        if manifest.is_file():
            shutil.copy2(manifest, aside.checkpoints)
        path.rename(aside.checkpoints / path.name)
        manifest.unlink(missing_ok=True)
    if folder.best.is_file():
        shutil.copy2(folder.best, aside.checkpoints)
        folder.best.unlink()
    folder.summary_path.unlink(missing_ok=True)
    log.warning(
        "%s: checkpoints that this start does not continue from are now in %s",
        folder.path,
        aside.path,
    )


def _is_own(folder: RunFolder, resume: str, runs_dir: str) -> bool:
    """Whether `resume` names this very run."""
    if resume in ("auto", "never"):
        return False
    try:
        target = resume_target(resume, runs_dir)
    except UserError:
        return False
    return target.is_dir() and target.resolve() == folder.path.resolve()


def _digest(path: Path) -> str | None:
    """Of a checkpoint's content, as its manifest says."""
    try:
        return str(json.loads(manifest_path(path).read_text())["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
