"""The model of `from=` as words of the command line: its sizes come from the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from conf.schema import FOLDER, TrainConf
from core.errors import UserError
from core.parsing import Missing, Unreadable, read_yaml
from scripts.cli.arguments import parsed
from training.run_folder.folder import find_place

KEYS = ("init_from", "runs_dir")
Model = tuple[str, str, dict[str, Any]]
"""Class, size and sizes."""


def with_source_model(words: list[str]) -> tuple[list[str], list[str]]:
    """The words of `train.py` with `model=...` and sizes as in the file that `from=` names.

    Also what is wrong: no such file, or words that ask for another model than the file's. Several
    values of `from=` must be of one model.
    """
    given = {key: value for key, _, value in (word.partition("=") for word in words) if key in KEYS}
    if not given.get("init_from") or given["init_from"] == "null":
        return words, []
    override = parsed(f"init_from={given['init_from']}")
    values: list[Any] = [given["init_from"]]
    if override is not None and override.is_choice_sweep():
        # Without `null`, of a run that begins from nothing, with the model of the others.
        values = [str(value) for value in override.sweep_iterator() if value not in (None, "null")]
    elif override is not None and isinstance(override.value(), str):
        values = [override.value()]
    runs_dir = given.get("runs_dir", TrainConf.runs_dir).strip("\"'")
    try:
        specs = [_spec(str(value), runs_dir) for value in values]
    except UserError as error:
        begun = _begun(words, runs_dir)  # a run goes on where its source has gone
        if begun is None:
            return words, [str(error)]
        specs = [begun]
    if any(spec != specs[0] for spec in specs):
        return words, [f"from={given['init_from']}: these are different models: train them apart"]
    return _merged(words, given["init_from"], *specs[0])


def _spec(source: str, runs_dir: str) -> Model:
    """Class, size and sizes of the model in a file."""
    from models.formats.load import spec_of
    from models.meta import build_meta

    spec = spec_of(find_place("from", source, runs_dir))
    config = {**vars(build_meta(spec).config)}
    del config["vocab_size"]
    return spec.target, spec.size, config


def _begun(words: list[str], runs_dir: str) -> Model | None:
    """The model of the run that these words name, if it has been begun."""
    given = {key: value for key, _, value in (word.partition("=") for word in words)}
    place = Path(runs_dir, given.get("group", ""), given.get("name", ""))
    if "name" not in given:
        return None
    try:
        model = read_yaml(place / "config.yaml")["model"]
        config = {key: value for key, value in model["config"].items() if key != "vocab_size"}
        return str(model["target"]), str(model["size"]), config
    except (Missing, Unreadable, KeyError, TypeError, AttributeError):
        return None


def _merged(
    words: list[str], source: str, target: str, size: str, config: dict[str, Any]
) -> tuple[list[str], list[str]]:
    from models.registry import model_class

    groups = {path.stem: yaml.safe_load(path.read_text()) for path in FOLDER.glob("model/*.yaml")}
    names = [name for name, group in groups.items() if group["target"] == target]
    if not names:
        return words, [f"from={source} is a {target}, which no file in conf/model/ names"]
    by_hand = {key: value for key, _, value in (word.partition("=") for word in words)}
    name = by_hand.get("model", names[0])
    if name not in names:
        return words, [f"model={name}: from={source} is model={names[0]}"]
    group, problems = groups[name], []
    sizes = {str(key): preset for key, preset in group.get("sizes", {}).items()}
    added = [] if "model" in by_hand else [f"model={name}"]
    if by_hand.get("model.size", size) != size:
        problems.append(f"model.size={by_hand['model.size']}: the sizes come from from={source}")
    elif size in sizes:
        added.append(f"model.size={size}")
    usual = group | sizes.get(size if size in sizes else str(group["size"]), {})
    for field in (field for field in config if field in group):
        value, key = config[field], f"model.{field}"
        if key in by_hand:
            is_option = field in model_class(target).options
            if by_hand[key] != _text(value) and not is_option:
                problems.append(f"{key}={by_hand[key]}: from={source} has {field}={value}")
        elif value is None and usual[field] is not None:
            problems.append(f"from={source} leaves {field} open: give {key}=NUMBER")
        elif value != usual[field]:
            added.append(f"{key}={_text(value)}")
    return [*words, *added], problems


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
