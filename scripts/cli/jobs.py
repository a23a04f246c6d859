"""Running a task on the configuration of each job that Hydra makes of a command line."""

from __future__ import annotations

import math
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra._internal import utils
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from conf import schema
from core.errors import UserError, escaped
from core.stop_signals import Signals, stop_before_more
from core.writable import explain, reason
from data.parts import NO_LOSS, validates
from scripts.cli import study, terminal
from scripts.cli.arguments import expanded, quoted
from scripts.cli.check import (
    MOST_JOBS,
    Examined,
    configuration_problems,
    deep_problems,
    examine,
    is_elsewhere,
    read,
    show,
)
from scripts.cli.config_folder import search_words
from scripts.cli.console import CRASHED, REFUSED, print_error, setup_logging
from scripts.cli.hydra_flags import Line
from scripts.cli.hydra_keys import SWEEPER, unmade
from scripts.cli.path_checks import place_problems
from scripts.cli.plugins import load_plugins
from scripts.cli.search import read_other_search, sweeper_of
from scripts.cli.task import load_task

MOST_SHOWN, LONGEST_SHOWN = 30, 1200  # problems of one line, and characters of each
MOST_PLACES = 20  # jobs whose places are looked at before any starts
HERE = "basic"  # the launcher that runs jobs in this process

SCRATCH = Path(".cache", "multirun")

# A run's folder is its name, so Hydra makes no folders and no log files of its own.
PLAIN_HYDRA = (
    "hydra.run.dir=.",
    "hydra.sweep.subdir=.",
    "hydra.output_subdir=null",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
)


def run(config_name: str, task: str, together: bool, argv: list[str]) -> int:
    """Check the words `argv`, run `task` as `scripts.cli.launch.launch` says; the exit status."""
    setup_logging()
    load_plugins()
    schema.register(config_name)
    line = read(config_name, argv)
    if line.asks("--shell-completion") and not line.problems:
        return complete(config_name, line.asks("--shell-completion").partition("=")[2])
    if line.problems:
        return print_problems(line.problems)
    if line.asks("--hydra-help"):
        compose_jobs(config_name, line, lambda config: None)
        return 0
    if sweeper := sweeper_of(line):
        if config_name != "train":
            return print_problems(
                [f"{SWEEPER}={sweeper}: {config_name}.py has no objective to search"]
            )
        return (run_study if sweeper == study.NAME else run_search)(task, line)
    examined = examine(config_name, line)
    if line.asks("--info"):
        if not examined.line_problems:
            compose_jobs(config_name, line, lambda config: None)
        return print_problems(examined.line_problems)
    if line.asks("--cfg"):
        return print_problems(examined.line_problems) or show(config_name, line, examined)
    if problems := job_problems(config_name, line, examined):
        return print_problems(problems)
    function = load_task(task)
    terminal.expect_interrupts()
    Signals.late = None
    failures: dict[str, Exception] = {}
    unchecked = len(examined.configs) >= MOST_JOBS
    jobs: list[Any] = []

    def attempt(conf: Any, words: str) -> Any:
        try:
            return function(conf)
        except UserError as error:
            print_error(error)
            failures[words] = error
        except Exception as error:
            if isinstance(error, BrokenPipeError) and terminal.is_unread():
                raise KeyboardInterrupt from error
            if isinstance(error, OSError) and (problem := explain(error, places(conf))):
                print_error(problem)
                failures[words] = UserError(problem)
                return None
            traceback.print_exc()
            failures[words] = error
        return None

    def hydra_job(config: DictConfig) -> Any:
        """Run the job, and give a sweeper its value."""
        value = None
        setup_logging()  # Hydra's launcher may have brought this to another process
        stop_before_more()
        conf = expanded(OmegaConf.to_object(config))
        jobs.append(conf)
        if not together:
            words = " ".join(word for word in HydraConfig.get().overrides.task if word not in argv)
            late = configuration_problems(config_name, config) if unchecked else []
            if print_problems(late):
                failures[words] = UserError(one_line(late[0]))
            else:
                value = attempt(conf, words)
        if HydraConfig.get().runtime.choices["hydra/launcher"] != HERE:
            for error in failures.values():  # its process has to fail for Hydra to hear of it
                raise error
        return value

    try:
        if line.multirun or any(word.startswith("hydra") for word in line.words):
            compose_jobs(config_name, line, hydra_job)
        else:  # the configuration that was checked
            jobs = [expanded(OmegaConf.to_object(config)) for config in examined.configs]
            if not together:
                attempt(jobs[0], "")
        if together and jobs:
            attempt(jobs, "")
    except KeyboardInterrupt as stop:  # Hydra would print a traceback for the pipe's own error
        if isinstance(stop.__cause__, BrokenPipeError):
            raise stop.__cause__ from None
        raise
    if not failures:
        return 0
    if len(jobs) > 1 and not together:  # once more at the end, however long the output was
        print_error(f"{len(failures)} of {len(jobs)} runs failed")
        for words, error in failures.items():
            what = f"{type(error).__name__}: {error}".splitlines()[0]
            print_error(f"{words}: {what}")
    refused = all(isinstance(error, UserError) for error in failures.values())
    return REFUSED if refused else CRASHED


