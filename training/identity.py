"""Which run is this? What must stay the same for a folder or a checkpoint to be continued."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from conf.schema import TrainConf
from models.errors import UserError
from models.registry import ModelSpec
from training.folder import RunFolder

# What may differ between the start of a run and its continuation; anything else is another run.
CHANGEABLE = (
    "trainer.max_steps",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.strategy",
    "trainer.offload",
    "trainer.sequence_parallel",
    "training.log_every",
    "training.val_every",
    "training.val_windows",
    "training.on_nan",
    "training.progress",
    "training.gradient_checkpointing",
    "checkpoint.",
    "wandb.",
    "data.workers",
    "data.cache_dir",
    "data.verify",
    "data.markup",
    "data.paths",  # the corpus's fingerprint decides
    "resume",
    "runs_dir",
    "model.config.vocab_size",  # decided by the corpus
)


def describe(conf: TrainConf, spec: ModelSpec) -> dict[str, Any]:
    """The whole configuration as plain values: what `config.yaml` holds."""
    return {**asdict(conf), "model": asdict(spec)}


def check_same_run(folder: RunFolder, described: dict[str, Any]) -> None:
    """Raise `UserError` if the folder belongs to a run with another configuration."""
    if not folder.config.is_file():
        return
    try:
        before = flatten(yaml.safe_load(folder.config.read_text()))
    except (yaml.YAMLError, ValueError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{folder.config} is damaged or not a run's configuration ({reason})"
        ) from None
    now = flatten(described)
    different = [
        f"{key}={before.get(key)!r} then, {now.get(key)!r} now"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key) and not key.startswith(CHANGEABLE)
    ]
    if different:
        raise UserError(
            f"{folder.path} was started with another configuration ({'; '.join(different)}). "
            "Choose another name=, or resume=never to start again (the old folder is kept aside)"
        )


def check_checkpoint(path: Path, content: dict[str, Any], identity: dict[str, Any]) -> int:
    """The optimizer step of a checkpoint that this run may continue from.

    Raises `UserError` if it belongs to another model or corpus.
    """
    found = content["crossover"].get("identity", {})
    theirs, ours = flatten(found.get("model", {})), flatten(identity["model"])
    different = [
        f"model.{key}={theirs.get(key)!r} there, {ours.get(key)!r} here"
        for key in sorted({*theirs, *ours})
        if theirs.get(key) != ours.get(key) and key != "size"
    ]
    if found.get("data") != identity["data"]:
        different.append("another corpus or tokenizer")
    if different:
        raise UserError(f"checkpoint {path} belongs to another run: {'; '.join(different)}")
    return int(content["global_step"])


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
