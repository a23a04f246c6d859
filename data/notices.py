"""What reading and preparing a corpus tells its user, line by line."""

from __future__ import annotations

from rich.console import Console


def say(line: str) -> None:
    """Print a line to the console."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(line, markup=False)


once: set[str] = set()
"""What `say_once` has said."""


def say_once(line: str) -> None:
    """Print a line that has not been printed by this call before."""
    if line not in once:
        once.add(line)
        say(line)
