"""Crossover from Python: the words of a command line as arguments, and results as objects.

    from scripts import api

    model = api.build("model=rwkv7", "model.size=tiny", vocab_size=256)
    summary = api.train("model=rwkv7", "model.size=tiny", "trainer.max_steps=3")
    rows = api.probe("model=rwkv7,gpt", "model.size=tiny", "lengths=[64,128]")

docs/python.md has more, and says how to import this from a folder with a `models/` of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from conf import schema
from core.errors import UserError
from models.contract import Model
from models.formats.load import load
from models.registry import build as build_spec
from probes import rows
from probes.rows import Row
from scripts import generate as generate_script
from scripts import probe as probe_script
from scripts import train as train_script
from scripts.cli.arguments import expanded
from scripts.cli.check import examine, read
from scripts.cli.console import setup_logging
from scripts.cli.jobs import job_problems
from scripts.cli.model_spec import model_spec

__all__ = ["build", "configure", "generate", "load", "probe", "read_rows", "train"]


def configure(script: str, *words: str) -> list[Any]:
    """The checked configurations that the command `scripts/SCRIPT.py WORDS` would run with.

    More than one where words hold several values (`model=rwkv4,gpt`). Raises `UserError` with
    every problem of the words, one on each line.
    """
    schema.register(script)
    setup_logging()
    several = script == "probe" or any("," in word.partition("=")[2] for word in words)
    line = read(script, [*(["-m"] if several else []), *words])
    if line.problems:
        raise UserError("\n".join(line.problems))
    examined = examine(script, line)
    if problems := job_problems(script, line, examined):
        raise UserError("\n".join(problems))
    return [expanded(OmegaConf.to_object(config)) for config in examined.configs]


def build(*words: str, vocab_size: int) -> Model:
    """A freshly initialised model: `model=NAME`, `model.size=SIZE` and further `model.KEY=VALUE`.

    Raises `UserError` for an unknown name, size or key.
    """
    (conf,) = configure("probe", *words)
    return build_spec(model_spec(conf.model, vocab_size))


def train(*words: str) -> dict[str, Any]:
    """Train as `scripts/train.py WORDS` does; the summary of the run.

    Calling it again resumes an interrupted run, and returns the summary of a finished one. Raises
    `UserError`, and `core.stop_signals.Preempted` when asked to stop.
    """
    (conf,) = configure("train", *words)
    summary = train_script.run(conf)
    assert summary is not None, "a launcher started this process as another rank"
    return summary


def generate(*words: str) -> str:
    """The prompt and its continuation, as `scripts/generate.py WORDS` prints them.

    Raises `UserError`.
    """
    (conf,) = configure("generate", *words)
    return conf.prompt + "".join(generate_script.continuation(conf))


def probe(*words: str) -> list[Row]:
    """Measure as `scripts/probe.py -m WORDS` does; every row of the group, older ones included.

    Each point runs in a child process, so a script that calls this needs
    `if __name__ == "__main__":`. Raises `UserError`.
    """
    confs = configure("probe", *words)
    probe_script.main(confs)
    return read_rows(Path(confs[0].runs_dir, confs[0].group, "probes.jsonl"))


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a `probes.jsonl`, oldest first. Raises `UserError` if it is none."""
    return rows.read_rows(Path(path))
