"""What it costs and saves how threads wait: `python benchmarks/openmp_waiting.py`.

Three processes take turns, each with as many threads as there are cores. Threads of OpenMP wait in
one of them briefly and then asleep, as everywhere in Crossover (`core.openmp`), in another asleep
at once, and in the last as the library's default has them, spinning for milliseconds. All train
the 5m presets at 512 tokens and decode 100 tokens, on the machine as it is and beside one process
that keeps a core busy. Each time is a mean over seconds of steady work: who has slept for long is
given a core at once, so a short burst does not show what a busy neighbour costs. Prints a table in
Markdown.
"""

from __future__ import annotations

from scripts.cli.launch import script

if __name__ == "__main__":
    script("benchmarks.openmp_waiting:main")

from core.openmp import BLOCKTIME, BRIEFLY, SPINS

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from statistics import fmean
from typing import Any

import torch
from torch.utils.benchmark import timer

from benchmarks.harness import Row, Samples, interleave, parse, parser, publish, table, timed
from benchmarks.processes import Child, spinning
from benchmarks.training_step import our_step, small_rwkv, small_transformer, some_tokens
from models.decoding.captured import Decoder

LENGTH, DECODED = 512, 100
WAYS = {
    "briefly": BRIEFLY,
    "asleep": {**BRIEFLY, SPINS: "0"},
    "spinning": {BLOCKTIME: "200"},  # its default of Intel's and LLVM's; GNU's is left alone
}
STEADY, START = 2.0, 0.5
"""Seconds of work behind one time, and of it at the beginning that do not count."""
WORKS = ("rwkv4 train", "rwkv4 decode", "transformer train", "transformer decode")
COLUMNS = (
    "work, milliseconds",
    *(f"{way}, {machine}" for machine in ("idle", "beside one") for way in WAYS),
    *(f"{way} over spinning, idle" for way in WAYS if way != "spinning"),
    *(f"{way}, beside one over idle" for way in WAYS),
)
Case = tuple[str, str, int]
"""A way of waiting, a work, and the number of busy processes."""


def main() -> None:
    """Run the rounds and print the table; with --serve, be one of the processes."""
    made = parser(__doc__, rounds=5)
    made.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parse(made)
    if arguments.serve:
        serve()
    else:
        rows = table(COLUMNS, waiting_rows(arguments.rounds, arguments.threads))
        publish("How threads wait", rows, arguments=arguments)


def waiting_rows(rounds: int, threads: int) -> Iterator[Row]:
    """Medians of all cases, what not spinning costs when idle, and what a busy process costs."""
    seconds = measure(rounds, threads)
    for work in WORKS:
        cases = [seconds[way, work, beside] for beside in (0, 1) for way in WAYS]
        spins = seconds["spinning", work, 0]
        idle = [seconds[way, work, 0].over(spins) for way in WAYS if way != "spinning"]
        busy = [seconds[way, work, 1].over(seconds[way, work, 0]) for way in WAYS]
        figures = [f"{1e3 * case.median:.1f}" for case in cases]
        yield Row(work, (*figures, *(f"{ratio.median:.2f}" for ratio in (*idle, *busy))))


def measure(rounds: int, threads: int) -> dict[Case, Samples]:
    """Seconds of every case, all in turns."""
    clean = {name: value for name, value in os.environ.items() if name not in BRIEFLY}
    command = [__file__, "--serve", "--threads", str(threads)]
    with ExitStack() as stack:
        children = {
            way: stack.enter_context(Child(command, {**clean, **settings}))
            for way, settings in WAYS.items()
        }

        def beside(case: Case) -> float:
            way, work, busy = case
            with spinning(busy):
                return steady(partial(children[way].seconds, work))

        cases = [(way, work, busy) for work in WORKS for way in WAYS for busy in (0, 1)]
        return interleave({case: partial(beside, case) for case in cases}, rounds)


def steady(seconds_of_one: Callable[[], float]) -> float:
    """Mean seconds of one piece of work, over `STEADY` seconds of it after `START`."""
    times: list[float] = []
    began = timer()
    while timer() - began < START + STEADY or not times:
        late = timer() - began >= START
        seconds = seconds_of_one()
        if late:
            times.append(seconds)
    return fmean(times)


def serve() -> None:
    """Do what each line of standard input asks for, and answer with the seconds it took."""
    tokens = some_tokens(1, LENGTH)
    works: dict[str, Callable[[], object]] = {}
    for name, model in (("rwkv4", small_rwkv()), ("transformer", small_transformer())):
        works[f"{name} train"] = partial(our_step(model), tokens)
        works[f"{name} decode"] = partial(decode, model)
    for line in sys.stdin:
        print(timed(works[line.strip()])(), flush=True)


@torch.no_grad()
def decode(model: Any) -> None:
    """100 tokens, one by one, from an empty state, as `generate` does."""
    model.eval()
    token = torch.zeros(1, 1, dtype=torch.long)
    decoder = Decoder(model, model.init_state(1, DECODED), DECODED)
    for _ in range(DECODED):
        token = decoder(token)[:, -1].argmax(-1, keepdim=True)
