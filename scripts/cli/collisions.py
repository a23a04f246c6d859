"""Finds jobs of a multirun that would use one folder, or a sweep that holds one of them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from conf.schema import HOUSEKEEPING, is_in
from scripts.cli.arguments import expanded
from training.run_folder.naming import default_name

PLACING = ("name", "group", "runs_dir", "resume")
"""Keys that say which run it is, or where it lies."""
TOGETHER = ("probe", "repeatability", "busy", "torture", "demo")  # their jobs are one sweep


def collision_problems(
    config_name: str, overrides: list[Override], configs: list[DictConfig]
) -> list[str]:
    """Why the jobs of a multirun cannot stand side by side; empty if they can."""
    if len(configs) < 2:
        return []
    swept = [override.key_or_group for override in overrides if override.is_sweep_override()]
    if config_name in TOGETHER:
        return [
            f"{name}= cannot be swept: {config_name}.py measures all models in one sweep; "
            "run it once for each value, with a group= of its own"
            for name in swept
            if name.split(".")[0] not in ("model", "run")  # all read the same
        ]
    if config_name != "train":
        return []
    jobs = Counter(folder_of(expanded(OmegaConf.to_object(config))) for config in configs)
    shared = next((folder for folder, count in jobs.items() if count > 1), None)
    if shared is None:
        return []
    named = [override for override in overrides if override.key_or_group == "name"]
    if not named and (idle := [key for key in swept if is_idle(key)]):
        return [
            f"{idle[0]}= decides nothing about what a run ends in, so its runs would be the same: "
            "give it one value"
        ]
    if named:
        return [
            f"name={named[0].value()} would name every run of {', '.join(swept)}; "
            "for a folder around them use group="
        ]
    return [
        f"{jobs[shared]} jobs would have the folder {shared}: give them names that tell them "
        f"apart, as in 'name=a-${{{swept[-1] if swept else 'seed'}}}'"
    ]


def is_idle(key: str) -> bool:
    """Whether runs that differ in nothing but this key end in the same bits."""
    return is_in(key, [place for place in HOUSEKEEPING if place not in PLACING])


def folder_of(conf: Any) -> str:
    """The folder of a training, as `scripts/train.py` chooses it."""
    name = conf.name or default_name(conf, conf.model["name"], str(conf.model["size"]))
    return "/".join(filter(None, (conf.runs_dir, conf.group, name)))
