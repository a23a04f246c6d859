"""From a command line to a checked configuration: what every script in `scripts/` starts with."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from conf import schema
from conf.check import problems_of, quoted
from conf.help import help_text
from models.errors import UserError

CONF = Path(__file__).resolve().parent
REFUSED = 2  # exit status of anything the user can mend

# A run's folder is its name, so Hydra makes no folders and no log files of its own.
PLAIN_HYDRA = (
    "hydra.run.dir=.",
    "hydra.sweep.dir=.cache/multirun",
    "hydra.sweep.subdir=.",
    "hydra.output_subdir=null",
    "hydra/job_logging=none",
    "hydra/hydra_logging=none",
)


def launch(config_name: str, task: Callable[[Any], None], together: bool = False) -> None:
    """Check the command line, then run `task` on the typed configuration of each Hydra job.

    With `together`, `task` gets the list of all jobs of a multirun at once.

    Refuses a bad command line before any work: all problems at once, exit status 2, no traceback.
    A job that raises `UserError` prints its message; the other jobs of a multirun still run.
    """
    argv = sys.argv[1:]
    speak()
    schema.register()
    if "--help" in argv or "-h" in argv:
        print(help_text(config_name))
        return
    if not any(flag in argv for flag in ("--cfg", "-c", "--info", "-i", "--hydra-help")):
        refuse(problems_of(config_name, argv))
    failures: list[UserError] = []
    jobs: list[Any] = []

    def attempt(conf: Any) -> None:
        try:
            task(conf)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            failures.append(error)

    def job(config: DictConfig) -> None:
        conf = OmegaConf.to_object(config)
        jobs.append(conf)
        if not together:
            attempt(conf)

    sys.argv = [sys.argv[0], *quoted(config_name, argv), *PLAIN_HYDRA]
    hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(job)()
    sys.argv = [sys.argv[0], *argv]
    if together and jobs:
        attempt(jobs)
    if failures:
        sys.exit(REFUSED)


class Notices(logging.Handler):
    """Our own notices, bare, on whatever standard error is at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def speak() -> None:
    """Let notices of the `crossover` loggers reach the terminal, whatever Hydra sets up."""
    logger = logging.getLogger("crossover")
    if not any(isinstance(handler, Notices) for handler in logger.handlers):
        logger.addHandler(Notices())


def refuse(problems: list[str]) -> None:
    """Print every problem and exit with status 2, if there are any."""
    if problems:
        for problem in problems:
            print(f"error: {problem}", file=sys.stderr)
        sys.exit(REFUSED)
