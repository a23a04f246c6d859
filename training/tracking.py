"""Weights & Biases: whether to use it, and the identity of a run across restarts."""

from __future__ import annotations

import netrc
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import wandb

from conf.schema import WandbConf
from models.files import write_text

TRAIN_AXES = {"train/*": "trainer/global_step", "val/*": "trainer/global_step"}
PROBE_AXES = {"probe/*": "context_length"}


def has_login() -> bool:
    """Whether wandb would find a key: in its settings, its environment or the netrc file."""
    settings = wandb.setup().settings
    if settings.api_key:
        return True
    host = urlparse(settings.base_url).hostname or ""
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def wandb_mode(conf: WandbConf) -> str:
    """`auto` becomes `online` with a login and `offline` without; the rest stays."""
    if conf.mode != "auto":
        return conf.mode
    return "online" if has_login() else "offline"


def run_id(folder: Path, name: str) -> str:
    """The run's wandb id, made once and kept in its folder, so that a restart continues it."""
    path = folder / "wandb" / f"{name}.id"
    if not path.is_file():
        write_text(path, secrets.token_hex(4) + "\n")
    return path.read_text().strip()


def wandb_settings(
    conf: WandbConf, folder: Path, name: str, group: str | None, job_type: str
) -> dict[str, Any]:
    """Keyword arguments of `wandb.init` (and of Lightning's `WandbLogger`)."""
    return {
        "project": conf.project,
        "entity": conf.entity,
        "name": name,
        "id": run_id(folder, name),
        "group": group,
        "job_type": job_type,
        "tags": list(conf.tags),
        "dir": str(folder),
        "mode": wandb_mode(conf),
        "resume": "allow",
        "settings": wandb.Settings(silent=True, console="off"),
    }


def define_axes(run: Any, axes: dict[str, str]) -> None:
    """Declare which metric is the x axis of which, so that curves need no set-up."""
    for axis in dict.fromkeys(axes.values()):
        run.define_metric(axis)
    for metric, axis in axes.items():
        run.define_metric(metric, step_metric=axis)
