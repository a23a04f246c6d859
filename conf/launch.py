"""From a command line to a checked configuration: what every script in `scripts/` starts with.

Imports next to nothing, because scripts begin with it: Ctrl-C is quiet from here on, and a wrong
word is answered before PyTorch and Lightning are imported.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from conf import terminal
from models.errors import UserError, escaped
from training.launched import launched

CONF = Path(__file__).resolve().parent
CRASHED = 1  # exit status of a bug
REFUSED = 2  # of anything the user can mend
LINES = "\n\t"  # what of a message lays it out


def launch(config_name: str, task: str, together: bool = False) -> NoReturn:
    """Check the command line, then run `task` on the typed configuration of each Hydra job.

    `task` is "module:function", imported once the line is found good. With `together`, it gets the
    list of all jobs of a multirun at once.

    Refuses a bad command line before any work: all problems at once, exit status 2, no traceback.
    A job that raises `UserError` prints its message, one that crashes its traceback. The other jobs
    of a multirun still run, and the end repeats what failed: status 2, or 1 if anything crashed.
    Where a launcher has started several processes, the first one speaks for all of them. Ctrl-C
    ends with status 130, a closed pipe with 0.
    """

    def body() -> int:
        from conf import jobs

        try:
            Path.cwd()
        except FileNotFoundError:
            complain("the working folder is gone: change to one that exists")
            return REFUSED
        try:
            return jobs.run(config_name, task, together, sys.argv[1:])
        except UserError as error:
            complain(error)
        except OSError as error:  # a path that may not even be looked at
            if not isinstance(error.filename, str) or _is_ours(error.filename):
                raise
            complain(f"{error.filename} cannot be used ({error.strerror})")
        return REFUSED

    sys.exit(terminal.run(body))


def script(task: str) -> NoReturn:
    """Run the function `task` ("module:function") of a script without a configuration."""

    def body() -> int:
        speak()
        function = imported(task)
        terminal.expect_interrupts()
        function()
        return 0

    sys.exit(terminal.run(body))


def _is_ours(file: str) -> bool:
    """Whether a file belongs to this program: then its loss is no mistake of the user's."""
    return Path(file).absolute().is_relative_to(CONF)


def imported(task: str) -> Callable[..., None]:
    """The function that "module:function" names."""
    module, _, name = task.partition(":")
    function: Callable[..., None] = getattr(importlib.import_module(module), name)
    return function


class Notices(logging.Handler):
    """Our own notices, bare, on whatever standard error is at the time.

    Only lines are for the terminal to obey, here and in `complain`: names may be anybody's.
    """

    def emit(self, record: logging.LogRecord) -> None:
        print(escaped(self.format(record), keep=LINES), file=sys.stderr)


def is_first() -> bool:
    """Whether this process speaks: it is alone, or the first of those that were launched."""
    place = launched()
    return place is None or place.rank == 0


def complain(text: Any) -> None:
    """An error message on standard error, if this process speaks."""
    if is_first():
        print(f"error: {escaped(str(text), keep=LINES)}", file=sys.stderr)


def speak() -> None:
    """Let notices of the `crossover` loggers reach the terminal, whatever Hydra sets up."""
    logger = logging.getLogger("crossover")
    if not is_first():
        logger.setLevel(logging.ERROR)
    if not any(isinstance(handler, Notices) for handler in logger.handlers):
        logger.addHandler(Notices())
