"""Every shipped YAML is composed, and every model it describes is built."""

from __future__ import annotations

import re
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from conf import schema
from data.tasks.task_data import TASKS
from models import meta
from models.registry import model_class
from scripts.cli.check import configuration_problems
from scripts.cli.help import help_text
from tests.registered_models import EVERY, FOLDER, IMAGES, spec_of
from tracking.configuration import flatten

CONF = Path(schema.__file__).parent
GROUPS = ["data", "experiment", "model", "tune"]


def typed(script: str, *words: str) -> Any:
    schema.register(script)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(script, overrides=list(words))


@pytest.mark.parametrize("group", GROUPS)
def test_every_choice_composes(group: str) -> None:
    for path in sorted((CONF / group).glob("*.yaml")):
        words = [f"{group}={path.stem}"]
        made = {"stdlib", *TASKS}  # of nothing that could be named
        of_a_file = path.stem in ("nanogpt_cpu", "tiny_shakespeare")
        if (group == "data" and path.stem not in made) or of_a_file:
            words.append("data.paths=[book.txt]")
        if group == "model" and "separator" in (keys := yaml.safe_load(path.read_text())):
            words.append("data=sorting" if "places" in keys else "data=copy")
        if group == "model" and path.stem in IMAGES:
            words.append("data=two_blobs")
        if path.stem in ("lora", "state"):
            words.append("init_from=first")
        config = typed("train", *words)
        assert configuration_problems("train", config) == [], path
        assert isinstance(OmegaConf.to_object(config), schema.TrainConf)


def test_no_folder_hides_a_key() -> None:
    """Hydra reads `NAME=` as the choice of a group wherever conf/ has a folder NAME."""
    folders = {path.name for path in CONF.iterdir() if path.is_dir()} - {*GROUPS, "machine"}
    keys = {item.name for script in schema.SCRIPTS.values() for item in fields(script)}
    assert not folders & keys


def test_every_machine_composes_and_names_its_sources() -> None:
    for path in sorted((CONF / "machine").glob("*.yaml")):
        config = typed("plan", f"machine={path.stem}", "model.size=tiny")
        assert configuration_problems("plan", config) == [], path
        assert config.machine.title and config.machine.sources


@pytest.mark.parametrize("script", sorted(schema.SCRIPTS))
def test_every_script_has_a_yaml_and_help(script: str) -> None:
    config = typed(script)
    assert set(config) == {item.name for item in fields(schema.SCRIPTS[script])}
    text = help_text(script)
    for name in config:
        assert schema.SPELLING.get(str(name), str(name)) in text
    assert max(len(line) for line in text.splitlines()) <= 120
    for name, default in defaults_of(text).items():
        value: Any = OmegaConf.to_container(config)
        for part in schema.SPELLED.get(name, name).split("."):
            value = value[part]
        if value in (None, "", "???") or isinstance(value, dict):
            assert not default, name
        else:
            assert default == f"[{str(value).lower() if isinstance(value, bool) else value}]", name


def defaults_of(text: str) -> dict[str, str]:
    """What a help page shows in brackets at the end of each key's lines."""
    shown: dict[str, str] = {}
    for line in text.partition("\n\n")[2].splitlines():
        if key := re.match(r"  ([a-z_]\w*(?:\.\w+)*) ", line):
            name = key[1]
            shown[name] = ""
        elif not shown or not line.startswith("    "):
            continue
        shown[name] += " " + line.strip()
    return {key: (re.search(r" (\[.*\])$", line) or ("", ""))[1] for key, line in shown.items()}


@pytest.mark.parametrize("script", ["probe", "busy", "repeatability"])
def test_sweeps_measure_in_several_processes(script: str) -> None:
    """Else a peak of memory is a single value, and has no interval."""
    assert min(typed(script).processes) > 1


@pytest.mark.parametrize("name", EVERY)
def test_every_size_of_every_model_is_built(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    group = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    names = {item.name for item in fields(model_class(group["target"]).Config)}
    assert {key for key in group if key not in schema.NOT_FIELDS} == names - {"vocab_size"}
    monkeypatch.setattr(meta, "EXACT", 2)  # layers; further ones are like the second
    for size in group["sizes"]:
        assert meta.sketch(spec_of(name, str(size))).parameters > 0


def test_runs_of_older_versions_are_the_same_runs_beside_new_keys() -> None:
    """Keys of the first version need no default in `ADDED`; every later one has it there."""
    every = flatten(asdict(schema.TrainConf()))
    assert {*schema.ADDED} <= every.keys()
    assert len(every.keys() - {*schema.ADDED}) == 54


def test_every_key_is_documented() -> None:
    def check(node: type) -> None:
        for item in fields(node):
            if item.name == "model":
                continue
            default = item.default_factory() if callable(item.default_factory) else item.default
            if hasattr(default, "__dataclass_fields__"):
                check(type(default))
            else:
                assert item.metadata["doc"], item.name

    for node in schema.SCRIPTS.values():
        check(node)
