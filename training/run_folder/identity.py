"""Which run is this? What must stay the same for a folder or a checkpoint to be continued."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from conf.schema import COUNTED, EVERYTHING, READING, RENAMED, TrainConf
from core.errors import UserError, shown
from core.parsing import Missing, Unreadable, current_names, read_yaml
from core.precision import AUTO
from models.meta import build_meta
from models.registry import ModelSpec, model_class
from tracking.configuration import flatten, today
from training.run_folder.folder import RunFolder

log = logging.getLogger("crossover")

SHOWN = 8  # differences that a message names
PATH = 400  # characters of a path that it shows
NAMES = ("name", "group")  # of a run, which decide nothing
TOKENIZER = "tokenizer's fingerprint"  # the key under which a checkpoint holds it

# What may differ between the start of a run and its continuation; anything else is another run.
CHANGEABLE = (
    "trainer.max_steps",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.strategy",
    "trainer.offload",
    "trainer.sequence_parallel",
    "trainer.compile",
    "trainer.log_every_n_steps",
    "trainer.val_check_interval",
    "training.val_windows",
    "training.on_nan",
    "training.profile",
    "training.sample_",
    "loggers",
    "trainer.enable_progress_bar",
    "training.gradient_checkpointing",
    "checkpoint.",
    "wandb.",
    "data.workers",
    "data.cache_dir",
    "data.verify",
    *READING,  # the corpus's fingerprint decides
    "data.parts",
    "data.validation",
    "objective",
    "resume",
    "runs_dir",
    *COUNTED,
    "model.config.vocab_size",  # decided by the corpus
)


def describe(conf: TrainConf, spec: ModelSpec) -> dict[str, Any]:
    """The whole configuration as plain values: what `config.yaml` holds."""
    return {**asdict(conf), "model": asdict(spec)}


def deciding(described: dict[str, Any]) -> dict[str, Any]:
    """What of a configuration decides the bits that training ends in, besides the model: by dotted
    key. A checkpoint holds it, and only a run with the same continues from it by itself."""
    return {
        key: value
        for key, value in flatten(described).items()
        if key not in NAMES and not key.startswith((*CHANGEABLE, "model."))
    }


# What changes neither the weights nor the figures of a training.
WITHOUT_EFFECT = (
    "trainer.log_every_n_steps", "trainer.enable_progress_bar", "checkpoint.", "wandb.",
    "data.workers", "data.cache_dir", "data.verify", *READING, "data.parts", "data.validation",
    "objective", "resume", "runs_dir", "init_from", "take", "resize_vocab", "trunk", "model.",
    "loggers", "training.profile", "training.sample_", *COUNTED,
)  # fmt: skip


def effective(described: dict[str, Any], corpus: str) -> dict[str, Any]:
    """What of a configuration has an effect on a training, by dotted key; of its model that are the
    options, and of its data the `corpus`, which is a fingerprint."""
    effects = {
        key: value
        for key, value in flatten(described).items()
        if key not in NAMES and not key.startswith(WITHOUT_EFFECT)
    }
    return effects | options_of(described["model"]) | {"corpus": corpus}


def options_of(model: dict[str, Any]) -> dict[str, Any]:
    """The options of a described model, by the keys of a command line, with the defaults of those
    that are not given."""
    cls = model_class(model["target"])
    config = cls.Config(**model["config"])
    values = {option: getattr(config, option) for option in cls.options}
    return {
        f"model.{option}": [*value] if isinstance(value, tuple) else value
        for option, value in values.items()
    }


def recorded_precision(folder: RunFolder, resume: str) -> str | None:
    """What `trainer.precision=auto` has meant in the run that lies there and is to go on, if any:
    another machine would choose another."""
    if resume == "never":
        return None
    try:
        recorded = today(flatten(read_yaml(folder.config))).get("trainer.precision")
    except (Missing, Unreadable):
        return None
    return recorded if isinstance(recorded, str) and recorded != AUTO else None


def check_same_run(folder: RunFolder, described: dict[str, Any]) -> None:
    """Raise `UserError` if the folder belongs to a run with another configuration."""
    try:
        before = today(flatten(read_yaml(folder.config)))
    except Missing:
        return
    except Unreadable as error:
        raise UserError(
            f"{folder.config} is damaged or not a run's configuration ({error.reason}). Move it "
            "away, and the checkpoints alone decide whose they are; or resume=never starts again "
            "(the old folder is kept aside)"
        ) from None
    now = flatten(described)
    keys = {key for key in (*before, *now) if not key.startswith(CHANGEABLE)}
    if different := differences(before, now, keys, "then", "now"):
        raise UserError(
            f"{folder.path} was started with another configuration ({different}). "
            "Choose another name=, or resume=never to start again (the old folder is kept aside)"
        )


def check_checkpoint(
    path: Path,
    content: dict[str, Any],
    identity: dict[str, Any],
    branch: bool,
    tokenizer: str | None = None,
) -> int:
    """The optimizer step of a checkpoint that this run may continue from.

    With `tokenizer`, a fingerprint, another corpus is allowed if it has that one in common. A
    `branch` may have other options of its model. Raises `UserError` if it belongs to another model
    or corpus.
    """
    recorded = content["crossover"]["identity"]
    another = another_weights if branch else another_model
    parts = [another(recorded["model"], identity["model"])]
    theirs_is_ours = content["crossover"].get("run", {}).get(TOKENIZER) == tokenizer
    if recorded["data"] != identity["data"] and (tokenizer is None or not theirs_is_ours):
        parts.append("another corpus or tokenizer")
    if different := "; ".join(filter(None, parts)):
        hint = ""
        if branch and parts[0]:
            hint = ". A branch goes on with these weights: leave out what differs"
        if recorded["data"] != identity["data"]:
            hint = f". Give the data words of its run, as in {path.parent.parent / 'config.yaml'}"
        raise UserError(f"checkpoint {path} belongs to another run: {different}{hint}")
    return int(content["global_step"])


def check_continues(
    path: Path, content: dict[str, Any], ours: dict[str, Any], parent: dict[str, Any] | None
) -> None:
    """Raise `UserError` unless the checkpoint at `path` was written by this very run.

    That is one whose `deciding` is `ours`, begun as a branch of `parent` (`path`, `step` and
    `sha256`) or of none. One that does not know what it was trained with is believed, and said so.
    """
    recorded = content["crossover"]
    if "run" not in recorded:
        log.warning(
            "checkpoint %s was written before checkpoints knew the configuration that they were "
            "trained with: taken for one of this run",
            path,
        )
        return
    if different := another_run(content, ours, parent):
        raise UserError(
            f"checkpoint {path} is of another run ({different}): going on from it would end in "
            f"other bits than this run. resume={path} begins a branch from it, which is recorded; "
            f"or move {path.parent} away, and this run starts again"
        )


def another_run(
    content: dict[str, Any], ours: dict[str, Any], parent: dict[str, Any] | None
) -> str:
    """In what the run that wrote a checkpoint differs from this one; empty if it is this one.

    `ours` and `parent` are as for `check_continues`.
    """
    recorded = content["crossover"]
    keys = {*ours, *current_names(recorded["run"], RENAMED)}
    different = differences(today(recorded["run"]), ours, keys, "there", "here")
    theirs = recorded["ledger"]["parent"]
    # One from before the branch is of the run that the branch has left.
    is_branch = parent is not None and parent.get("take", EVERYTHING) == EVERYTHING
    is_before = is_branch and content["global_step"] <= parent["step"]  # type: ignore[index]
    if not different and _left(theirs) != _left(parent) and not is_before:
        different = f"{_begun(theirs)} there, {_begun(parent)} here"
    return different


def another_model(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """In what the models of two runs differ, as `ModelSpec` describes them; empty if in nothing but
    the name of their size."""
    there, here = flatten(theirs, "model."), flatten(ours, "model.")
    return differences(there, here, {*there, *here} - {"model.size"}, "there", "here")


def another_weights(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """In what the models of two runs differ, as `another_model`; empty too if in nothing but
    options that change how a model computes, and none of its weights."""
    different = another_model(theirs, ours)
    if not different:
        return ""
    options = {f"model.config.{option}" for option in model_class(ours["target"]).options}
    there, here = flatten(theirs, "model."), flatten(ours, "model.")
    keys = {*there, *here} - {"model.size", *options}
    if differences(there, here, keys, "there", "here"):
        return different
    try:
        then, now = (
            [(name, weight.shape) for name, weight in build_meta(spec).named_parameters()]
            for spec in (ModelSpec(**theirs), ModelSpec(**ours))
        )
    except Exception:  # a description of somebody else's may be anything
        return different
    return "" if then == now else different


def check_measured(path: Path, content: dict[str, Any], measured: str | None) -> None:
    """Raise `UserError` if the losses so far are of another text than `measured`, a fingerprint:
    the lowest of them would be one of two texts."""
    before = content["crossover"].get("measured")
    if None not in (before, measured) and before != measured:
        raise UserError(
            f"checkpoint {path}: with data.val_fraction=0 the validation loss is that of the first "
            f"text of data.validation, which was {before} and is {measured} here. Leave the one "
            "first that was, with the same files, and name others after it; or choose another name="
        )


def differences(
    theirs: dict[str, Any], ours: dict[str, Any], keys: Iterable[str], there: str, here: str
) -> str:
    """The first few of `keys` in which two configurations differ, with both values."""
    different = []
    for key in sorted(keys):
        then, now = theirs.get(key), ours.get(key)
        if then != now or isinstance(then, bool) != isinstance(now, bool):  # 1 is not True here
            different.append(f"{shown(key)}={then!r:.60} {there}, {now!r:.60} {here}")
    more = [f"and {len(different) - SHOWN} more"] if len(different) > SHOWN else []
    return "; ".join(different[:SHOWN] + more)


def _left(parent: dict[str, Any] | None) -> Any:
    return parent and (parent["step"], parent["sha256"])


def _begun(parent: dict[str, Any] | None) -> str:
    return f"a branch of {shown(parent['path'], PATH)}" if parent else "begun from nothing"