def complete(config_name: str, what: str) -> int:
    """Hydra's own completion of words in a shell, as `install=bash`; the exit status."""
    before = sys.argv
    sys.argv = [before[0], "--shell-completion", what]
    try:
        with unreported():
            hydra.main(version_base="1.3", config_path=str(schema.FOLDER), config_name=config_name)(
                lambda config: None
            )()
    finally:
        sys.argv = before
    return 0


def run_study(task: str, line: Line) -> int:
    """Search with Optuna, as `scripts.cli.study` says; the exit status."""
    search, trials, lines = study.begin(line)
    _, problems = _first_of(lines)
    if problems:
        return print_problems(problems)
    function = load_task(task)
    terminal.expect_interrupts()

    def conf_of(words: list[str]) -> Any:
        conf, problems = _first_of([Line(words, config_dir=line.config_dir)])
        if problems:
            raise UserError("; ".join(map(one_line, problems)))
        return conf

    failed = study.run(search, trials, conf_of, function, print_error)
    return REFUSED if failed else 0


def run_search(task: str, line: Line) -> int:
    """Run the trainings that a sweeper of Hydra's proposes, as `scripts.cli.search` says; the exit
    status.

    A trial that fails raises, as Hydra's sweepers expect: their options say what follows from it.
    """
    search = read_other_search(line)
    first, problems = _first_of(search.lines())
    if problems:
        return print_problems(problems)
    function = load_task(task)
    terminal.expect_interrupts()
    ended: list[tuple[float, str]] = []
    failures: list[Exception] = []

    def hydra_job(config: DictConfig) -> float:
        setup_logging()  # Hydra's launcher may have brought this to another process
        stop_before_more()
        try:
            if late := configuration_problems("train", config):
                raise UserError("; ".join(map(one_line, late)))
            value = function(expanded(OmegaConf.to_object(config)))
            if not isinstance(value, float) or not math.isfinite(value):
                raise UserError(f"its objective is {value}")
        except Exception as error:
            failures.append(error)
            words = " ".join(HydraConfig.get().overrides.task)
            print_error(one_line(f"{words}: {error}"))
            if not isinstance(error, UserError):
                traceback.print_exc()
            raise
        given = (word.partition("=") for word in HydraConfig.get().overrides.task)
        words = [f"{key}={text}" for key, _, text in given if key in search.space]
        ended.append((value, " ".join(words)))
        return value

    folder = Path(first.runs_dir, first.group)
    try:
        compose_jobs("train", line, hydra_job, folder)
    except Exception as error:
        if error not in failures:  # which have been printed
            raise
        print_error(f"{folder}: the sweeper has ended at a failed run; the same command goes on")
    if ended:
        print(f"{folder}: {len(ended)} trials, the best first")
        for value, words in sorted(ended):
            print(f"  {value:>9.4f}  {words}")
    refused = all(isinstance(error, UserError) for error in failures)
    return 0 if not failures else REFUSED if refused else CRASHED


def _first_of(lines: list[Line]) -> tuple[Any, list[str]]:
    """The configuration of the first of several possible trainings, and the problems of one."""
    configs = []
    for possible in lines:
        examined = examine("train", possible)
        if problems := job_problems("train", possible, examined):
            return None, problems
        configs.append(expanded(OmegaConf.to_object(examined.configs[0])))
        if not validates(configs[-1].data):
            return None, [
                f"objective={configs[-1].objective} is what is searched, and there is no "
                f"validation loss: {NO_LOSS}"
            ]
    return configs[0], []


