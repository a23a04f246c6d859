"""The run folder: its name is the run's identity, and everything about the run lies in it.

runs/[GROUP/]NAME/
    config.yaml      what was asked for
    checkpoints/     step-00000100.ckpt (a folder, if sharded) with its manifest, as many as are
                     kept; best.json
    metrics.jsonl    every number that was logged
    samples.jsonl    texts that the model wrote, with training.sample_every
    alignment.svg    where the last of them reads its source, of models that align
    summary.json     written when the run has finished
    start.json       how it was begun, if by resume=never or from another checkpoint
    frozen.safetensors  the weights that stay as they are, with tune=lora or tune=state
    wandb/           the Weights & Biases id, and the records (with a group: in runs/GROUP/wandb/)
    lock             who is working on it, as long as somebody is
"""

from __future__ import annotations

import glob
import json
import logging
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.files import own_digest, recorded_digest, remove, sweep, write_text
from core.parsing import Missing, Unreadable, read_object, regular
from data.readers.sources import kernel_devices
from models.formats import run_checkpoints

log = logging.getLogger("crossover")

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
LONGEST_NAME = 200  # file systems take 255, and set-aside names are longer


def check_name(key: str, name: str) -> str:
    """`name` if it can name one folder. Raises `UserError` otherwise."""
    if not NAME.fullmatch(name):
        raise UserError(
            f"{key}={name!r} is not a folder name: use letters, digits, '.', '_' and '-' "
            "(runs of one sweep go together with group=...)"
        )
    if len(name) > LONGEST_NAME:
        raise UserError(f"{key}={name[:40]}...: a name may have {LONGEST_NAME} characters")
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
    def frozen(self) -> Path:
        return self.path / run_checkpoints.FROZEN

    @property
    def summary_path(self) -> Path:
        return self.path / "summary.json"

    def check(self) -> None:
        """Raise `UserError` if where the run keeps a file there is something that is none, or
        where it keeps a folder something else."""
        files = self.config, self.metrics, self.tokenizer, self.start, self.summary_path
        for path in (*files, self.frozen):
            self._must_be_file(path)
        for path in (self.checkpoints, self.path / "wandb"):
            if os.path.lexists(path) and not path.is_dir():
                raise UserError(f"{path} is not a folder: move it away, and the run goes on")
        self._must_be_file(self.best)

    def _must_be_file(self, path: Path) -> None:
        try:
            with regular(path):
                pass
        except Missing:
            pass
        except Unreadable as error:
            raise UserError(f"{error}: move it away, and the run goes on") from None

    def summary(self) -> dict[str, Any] | None:
        """The summary of a finished run, or None. One that cannot be read, was changed or is of
        another run's checkpoint causes a warning, and will be written again. Raises `UserError`
        where something else than a file is in its place."""
        self._must_be_file(self.summary_path)
        content, problem = self.read_summary()
        if problem:
            log.warning("%s: it will be written again", problem)
        return content

    def read_summary(self) -> tuple[dict[str, Any] | None, str]:
        """The summary, None without a sound one; and what is wrong with one that is none."""
        try:
            content = read_object(self.summary_path)
        except Missing:
            return None, ""
        except Unreadable as error:
            return None, str(error)
        steps = content.get("steps")
        if type(steps) is not int or steps < 1:
            problem = "steps is missing or wrong"
        elif "sha256" in content and content["sha256"] != own_digest(content):
            problem = "it was changed after it was written"
        elif self._is_of_another(steps, content.get("checkpoint_sha256")):
            problem = "it is not of the checkpoint that lies here"
        else:
            return content, ""
        return None, f"{self.summary_path}: {problem}"

    def write_summary(self, summary: dict[str, Any]) -> dict[str, Any]:
        """Write it, with the digest of the newest checkpoint and its own; what was written."""
        paths = run_checkpoints.saved(self.path)
        sealed = {**summary, "checkpoint_sha256": recorded_digest(paths[-1]) if paths else None}
        sealed["sha256"] = own_digest(sealed)
        write_text(self.summary_path, json.dumps(sealed, indent=2) + "\n")
        return sealed

    def _is_of_another(self, steps: int, digest: str | None) -> bool:
        """Whether a run of so many steps cannot have ended in the checkpoints here."""
        paths = run_checkpoints.saved(self.path)
        if digest is None or not paths:
            return False
        newest = run_checkpoints.step_of(paths[-1])
        return newest <= steps and recorded_digest(paths[-1]) != digest

    def sweep(self) -> None:
        """Delete what a killed process was still writing; only for the owner of the run."""
        for folder in (self.path, self.checkpoints):
            sweep(folder)
        for path in self.checkpoints.glob(".*"):
            if run_checkpoints.ASIDE.fullmatch(path.name):
                with suppress(OSError):  # as above: what cannot go is in nobody's way
                    remove(path)
        for path in self.checkpoints.glob("step-*.json"):  # manifests come first and go last
            checkpoint = path.with_suffix(".ckpt")
            is_ours = run_checkpoints.PATTERN.fullmatch(checkpoint.name)
            if is_ours and not os.path.lexists(checkpoint):
                with suppress(OSError):
                    path.unlink()

    def aside(self) -> Path:
        """The first free NAME.old-K beside it."""
        number = 1
        while (aside := self.path.with_name(f"{self.name}.old-{number}")).exists():
            number += 1
        return aside

    def set_aside(self) -> Path | None:
        """Rename an existing folder to NAME.old-K, so that a fresh start loses nothing."""
        return self.path.rename(self.aside()) if self.path.exists() else None


