"""Trainings that share their steps before the decay: `trunk=NAME`, with `schedule=wsd`.

The steps of `schedule=wsd` before its decay do not depend on where it ends. Trainings of several
budgets therefore need them only once: the trunk, a run of its own, goes as far as the longest one,
and each of them is a branch of it that holds only its decay (Hu et al. 2024, arXiv 2404.06395,
section 4.1; Hägele et al. 2024, arXiv 2405.18392). A branch ends in the bits that a training from
scratch would have ended in.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from conf.schema import TrainConf
from core.errors import UserError
from models.registry import ModelSpec
from training.checkpoints.find import saved, step_of
from training.loop.schedules import decay_start
from training.run import train
from training.run_folder.folder import RunFolder
from training.run_folder.lock import Busy

log = logging.getLogger("crossover")

GLANCE = 1.0  # seconds between looks at whether another process has finished the trunk
Summary = dict[str, Any] | None


def after_trunk(conf: TrainConf, spec: ModelSpec) -> TrainConf:
    """Train the run `conf.trunk` to where the decay of `conf` begins; `conf` as its branch.

    Where another process is training the trunk, this one waits for it first.
    A training that has left its trunk already needs it no more, and does without. Raises as
    `training.run.train` does, and `UserError` if the trunk has no checkpoint of that step.
    """
    start = decay_start(conf.trainer.max_steps, conf.optim)
    folder = RunFolder.of(conf.runs_dir, conf.group, str(conf.name))
    if not saved(folder) and folder.summary() is None:
        trunk = replace(
            conf,
            name=conf.trunk,
            trunk=None,
            resume="auto",
            optim=replace(conf.optim, decay_steps=0, decay_share=0.0),
            trainer=replace(conf.trainer, max_steps=start),
            training=replace(conf.training, patience=0, target_loss=0.0, prune="never"),
        )
        shared = RunFolder.of(conf.runs_dir, conf.group, str(conf.trunk))
        try:
            summary = _once_free(lambda: train(trunk, spec, shared), shared)
        except UserError as error:
            raise UserError(f"trunk={conf.trunk}: {error}; or give another trunk=") from None
        if start not in (steps := [step_of(path) for path in saved(shared)]):
            raise UserError(
                f"trunk={conf.trunk}: {shared.path} has no checkpoint of step {start}, where the "
                f"decay to trainer.max_steps={conf.trainer.max_steps} would begin: "
                + _why(summary or {}, start, steps)
            )
    place = "/".join(filter(None, [conf.group, conf.trunk]))
    return replace(conf, init_from=f"{place}@{start}")


def _once_free(work: Callable[[], Summary], folder: RunFolder) -> Summary:
    """What `work` returns, once no other process works on the run in `folder`: branches that are
    started at the same time need the trunk one after the other."""
    told = False
    while True:
        try:
            return work()
        except Busy:
            if not told:
                log.warning("%s: another process is training it; waiting for that", folder.path)
            told = True
            time.sleep(GLANCE)


def _why(summary: dict[str, Any], start: int, steps: list[int]) -> str:
    """Why a trunk with this summary has no checkpoint of step `start`, and the way out."""
    if (ended := summary.get("steps", start)) < start:
        return f"it ended at step {ended} ({summary.get('ended_early')}): give another trunk="
    if not steps:
        return "its checkpoints are gone: bring them back, or give another trunk="
    kept = ", ".join(map(str, steps))
    return (
        f"it has gone further and keeps its steps {kept}: give budgets in growing order, or "
        "another trunk="
    )
