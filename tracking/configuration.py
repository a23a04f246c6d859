"""A training's recorded configuration as dotted keys, as wandb's records and reports show it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

from conf.schema import ADDED, HOUSEKEEPING, RENAMED, TrainConf, is_in
from core.parsing import current_names


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def today(recorded: dict[str, Any]) -> dict[str, Any]:
    """A recorded configuration, by dotted key, as this version would have recorded it.

    Keys have their present names. One that did not exist yet has its default, which is always what
    was done before there was a choice; so a new key does not make an old run another one.
    """
    usual = {key: value for key, value in flatten(asdict(TrainConf())).items() if key in ADDED}
    return usual | current_names(recorded, RENAMED)


def setting_of(described: dict[str, Any]) -> str:
    """`rwkv4 5m 1c9a06de`: equal for trainings that differ in nothing but the seed.

    `described` is a configuration by dotted key, model included.
    """
    kept = {
        key: value
        for key, value in described.items()
        if key != "seed" and not is_in(key, HOUSEKEEPING)
    }
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()
    return f"{described['model.name']} {described['model.size']} {digest[:8]}"