def job_problems(config_name: str, line: Line, examined: Examined) -> list[str]:
    """What keeps the jobs of an examined line from starting; what takes long is asked last."""
    if examined.problems:
        return examined.problems
    if not is_elsewhere(line):
        # The first ones: the jobs of a sweep mostly name the same places.
        first = [expanded(OmegaConf.to_object(config)) for config in examined.configs[:MOST_PLACES]]
        if problems := place_problems(first):
            return problems
    return deep_problems(config_name, examined.configs, line)


def places(conf: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every path in a job's configuration, or in those of several, after its key."""
    for job in conf if isinstance(conf, list) else [conf]:
        for item in fields(job):
            value = getattr(job, item.name)
            if is_dataclass(value):
                yield from places(value, f"{prefix}{item.name}.")
            elif item.metadata.get("path"):
                for path in value if isinstance(value, list) else [value]:
                    if isinstance(path, str):
                        yield f"{prefix}{item.name}", path


def compose_jobs(config_name: str, line: Line, job: Any, folder: Path | None = None) -> None:
    """Hydra's own main, on the words of the line; what a sweeper notes goes into `folder`.

    Raises `UserError` for whatever Hydra itself raises, and what a job raises as it is.
    """

    def begin(config: DictConfig) -> Any:
        return job(config)  # the frame marks a job's exceptions, which are not Hydra's

    before = sys.argv
    words = quoted(config_name, line.words, line.multirun)
    # Hydra composes every job of a batch before the first one starts.
    alone = line.multirun and not any(word.startswith("hydra") for word in words)
    batches = ["hydra.sweeper.max_batch_size=16"] if alone else []
    with scratch() if folder is None else nullcontext(folder) as notes:
        # Quoted: a folder may have any name.
        place = str(notes).replace("\\", "\\\\").replace("'", "\\'")
        sys.argv = [
            before[0],
            *line.flags,
            *words,
            *search_words(line.config_dir),
            *PLAIN_HYDRA,
            *batches,
            f"hydra.sweep.dir='{place}'",
        ]
        try:
            with unreported():
                main = hydra.main(
                    version_base="1.3", config_path=str(schema.FOLDER), config_name=config_name
                )
                main(begin)()
        except OSError:  # of a place, which `scripts.cli.launch` explains
            raise
        except Exception as error:
            # What was raised within a job, here or where a launcher has sent it, is not Hydra's.
            frames = traceback.extract_tb(error.__traceback__)
            here = any(frame.filename == __file__ and frame.name == "begin" for frame in frames)
            if here or any(frame.name == "launch" for frame in frames):
                raise
            raise UserError(unmade(error)) from error
        finally:
            sys.argv = before


@contextmanager
def unreported() -> Iterator[None]:
    """Let what is raised inside Hydra come through, which it would print in lines of its own."""
    before = utils.run_and_report
    utils.run_and_report = lambda func: func()
    try:
        yield
    finally:
        utils.run_and_report = before


@contextmanager
def scratch() -> Iterator[Path]:
    """Where Hydra notes a multirun: beside the runs, for other machines, if that can be written."""
    try:
        SCRATCH.mkdir(parents=True, exist_ok=True)
        writable = os.access(SCRATCH, os.W_OK)
    except OSError:
        writable = False
    if writable:
        yield SCRATCH
        return
    try:
        aside = tempfile.TemporaryDirectory()
    except OSError as error:
        raise UserError(
            f"neither {SCRATCH.absolute()} nor a folder for temporary files can be written "
            f"({reason(error)}): start from another folder, or name one in TMPDIR"
        ) from None
    with aside as folder:
        yield Path(folder)


def print_problems(problems: list[str]) -> int:
    """Print the problems, each on one line of limited length; the status, 0 if there are none."""
    for problem in problems[:MOST_SHOWN]:
        print_error(one_line(problem))
    if len(problems) > MOST_SHOWN:
        print_error(f"and {len(problems) - MOST_SHOWN:,} more")
    return REFUSED if problems else 0


def one_line(text: str) -> str:
    """Without the middle of what is long, and with what a terminal would obey escaped."""
    if len(text) > LONGEST_SHOWN:
        text = f"{text[: LONGEST_SHOWN // 2]} ... {text[-LONGEST_SHOWN // 2 :]}"
    return escaped(text)
