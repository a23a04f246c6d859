"""All runs below a folder, what became of each, and which began from which.

Only small files and the ends of `metrics.jsonl` are read, and nothing heavy is imported, so that
thousands of runs are listed at once. Checkpoints are believed by their manifests.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

from core.errors import UserError
from core.files import recorded_digest
from core.parsing import Missing, Unreadable, read_yaml
from models.formats import run_checkpoints
from tracking.jsonl import last_rows
from training.run_folder.begun import Begun, Parent
from training.run_folder.folder import RunFolder

CONFIG, FOLDERS = "config.yaml", 2  # of a run; deepest level of a run below runs_dir
MOST_OTHERS = 20_000  # folders that are no runs: looking at them takes a second or two


@dataclass
class Run:
    """What the small files of one run say."""

    name: str
    """NAME or GROUP/NAME, as `from=` takes it."""
    path: Path
    status: str
    """running; finished; ended early: why; interrupted at step N of M; damaged: why."""
    steps: int | None = None
    """Optimizer steps done, as far as they are saved."""
    tokens: int | None = None
    """Read for training, over the whole lineage."""
    val_loss: float | None = None
    """The last one, nats per token."""
    parent: Parent | None = None
    changes: list[dict[str, Any]] = field(default_factory=list)
    """What the lineage trained with from which step on; see `training.run_folder.ledger`."""
    origin: Run | None = None
    """The listed run that the parent is of."""
    children: list[Run] = field(default_factory=list)

    @property
    def is_damaged(self) -> bool:
        return self.status.startswith("damaged")


def read_runs(runs_dir: Path) -> list[Run]:
    """Every run below `runs_dir`, by name, each with its `origin` and `children`.

    A run whose files cannot be read is listed as damaged. Raises `UserError` if there is no such
    folder, or a large one of other things.
    """
    if not runs_dir.is_dir():
        raise UserError(f"runs_dir={runs_dir}: no such folder; there are no runs")
    runs = [read_run(runs_dir, path) for path in _folders(runs_dir)]
    by_path = {run.path.resolve(): run for run in runs}
    # A folder may have been renamed since: the bytes of a checkpoint say whose it is.
    by_digest = {
        digest: run
        for run in runs
        if not run.is_damaged
        for path in run_checkpoints.saved(run.path)
        if (digest := recorded_digest(path))
    }
    for run in runs:
        if run.parent is None:
            continue
        source = Path(os.path.abspath(run.parent.path))  # noqa: PTH100 (links are the user's)
        place = None
        with suppress(OSError, RuntimeError, ValueError):  # a name too long, links in a circle
            place = by_path.get(source.parent.parent.resolve())
        origin = place or by_digest.get(run.parent.sha256)
        if origin is not None and run not in ancestors(origin):
            run.origin = origin
            origin.children.append(run)
    return runs


def ancestors(run: Run) -> Iterator[Run]:
    """The run, the one it began from, and so on."""
    while True:
        yield run
        if run.origin is None:
            return
        run = run.origin


def read_run(runs_dir: Path, path: Path) -> Run:
    """What the files of the run in `path` say; its relations are left open."""
    run = Run(str(path.relative_to(runs_dir)), path, "")
    folder = RunFolder(path)
    try:
        max_steps = _max_steps(folder)
        begun = Begun.read(folder)
        run.parent = begun.parent if begun else None
        saved = run_checkpoints.saved(path)
        summary, problem = folder.read_summary()
        if problem:
            raise UserError(problem)
        if summary is not None and (odd := _misfits(summary)):
            raise Unreadable(folder.summary_path, f"{', '.join(odd)}: wrong")
        rows = last_rows(folder.metrics)
    except Unreadable as error:
        run.status = f"damaged: {error.path.name}: {error.reason}"
        return run
    except UserError as error:
        run.status = f"damaged: {str(error).removeprefix(f'{path}{os.sep}')}"
        return run
    if summary is not None:
        early = summary.get("ended_early")
        run.status = f"ended early: {early}" if early else "finished"
        run.steps, run.tokens = summary["steps"], summary.get("tokens")
        run.val_loss, run.changes = summary.get("val_loss"), summary.get("changes") or []
        return run
    run.steps = run_checkpoints.step_of(saved[-1]) if saved else None
    done = "before its first save" if run.steps is None else f"at step {run.steps}"
    run.status = f"interrupted {done}" + (f" of {max_steps}" if run.steps and max_steps else "")
    if _is_running(folder):
        run.status = "running" + (f", saved {done} of {max_steps}" if run.steps else "")
    for row in rows:
        run.tokens = row.get("train/tokens") or run.tokens
        run.val_loss = row.get("val/loss") or run.val_loss
    return run


def _misfits(summary: dict[str, Any]) -> list[str]:
    """Fields of a summary that are not of their type."""
    changes = summary.get("changes") or []
    fits = {
        "ended_early": isinstance(summary.get("ended_early"), str | None),
        "tokens": type(summary.get("tokens")) in (int, NoneType),
        "val_loss": type(summary.get("val_loss")) in (float, int, NoneType),
        "changes": isinstance(changes, list) and all(map(_is_change, changes)),
    }
    return [name for name, holds in fits.items() if not holds]


def _is_change(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {"step", "changed"}:
        return False
    changed = value["changed"]
    return (
        isinstance(changed, dict)
        and type(value["step"]) is int
        and all(isinstance(pair, list) and len(pair) == 2 for pair in changed.values())
    )


def is_there(run: Run) -> bool:
    """Whether what the run began from, if anything, is still where it was."""
    return run.parent is None or os.path.exists(run.parent.path)  # noqa: PTH110


def _folders(folder: Path) -> Iterator[Path]:
    """Folders of runs, by name: each has a configuration or checkpoints.

    Raises `UserError` where so many others are there that somebody else's folder must be meant.
    """
    waiting, others = [(folder, 0)], 0
    while waiting:
        path, depth = waiting.pop()
        if depth and (os.path.lexists(path / CONFIG) or (path / run_checkpoints.FOLDER).is_dir()):
            yield path
            continue
        others += 1
        if others > MOST_OTHERS:
            raise UserError(
                f"runs_dir={folder}: more than {MOST_OTHERS:,} folders in it are no runs; name the "
                "folder that the runs and groups are in"
            )
        if depth < FOLDERS:
            with suppress(OSError):
                below = sorted((each for each in path.iterdir() if each.is_dir()), reverse=True)
                waiting += [(each, depth + 1) for each in below]


def _max_steps(folder: RunFolder) -> int | None:
    """What the configuration asks for. Raises `Unreadable`."""
    try:
        trainer = read_yaml(folder.config).get("trainer")
    except Missing:
        return None
    steps = trainer.get("max_steps") if isinstance(trainer, dict) else None
    if type(steps) is not int:
        raise Unreadable(folder.config, "trainer.max_steps is missing or wrong")
    return steps


def _is_running(folder: RunFolder) -> bool:
    """Whether another process owns it; its record lock is only looked at."""
    try:
        file = os.open(folder.lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        os.lockf(file, os.F_TEST, 0)
    except OSError:
        return True
    finally:
        os.close(file)
    return False
