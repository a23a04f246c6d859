"""What reading and preparing a corpus tells its user, line by line."""

from __future__ import annotations

from rich.console import Console


def say(line: str) -> None:
    """Print a line to the console."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(line, markup=False)
