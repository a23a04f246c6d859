"""What every benchmark shares: interleaved timing, a row, a table, a header, a command line.

Pieces that are compared take turns, so that drift of the machine falls on all of them alike; what
counts is their ratio, round by round. This module needs nothing but torch.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import itertools
import os
import platform
import random
import re
import shlex
import statistics
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch.utils.benchmark import timer

from core.environment import ROOT, commit, cpu_name

FLUSH_BYTES = 256 << 20
"""What is written before each time on a GPU, so that nothing is found in its cache."""
Name = TypeVar("Name", bound=Hashable)
Measure = Callable[[], float]
"""Does a piece of work once and returns the seconds it took."""


@dataclass(frozen=True)
class Samples:
    """One quantity, measured once in each round: seconds, or a ratio of them."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def best(self) -> float:
        """The smallest value, which other processes delayed least."""
        return min(self.values)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The lower and the upper one; the value itself where there is only one."""
        if len(self.values) == 1:
            return self.values[0], self.values[0]
        low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
        return low, high

    def over(self, other: Samples) -> Samples:
        """The ratio to another quantity, round by round."""
        return Samples(tuple(a / b for a, b in zip(self.values, other.values, strict=True)))

    def scaled(self, factor: float) -> Samples:
        return Samples(tuple(factor * value for value in self.values))

    def rates(self, amount: float) -> Samples:
        """How much is done in a second, if `amount` takes as many seconds as measured."""
        return Samples(tuple(amount / value for value in self.values))

    def spread(self, form: str = ".2f") -> str:
        """`1.03 (0.98 to 1.10)`: the median and both extremes."""
        return self._text(form, min(self.values), max(self.values))

    def middle(self, form: str = ".2f") -> str:
        """`1.03 (1.01 to 1.05)`: the median and both quartiles."""
        return self._text(form, *self.quartiles)

    def _text(self, form: str, low: float, high: float) -> str:
        return f"{self.median:{form}} ({low:{form}} to {high:{form}})"


def interleave(pieces: Mapping[Name, Measure], rounds: int, warmup: int = 1) -> dict[Name, Samples]:
    """Measure each piece once in every round, in random order; `warmup` more rounds come first."""
    values: dict[Name, list[float]] = {name: [] for name in pieces}
    for number in range(rounds + warmup):
        for name in random.sample(list(pieces), len(pieces)):
            seconds = pieces[name]()
            if number >= warmup:
                values[name].append(seconds)
    return {name: Samples(tuple(measured)) for name, measured in values.items()}


def timed(work: Callable[[], object], number: int = 1, clock: Measure = timer) -> Measure:
    """Seconds of a call of `work`, the mean of `number` calls in a row."""

    def measure() -> float:
        began = clock()
        for _ in range(number):
            result = work()
        seconds = (clock() - began) / number
        del result  # it is freed behind the clock
        return seconds

    return measure


def timed_on_gpu(work: Callable[[], object]) -> Measure:
    """Seconds of a call of `work` between two CUDA events, the cache flushed before."""
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")

    def measure() -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        flush.zero_()
        start.record()
        work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    return measure


def in_turns(
    works: Mapping[Name, Callable[[], object]],
    rounds: int,
    warmup: int = 1,
    clocked: Callable[[Callable[[], object]], Measure] = timed,
) -> dict[Name, Samples]:
    """Seconds of a call of each, interleaved; `clocked` is `timed` or `timed_on_gpu`."""
    return interleave({name: clocked(work) for name, work in works.items()}, rounds, warmup)


# ---------------------------------------------------------------- what is printed


@dataclass(frozen=True)
class Row:
    """A line of a table: what was measured, and its figures in the order of the columns."""

    what: str
    figures: Sequence[str]


def table(columns: Sequence[str], rows: Iterable[Row], title: str = "") -> Iterator[str]:
    """Lines of a Markdown table, each as soon as its row is there; figures may be missing."""
    if title:
        yield from (f"## {title}", "")
    yield f"| {' | '.join(columns)} |"
    yield "|---" + "|--:" * (len(columns) - 1) + "|"
    for row in rows:
        blank = [""] * (len(columns) - 1 - len(row.figures))
        yield f"| {' | '.join([row.what, *row.figures, *blank])} |"


def header(packages: Sequence[str] = (), seed: int | None = None) -> list[str]:
    """The machine, versions (those of `packages` too), commit and command, as Markdown."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    machine = f"{cpu_name()}, {torch.get_num_threads()} threads, {memory:.0f} GiB"
    if torch.cuda.is_available():
        machine += f"; {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    versions = [f"Python {platform.python_version()}", f"torch {torch.__version__}"]
    versions += [f"{name} {version(name) or 'is missing'}" for name in packages]
    file = Path(sys.argv[0]).resolve()
    command = str(file.relative_to(ROOT)) if file.is_relative_to(ROOT) else file.name
    words = f"python {shlex.join([command, *sys.argv[1:]])}"
    revision, plus, dirty = commit().partition("+")
    seeded = "" if seed is None else f", seed {seed}"
    return [
        f"* {machine}",
        f"* {', '.join(versions)}",
        f"* `{words}`{seeded}, {datetime.date.today()}, commit {revision[:12]}{plus}{dirty}",
    ]


def version(package: str) -> str | None:
    """The version of an installed package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def publish(
    title: str,
    *parts: Iterable[str],
    packages: Sequence[str] = (),
    arguments: argparse.Namespace | None = None,
) -> None:
    """Print the title, the header and the parts, line by line as they are made.

    With `--out FOLDER` they are also written to a file of it, named after day, script and device.
    """
    lines = []
    seed = arguments.seed if arguments else None
    for part in ([f"# {title}"], header(packages, seed), *parts):
        for line in itertools.chain(part, [""]):  # a table prints each row when it is there
            print(line, flush=True)
            lines.append(line)
    if arguments and arguments.out:
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()
        words = f"{datetime.date.today()} {Path(sys.argv[0]).stem} {device}"
        name = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")
        arguments.out.mkdir(parents=True, exist_ok=True)
        path = arguments.out / f"{name}.md"
        path.write_text("\n".join(lines))
        print(f"written to {path}")


# ---------------------------------------------------------------- the command line


def parser(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """The options that all benchmarks have; the description is the first line of a docstring."""
    made = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    made.add_argument("--rounds", type=int, default=rounds, help="measurements of each piece")
    made.add_argument("--threads", type=int, default=0, help="0: PyTorch's default")
    made.add_argument("--seed", type=int, default=0, help="-1: a new one each time")
    made.add_argument("--out", type=Path, help="folder to write the record to as well")
    return made


def parse(made: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments, after setting threads and seeds as they say."""
    arguments = made.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.seed < 0:
        arguments.seed = random.SystemRandom().randrange(2**31)
    torch.manual_seed(arguments.seed)
    random.seed(arguments.seed)
    return arguments
