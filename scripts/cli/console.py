"""What a command says beside its results: notices and errors, by the first of several processes."""

from __future__ import annotations

import logging
import sys
from typing import Any

from core.errors import escaped
from core.launcher import detect_launcher

CRASHED = 1  # exit status of a bug
REFUSED = 2  # of anything the user can correct
LINES = "\n\t"  # what of a message lays it out


class Notices(logging.Handler):
    """Our own notices, bare, on whatever standard error is at the time.

    Only lines are for the terminal to obey, here and in `print_error`: names may be anybody's.
    """

    def emit(self, record: logging.LogRecord) -> None:
        print(escaped(self.format(record), keep=LINES), file=sys.stderr)


def is_first() -> bool:
    """Whether this process prints: it is alone, or the first of those that were launched."""
    place = detect_launcher()
    return place is None or place.rank == 0


def print_error(text: Any) -> None:
    """Print an error message on standard error, if this process prints."""
    if is_first():
        print(f"error: {escaped(str(text), keep=LINES)}", file=sys.stderr)


def setup_logging() -> None:
    """Let notices of the `crossover` loggers reach the terminal, whatever Hydra sets up."""
    logger = logging.getLogger("crossover")
    if not is_first():
        logger.setLevel(logging.ERROR)
    if not any(isinstance(handler, Notices) for handler in logger.handlers):
        logger.addHandler(Notices())
