"""Where a start of a run begins: at its own newest checkpoint, at another one, or from nothing.

`start.json` in the run folder (`training.run_folder.begun`) says how what lies there was begun. The
same command later finds itself there, and so continues where it was interrupted.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from conf.schema import EVERYTHING, OptimConf, TrainConf, decay_steps
from core.errors import UserError, shown
from core.files import damage, manifest_path, recorded_digest
from models.formats.run_checkpoints import is_there
from training.checkpoints.find import newest, saved, step_of
from training.checkpoints.frozen import recorded_tuning, tuning_of
from training.run_folder.begun import Begun, Parent
from training.run_folder.folder import RunFolder, resume_target

log = logging.getLogger("crossover")

START_AGAIN = "resume=never starts again and keeps the old folder aside"

Read = Callable[[Path, bool], dict[str, Any]]


@dataclass(frozen=True)
class Start:
    """What a start reads, and what it leaves."""

    path: Path | None
    """The checkpoint to continue from; None to begin from nothing."""
    content: dict[str, Any] | None = None
    """What is in it."""
    parent: Parent | None = None
    """Set where a branch begins: `path` is not the latest that this run has written."""
    all_damaged: bool = False
    """Nothing of the run's own can be trusted, and `resume=never` may put it aside."""


def is_finished(folder: RunFolder, max_steps: int, resume: str, runs_dir: str) -> bool:
    """Whether there is nothing to do for this `resume`: a new branch of a finished run is work."""
    summary = folder.summary()
    if summary is None or (summary["steps"] < max_steps and not summary.get("ended_early")):
        return False
    if resume in ("auto", "never") or _is_own(folder, resume, runs_dir):
        return True
    begun = Begun.read(folder)
    return begun is not None and begun.is_by(resume, runs_dir)


def goes_on(folder: RunFolder) -> bool:
    """Whether `resume=never` has begun what lies there, and was interrupted."""
    begun = Begun.read(folder)
    return begun is not None and begun.resume == "never" and folder.summary() is None


def choose(resume: str, folder: RunFolder, runs_dir: str, read: Read) -> Start:
    """The undamaged checkpoint to start from.

    `resume` is auto, never, a checkpoint's path, or a run: its name, GROUP/NAME or folder. `read`
    gives what is in one, for a branch or not, and raises `UserError` if that cannot be restored.
    This is the one place where a resuming run hashes a checkpoint. Raises `UserError` if what was
    asked for is not there or cannot be trusted.
    """
    begun = Begun.read(folder)
    contents: dict[Path, dict[str, Any]] = {}

    def problem_of(path: Path, branch: bool) -> str | None:
        if (problem := damage(path)) is not None:
            return problem
        try:
            contents[path] = read(path, branch)
        except UserError as error:
            return str(error)
        return None

    def newest_here() -> Start:
        path = newest(folder, partial(problem_of, branch=False), START_AGAIN)
        if path is None:
            return Start(None)
        # A branch of its own checkpoints that has not saved anything yet begins again.
        is_parent = begun and begun.parent and recorded_digest(path) == begun.parent.sha256
        return Start(path, contents[path], begun.parent if begun and is_parent else None)

    if resume == "never":
        try:
            return newest_here()
        except UserError as error:
            log.warning("%s", error)
            return Start(None, all_damaged=True)
    if resume == "auto" or _is_own(folder, resume, runs_dir):
        if (start := newest_here()).path is not None:
            return start
        if begun is None or begun.parent is None or begun.parent.take != EVERYTHING:
            return start
        resume = begun.parent.path  # a branch that has not saved anything yet
    elif begun is not None and begun.parent is not None and begun.is_by(resume, runs_dir):
        start = newest_here()
        if start.path is not None and step_of(start.path) > begun.parent.step:
            return start
    target = resume_target(resume, runs_dir)
    path: Path | None = target
    if not is_there(target):
        path = newest(RunFolder(target), partial(problem_of, branch=True))
    elif problem := problem_of(target, branch=True):
        raise UserError(f"checkpoint {target}: {problem}")
    if path is None:
        raise UserError(f"resume={resume}: {target} has no checkpoint yet: train it first")
    return Start(path, contents[path], Parent.of(path))


def check_optimizer(path: Path, content: dict[str, Any], conf: TrainConf) -> None:
    """Raise `UserError` if the checkpoint has the state of another kind of optimizer."""
    recorded = content["crossover"].get("run", {}).get("optim.name", "adamw")
    if recorded != conf.optim.name:
        raise UserError(
            f"{path} has the state of {shown(recorded, 40)}, and optim.name={conf.optim.name}: "
            f"from={path} take=weights begins a new optimizer"
        )


def check_branch(path: Path, content: dict[str, Any], conf: TrainConf) -> None:
    """Raise `UserError` if a branch has another optimizer, trains other parts of the model, or
    would raise the rate again after a decay of `schedule=wsd`.

    What the latter reaches is neither the trunk's next part nor a point of its curve.
    """
    check_optimizer(path, content, conf)
    if recorded_tuning(content) != tuning_of(conf.tune):
        raise UserError(
            f"{path} is of a training of other parts of the model than tune={conf.tune.mode} with "
            f"these settings trains: from={path} take=weights begins anew with its weights"
        )
    ours = content["crossover"]
    before = ours.get("run", {})
    last = ours["ledger"]["max_steps"]
    if before.get("optim.schedule") != "wsd" or conf.optim.schedule != "wsd" or last is None:
        return
    keys = ("decay_steps", "decay_share")
    decay = decay_steps(last, OptimConf(**{key: before.get(f"optim.{key}", 0) for key in keys}))
    if decay and content["global_step"] > (first := last - decay):
        steps = map(step_of, saved(RunFolder(path.parent.parent)))
        there = [str(step) for step in steps if step <= first]
        raise UserError(
            f"{path}: its schedule has begun to decay at step {first}. Start from a checkpoint of "
            f"step {first} or before (there are: {', '.join(there) or 'none'}), with take=weights, "
            "or with another optim.schedule"
        )


def count_batches(content: dict[str, Any], accumulate: int) -> None:
    """Make a checkpoint count micro-batches as if each of its steps had had `accumulate` of them.

    By their number Lightning knows when a step is complete and a validation is due, which a branch
    with another `trainer.accumulate_grad_batches` would otherwise do at other steps.
    """
    progress = content["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for part in (progress["total"], progress["current"]):
        more = content["global_step"] * accumulate - part["ready"]
        part.update({key: count + more for key, count in part.items()})


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
        begun = Begun.read(folder)  # with the weights of from=, if it has taken any over
        Begun(resume, begun.parent if begun else None).write(folder)
    elif start.path is not None:
        for path in saved(folder):
            if step_of(path) > step_of(start.path):
                # Give a damaged checkpoint a name by which nobody takes it for the newest.
                number = 1
                while os.path.lexists(aside := path.with_name(f"{path.name}.damaged-{number}")):
                    number += 1
                manifest = manifest_path(path)
                if os.path.lexists(manifest):
                    manifest.rename(aside.with_name(f"{manifest.name}.damaged-{number}"))
                path.rename(aside)
                log.warning("checkpoint %s is now %s", path, aside.name)


def _set_aside(folder: RunFolder, paths: list[Path]) -> None:
    """Move checkpoints to NAME.old-K, with copies of what else belongs to them."""
    if not paths:
        return
    aside = RunFolder(folder.aside())
    aside.checkpoints.mkdir(parents=True)
    beside = (folder.config, folder.tokenizer, folder.metrics, folder.start, folder.summary_path)
    for path in (*beside, folder.frozen, manifest_path(folder.frozen)):
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
