"""Which models a sweep measures: freshly initialised ones, or those in files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from conf.schema import ProbeConf
from core.errors import UserError
from models.registry import ModelSpec
from scripts.cli.model_spec import model_spec


def probed_models(confs: Sequence[ProbeConf]) -> list[ModelSpec]:
    """The model of each job; where they come from files, `vocab_size` becomes theirs.

    Raises `UserError` if a file cannot be read, or if two have different vocabularies: models must
    read the same tokens.
    """
    specs = [
        model_spec(conf.model, conf.vocab_size) if conf.run is None else _trained(conf)
        for conf in confs
    ]
    sizes = {spec.config["vocab_size"]: conf.run for spec, conf in zip(specs, confs, strict=True)}
    if len(sizes) > 1:
        named = ", ".join(f"{run} {size:,}" for size, run in sizes.items())
        raise UserError(f"these have vocabularies of different sizes ({named}): measure them apart")
    for conf in confs:
        (conf.vocab_size,) = sizes
    return specs


def probed_model(conf: ProbeConf) -> ModelSpec:
    """The model of one job, as far as its sizes go. Raises `UserError` if its file has none."""
    if conf.run is None:
        return model_spec(conf.model, conf.vocab_size)
    from probes.trained import model_of
    from training.run_folder.folder import find_place

    return model_of(find_place("run", conf.run, conf.runs_dir))


def _trained(conf: ProbeConf) -> ModelSpec:
    from models.formats.run_checkpoints import PATTERN, step_of
    from probes.trained import trained
    from training.checkpoints.weights_source import find_source

    assert conf.run is not None
    path = find_source("run", conf.run, conf.runs_dir).weights
    name = Path(conf.run).name
    if PATTERN.fullmatch(path.name):
        name = f"{path.parent.parent.name}@{step_of(path)}"
    return trained(path, name)


def word_problems(words: Sequence[str]) -> list[str]:
    """What is wrong with the words of a sweep that name files."""
    keys = [word.partition("=")[0] for word in words]
    own = [key for key in keys if key in ("model", "vocab_size") or key.startswith("model.")]
    if "run" not in keys or not own:
        return []
    return [f"{', '.join(own)}: the models of run= have their own sizes and options: leave it out"]
