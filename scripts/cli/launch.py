"""From a command line to a checked configuration: what every script in `scripts/` starts with.

Imports next to nothing, because scripts begin with it: Ctrl-C is quiet from here on, and a wrong
word is answered before PyTorch and Lightning are imported.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

from core.errors import UserError
from scripts.cli import terminal
from scripts.cli.console import REFUSED, print_error, setup_logging
from scripts.cli.hydra_flags import parse
from scripts.cli.task import load_task

CONF = Path(__file__).resolve().parents[2] / "conf"  # importing its schema would import Hydra


def launch(config_name: str, task: str, together: bool = False) -> NoReturn:
    """Check the command line, then run `task` on the typed configuration of each Hydra job.

    `task` is "module:function", imported once the line is found good. With `together`, it gets the
    list of all jobs of a multirun at once.

    Refuses a bad command line before any work: all problems at once, exit status 2, no traceback.
    A job that raises `UserError` prints its message, one that crashes its traceback. The other jobs
    of a multirun still run, and the end repeats what failed: status 2, or 1 if anything crashed.
    Where a launcher has started several processes, only the first one prints. Ctrl-C
    ends with status 130, a closed pipe with 0.
    """

    def body() -> int:
        try:
            Path.cwd()
        except FileNotFoundError:
            print_error("the working folder is gone: change to one that exists")
            return REFUSED
        try:
            if parse(sys.argv[1:]).asks("--help"):  # without the checks, which import NumPy
                from scripts.cli.help import help_text

                print(help_text(config_name))
                return 0
            from scripts.cli import jobs

            return jobs.run(config_name, task, together, sys.argv[1:])
        except UserError as error:
            print_error(error)
        except OSError as error:  # a path that may not even be looked at
            if "No usable temporary directory" in str(error):  # which importing PyTorch asks for
                print_error(
                    "no folder for temporary files can be written: make room on the disk, or name "
                    "another folder in TMPDIR"
                )
                return REFUSED
            file = error.filename
            # The loss of a file of this program is no mistake of the user's.
            if not isinstance(file, str) or Path(file).absolute().is_relative_to(CONF):
                raise
            print_error(f"{file} cannot be used ({error.strerror})")
        return REFUSED

    sys.exit(terminal.run(body))


def script(task: str) -> NoReturn:
    """Run the function `task` ("module:function") of a script without a configuration."""

    def body() -> int:
        setup_logging()
        function = load_task(task)
        terminal.expect_interrupts()
        function()
        return 0

    sys.exit(terminal.run(body))