STEP = re.compile(r"(?P<run>.+)@(?P<step>\d+)")  # RUN@STEP


def at_step(key: str, word: str, run: Path, step: int) -> Path:
    """The checkpoint of a run at an optimizer step; lists those that exist in a `UserError`."""
    if not (run / "checkpoints").is_dir():
        raise UserError(f"{key}={word!r}: {run} is no run, so it has no steps")
    paths = run_checkpoints.saved(run)
    for path in paths:
        if run_checkpoints.step_of(path) == step:
            return path
    steps = ", ".join(str(run_checkpoints.step_of(path)) for path in paths) or "none"
    raise UserError(f"{key}={word!r}: {run} has no checkpoint of step {step}; there are: {steps}")


def resume_target(resume: str, runs_dir: str) -> Path:
    """What `resume=` names: a checkpoint file, or a run's folder.

    A run may be named by its folder, or by NAME or GROUP/NAME below `runs_dir`. Raises `UserError`
    for anything else, and for a group, whose runs it lists. RUN@STEP is the checkpoint of a step.
    """
    candidates = (Path(resume), Path(runs_dir, resume))
    if (match := STEP.fullmatch(resume)) and not any(map(os.path.lexists, candidates)):
        run = resume_target(match["run"], runs_dir)
        return at_step("resume", resume, run, int(match["step"]))
    for path in candidates:
        if path.is_file():
            if path.stat().st_dev in kernel_devices():
                raise UserError(
                    f"resume={resume!r} is made up by the kernel while it is read: name a "
                    "checkpoint or a run"
                )
            return path
        if run_checkpoints.is_sharded(path):
            return path
        if path.exists() and not path.is_dir():
            raise UserError(
                f"resume={resume!r} is a pipe, a device or a socket: name a checkpoint or a run"
            )
        if (path / "checkpoints").is_dir():
            return path
    for path in candidates:
        if path.is_dir() and (
            runs := sorted(checkpoints.parent for checkpoints in path.glob("*/checkpoints"))
        ):
            shown = ", ".join(str(run) for run in runs[:8]) + (", ..." if len(runs) > 8 else "")
            raise UserError(f"resume={resume!r} is a group of runs: choose one of {shown}")
    for path in candidates:
        if RunFolder(path).config.is_file():
            raise UserError(
                f"resume={resume!r}: the run {path} has no checkpoint yet; its own command begins "
                "it again"
            )
    raise UserError(f"resume={resume!r}: not auto or never, and no such checkpoint or run")


def find_place(key: str, name: str, runs_dir: str) -> Path:
    """The folder of a run called `name` below `runs_dir`, or the file or directory of that path.

    RUN@STEP is the run's checkpoint of that optimizer step. Raises `UserError`, naming the
    configuration's `key`, if there is none.
    """
    candidates = (Path(runs_dir, name), Path(name))
    if (match := STEP.fullmatch(name)) and not any(map(os.path.lexists, candidates)):
        run = find_place(key, match["run"], runs_dir)
        return at_step(key, name, run, int(match["step"]))
    for path in candidates:
        if (path / "checkpoints").is_dir():
            return path
        if path.is_file() and path.stat().st_dev in kernel_devices():
            raise UserError(f"{key}={name!r} is made up by the kernel while it is read")
    if runs := _runs_of(Path(runs_dir, name)) or _runs_of(Path(name)):
        raise UserError(f"{key}={name!r} is a group of runs: choose {', '.join(runs)}")
    for run in sorted(Path(runs_dir).glob(f"*/{glob.escape(name)}/checkpoints")):
        raise UserError(
            f"{key}={name!r}: no such run in {runs_dir}/; did you mean "
            f"{key}={run.parent.relative_to(runs_dir)}?"
        )
    path = Path(name)
    if path.is_dir() or path.suffix == ".ckpt" or path.is_file():
        return path
    below = Path(runs_dir)
    trained = [path.parent for depth in ("*", "*/*") for path in below.glob(f"{depth}/checkpoints")]
    near = get_close_matches(name, [str(path.relative_to(below)) for path in trained], 1)
    hint = f"; did you mean {key}={near[0]}?" if near else ""
    if os.path.lexists(path):
        kind = "a link that leads nowhere" if not path.exists() else "a pipe, a device or a socket"
        raise UserError(f"{key}={name!r} is {kind}: name a run, or a file or folder of weights")
    raise UserError(f"{key}={name!r}: no such run in {runs_dir}/ and no such file or folder{hint}")


def _runs_of(group: Path) -> list[str]:
    """The trained runs in a folder, as their names are given."""
    return sorted(
        f"{group.name}/{checkpoints.parent.name}" for checkpoints in group.glob("*/checkpoints")
    )
