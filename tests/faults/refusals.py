"""Input that must be refused in plain words: bad command lines, malicious files of weights."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import models
from core.errors import UserError
from tests.faults import folders  # noqa: F401  (adds its own to those of weights)
from tests.faults.child import Child, Ended, script
from tests.faults.command_lines import Line, bad_lines
from tests.faults.trainings import Tally
from tests.faults.trial import captured
from tests.faults.weights import make

AT_ONCE = 50  # command lines, or files, that one child tries
LONGEST = 60  # seconds for one of them, or for one file


def command_lines(count: int, seed: int, folder: Path, tally: Tally) -> None:
    """Give the scripts `count` bad command lines: no traceback, and no work begun."""
    lines = bad_lines(count, seed)
    for first in range(0, count, AT_ONCE):
        part = lines[first : first + AT_ONCE]
        results = folder / f"lines-{first:04d}.jsonl"
        ended = Child(results.with_suffix(".console"), try_lines, part, results).wait(3600)
        problems = [json.loads(text) for text in results.read_text().splitlines()]
        for line, problem in zip(part, problems, strict=False):
            tally.count(problem and f"{' '.join(line)}: {problem}")
        if len(problems) < len(part):
            tally.count(f"{' '.join(part[len(problems)])}: ended the process ({ended.status})")


def try_lines(lines: Sequence[Line], results: Path) -> None:
    """Run each line as its user would, in an empty folder; one JSON line with what is wrong."""
    place = results.with_suffix(".folder")
    place.mkdir(parents=True)
    os.chdir(place)
    with results.open("w", buffering=1) as file:
        for name, *words in lines:
            file.write(json.dumps(problem_of(name, words, place)) + "\n")


def problem_of(name: str, words: list[str], place: Path) -> str | None:
    """What is wrong with the way in which a script refuses a command line, or None."""
    before = {*place.rglob("*")}
    status, text = captured(time_limit(), lambda: script(name, words))
    if "Traceback" in text:
        return f"a traceback: {text.strip().splitlines()[-1]}"
    if status != 2 or not text or not all(one.startswith("error: ") for one in text.splitlines()):
        return f"status {status}, printed {text[-300:]!r}"
    if begun := sorted(str(path) for path in {*place.rglob("*")} - before):
        return f"began work: {begun}"
    return None


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    """Raise `TimeoutError` after a while."""

    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def weight_files(folder: Path, tally: Tally) -> None:
    """Load every malicious or foreign file, several in one process."""
    marker = folder / "executed"
    files = [*make(folder / "weights", marker).items()]
    while files:
        results = folder / f"weights-{len(files):04d}.jsonl"
        part = files[:AT_ONCE]
        ended = Child(results.with_suffix(".console"), try_files, part, marker, results).wait()
        problems = [json.loads(text) for text in results.read_text().splitlines()]
        for problem in problems:
            tally.count(problem)
        if len(problems) < len(part):
            name, _ = part[len(problems)]
            problems.append(f"{name}: ended the process ({ended.status})")
            tally.count(problems[-1])
        files = files[len(problems) :]


def try_files(files: Sequence[tuple[str, Path]], marker: Path, results: Path) -> None:
    """Load each file; one JSON line with what is wrong with how it was refused, or null."""
    with results.open("w", buffering=1) as file:
        for name, path in files:
            begin = time.monotonic()
            status, text = captured(time_limit(), functools.partial(load, path))
            problem = complaint(name, Ended(int(str(status or 0)), text, time.monotonic() - begin))
            if marker.exists():
                problem = f"{name}: executed"
                marker.unlink()
            file.write(json.dumps(problem) + "\n")


def complaint(name: str, ended: Ended) -> str | None:
    lines = ended.text.splitlines()
    if ended.status == 2 and len(lines) == 1 and lines[0].startswith("error: "):
        return None
    return f"{name}: status {ended.status}: {lines[-1] if lines else 'nothing said'}"


def load(path: Path) -> None:
    """`models.load`, ending as a script would."""
    try:
        models.load(path)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
