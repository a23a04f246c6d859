"""The agent of a wandb sweep and the multirun beside it in the YAML run the same things."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from conf import schema
from conf.schema import FOLDER
from scripts.cli.check import examine, problems_of, read

SWEEPS = sorted((FOLDER / "wandb_sweeps").glob("*.yaml"))


def agent_commands(path: Path) -> Iterator[list[str]]:
    """What `wandb agent` would start for each point of a grid, as `wandb_agent.py` puts it."""
    sweep = yaml.safe_load(path.read_text())
    assert sweep["method"] == "grid"
    names = list(sweep["parameters"])
    for values in itertools.product(*(sweep["parameters"][name]["values"] for name in names)):
        args = {name: {"value": value} for name, value in zip(names, values, strict=True)}
        arguments = create_sweep_command_args({"args": args})
        arguments |= {
            "env": ["/usr/bin/env"],
            "interpreter": ["python"],
            "program": [sweep["program"]],
        }
        command: list[str] = []
        for word in create_sweep_command(list(sweep["command"])):
            macro = word.startswith("${") and word.endswith("}")
            command += arguments[word[2:-1]] if macro else [word]
        yield command


def multirun(path: Path) -> list[str]:
    """The equal Hydra multirun, from the comment at the top of the file."""
    line = re.search(r"^# +(python scripts/\w+\.py -m .*)$", path.read_text(), re.MULTILINE)
    assert line is not None
    return shlex.split(line[1])


def jobs(words: list[str]) -> list[list[str]]:
    """The overrides of every job that Hydra makes of a multirun's command line."""
    overrides = OverridesParser.create().parse_overrides(words)
    return [list(job) for job in BasicSweeper.split_arguments(overrides, None)[0]]


def configuration(script: str, words: list[str]) -> dict[str, Any]:
    schema.register(script)
    with initialize_config_dir(str(FOLDER), version_base="1.3"):
        config = compose(script, overrides=words)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return plain


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_agent_and_multirun_have_the_same_configurations(path: Path) -> None:
    program, flag, *words = multirun(path)[1:]
    assert flag == "-m" and problems_of(path.stem, ["-m", *words]) == []
    commands = list(agent_commands(path))
    assert problems_of(path.stem, commands[0][3:]) == []
    for command in commands:
        assert command[:3] == ["/usr/bin/env", "python", program]
    asked = [configuration(path.stem, command[3:]) for command in commands]
    ours = [configuration(path.stem, job) for job in jobs(words)]
    assert sorted(map(repr, asked)) == sorted(map(repr, ours))
    assert len({repr(conf) for conf in ours}) == len(ours) > 1
    assert {conf["group"] for conf in ours} == {yaml.safe_load(path.read_text())["name"]}


def test_sweeps_go_to_the_default_project_and_optimise_what_is_logged() -> None:
    for path in SWEEPS:
        sweep = yaml.safe_load(path.read_text())
        assert sweep["project"] == schema.WandbConf().project
        assert sweep.get("metric", {}).get("name") in (None, "val/bits_per_byte")


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("demo_search", None),
        ("scaling_search", 10),
        ("scaling_law", 24),
        ("scaling_law_trunks", 64),
    ],
)
def test_the_runs_of_a_recipe_are_those_that_were_checked(name: str, count: int | None) -> None:
    """Hydra adds what the experiments sweep that a recipe stands on."""
    schema.register("train")
    line = read("train", ["-m", f"experiment={name}", "seed=0"])
    examined = examine("train", line)
    assert examined.problems == []
    with initialize_config_dir(str(FOLDER), version_base="1.3"):
        config = compose("train", overrides=[f"experiment={name}"], return_hydra_config=True)
    params = [f"{key}={values}" for key, values in config.hydra.sweeper.params.items()]
    made = jobs([*params, *line.words])
    assert {frozenset(words.split()) for words in examined.words} == set(map(frozenset, made))
    assert len(examined.configs) == len(made) and count in (None, len(made))
    assert len({conf.name for conf in examined.configs}) == len(made)
