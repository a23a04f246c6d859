"""From a command line to a checked configuration: what every script in `scripts/` starts with."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from conf import schema
from conf.check import problems_of, quoted
from conf.flags import flag_problems
from conf.help import help_text
from models.errors import UserError
from training.launched import launched

CONF = Path(__file__).resolve().parent
CRASHED = 1  # exit status of a bug
REFUSED = 2  # of anything the user can mend
SUBMITIT = "submitit"  # part of the names of the launchers that run jobs elsewhere

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
    A job that raises `UserError` prints its message, one that crashes its traceback. The other jobs
    of a multirun still run, and the end repeats what failed: status 2, or 1 if anything crashed.
    Where a launcher has started several processes, the first one speaks for all of them.
    """
    argv = sys.argv[1:]
    speak()
    schema.register()
    if "--help" in argv or "-h" in argv:
        print(help_text(config_name))
        return
    refuse(flag_problems(argv))
    if not any(flag in argv for flag in ("--cfg", "-c", "--info", "-i", "--hydra-help")):
        refuse(problems_of(config_name, argv))
    failures: dict[str, Exception] = {}
    jobs: list[Any] = []

    def attempt(conf: Any, words: str) -> None:
        try:
            task(conf)
        except UserError as error:
            complain(str(error))
            failures[words] = error
        except Exception as error:
            traceback.print_exc()
            failures[words] = error

    def job(config: DictConfig) -> None:
        speak()  # Hydra's launcher may have brought this to another process
        conf = OmegaConf.to_object(config)
        jobs.append(conf)
        if not together:
            words = HydraConfig.get().overrides.task
            attempt(conf, " ".join(word for word in words if word not in argv))
        if SUBMITIT in HydraConfig.get().runtime.choices["hydra/launcher"]:
            for error in failures.values():  # its process has to fail for Hydra to hear of it
                raise error

    sys.argv = [sys.argv[0], *quoted(config_name, argv), *PLAIN_HYDRA]
    hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(job)()
    sys.argv = [sys.argv[0], *argv]
    if together and jobs:
        attempt(jobs, "")
    if len(jobs) > 1 and not together:
        tell(failures, len(jobs))
    if failures:
        refused = all(isinstance(error, UserError) for error in failures.values())
        sys.exit(REFUSED if refused else CRASHED)


def tell(failures: dict[str, Exception], jobs: int) -> None:
    """Say at the end of a multirun what failed, however long its output was."""
    if failures:
        complain(f"{len(failures)} of {jobs} runs failed")
    for words, error in failures.items():
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        complain(f"{words}: {what}")


class Notices(logging.Handler):
    """Our own notices, bare, on whatever standard error is at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def is_first() -> bool:
    """Whether this process speaks: it is alone, or the first of those that were launched."""
    place = launched()
    return place is None or place.rank == 0


def complain(text: str) -> None:
    if is_first():
        print(f"error: {text}", file=sys.stderr)


def speak() -> None:
    """Let notices of the `crossover` loggers reach the terminal, whatever Hydra sets up."""
    logger = logging.getLogger("crossover")
    if not is_first():
        logger.setLevel(logging.ERROR)
    if not any(isinstance(handler, Notices) for handler in logger.handlers):
        logger.addHandler(Notices())


def refuse(problems: list[str]) -> None:
    """Print every problem and exit with status 2, if there are any."""
    if problems:
        for problem in problems:
            complain(problem)
        sys.exit(REFUSED)
