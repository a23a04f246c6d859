"""What it costs that threads wait asleep, and what it saves: `python benchmarks/openmp_waiting.py`.

Two processes take turns, each with as many threads as there are cores: in one, threads of OpenMP
wait as everywhere in Crossover (`core.openmp`), in the other as the library's default has them,
spinning. Both train the 5m presets at 512 tokens and decode 100 tokens, on the machine as it is and
beside one process that keeps a core busy. Prints a table in Markdown.
"""

from __future__ import annotations

from scripts.cli.launch import script

if __name__ == "__main__":
    script("benchmarks.openmp_waiting:main")

from core.openmp import BLOCKTIME, POLICY

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch

from benchmarks.harness import Row, Samples, interleave, parse, parser, publish, table, timed
from benchmarks.processes import Child, spinning
from benchmarks.training_step import our_step, small_rwkv, small_transformer, some_tokens

LENGTH, DECODED = 512, 100
WAYS = {
    "asleep": {POLICY: "PASSIVE", BLOCKTIME: "0"},
    "spinning": {BLOCKTIME: "200"},  # its default of Intel's and LLVM's; GNU's is left alone
}
WORKS = ("rwkv4 train", "rwkv4 decode", "transformer train", "transformer decode")
COLUMNS = (
    "work, milliseconds",
    *(f"{way}, {machine}" for machine in ("idle", "beside one") for way in WAYS),
    "cost of sleep, idle",
    "asleep: beside one / idle",
)
Case = tuple[str, str, int]
"""A way of waiting, a work, and the number of busy processes."""


def main() -> None:
    """Run the rounds and print the table; with --serve, be one of the two processes."""
    made = parser(__doc__, rounds=7)
    made.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parse(made)
    if arguments.serve:
        serve()
    else:
        rows = table(COLUMNS, waiting_rows(arguments.rounds, arguments.threads))
        publish("Threads that wait asleep", rows, arguments=arguments)


def waiting_rows(rounds: int, threads: int) -> Iterator[Row]:
    """Medians of all cases, what sleeping costs when idle, and what a busy process costs."""
    seconds = measure(rounds, threads)
    for work in WORKS:
        cases = [seconds[way, work, beside] for beside in (0, 1) for way in WAYS]
        sleeping, spins, sleeping_beside, _ = cases
        cost = sleeping.over(spins).median - 1
        yield Row(
            work,
            (
                *(f"{1e3 * case.median:.1f}" for case in cases),
                f"{cost:+.1%}",
                f"{sleeping_beside.median / sleeping.median:.2f}",
            ),
        )


def measure(rounds: int, threads: int) -> dict[Case, Samples]:
    """Seconds of every case, all in turns."""
    clean = {name: value for name, value in os.environ.items() if name not in (POLICY, BLOCKTIME)}
    command = [__file__, "--serve", "--threads", str(threads)]
    with ExitStack() as stack:
        children = {
            way: stack.enter_context(Child(command, {**clean, **settings}))
            for way, settings in WAYS.items()
        }

        def beside(case: Case) -> float:
            way, work, busy = case
            with spinning(busy):
                return children[way].seconds(work)

        cases = [(way, work, busy) for work in WORKS for way in WAYS for busy in (0, 1)]
        return interleave({case: partial(beside, case) for case in cases}, rounds)


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
    """100 tokens, one by one, from an empty state."""
    model.eval()
    token = torch.zeros(1, 1, dtype=torch.long)
    state = model.init_state(1, DECODED)
    for _ in range(DECODED):
        logits, state = model.next_logits(token, state)
        token = logits.argmax(-1, keepdim=True).view(1, 1)
