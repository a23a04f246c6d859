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
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from statistics import median

import torch

from benchmarks.busy import spinning
from conf.schema import OptimConf
from core.environment import commit, cpu_name
from models.rwkv4 import RWKV4, RWKV4Config
from models.transformer import Transformer, TransformerConfig
from training.loop.optim import build_optimizer

VOCAB, LAYERS, WIDTH, HEADS, LENGTH, DECODED = 3072, 4, 256, 4, 512, 100
WAYS = {
    "asleep": {POLICY: "PASSIVE", BLOCKTIME: "0"},
    "spinning": {BLOCKTIME: "200"},  # its default of Intel's and LLVM's; GNU's is left alone
}
WORKS = ("rwkv4 train", "rwkv4 decode", "transformer train", "transformer decode")


def main() -> None:
    """Run the rounds and print the table; with --serve, be one of the two processes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return
    print(f"{cpu_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {commit()}")
    seconds = measure(arguments.rounds)
    print(
        "\n| work, milliseconds | asleep, idle | spinning, idle | cost of sleep, idle | "
        "asleep, beside one | spinning, beside one | asleep: beside one / idle |\n"
        "|---|--:|--:|--:|--:|--:|--:|"
    )
    for work in WORKS:
        sleeping, spin = ([seconds[way, work, beside] for beside in (0, 1)] for way in WAYS)
        cost = median(a / b for a, b in zip(sleeping[0], spin[0], strict=True)) - 1
        figures = [1e3 * median(times) for times in (sleeping[0], spin[0], sleeping[1], spin[1])]
        print(
            f"| {work} | {figures[0]:.1f} | {figures[1]:.1f} | {cost:+.1%} | {figures[2]:.1f} | "
            f"{figures[3]:.1f} | {figures[2] / figures[0]:.2f} |"
        )


def measure(rounds: int) -> dict[tuple[str, str, int], list[float]]:
    """Seconds of every round by way of waiting, work, and number of busy processes."""
    clean = {name: value for name, value in os.environ.items() if name not in (POLICY, BLOCKTIME)}
    times: dict[tuple[str, str, int], list[float]] = {}
    with ExitStack() as stack:
        servers = {
            way: stack.enter_context(
                subprocess.Popen(
                    [sys.executable, __file__, "--serve"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env={**clean, **settings},
                )
            )
            for way, settings in WAYS.items()
        }
        for number in range(rounds + 1):
            for beside in (0, 1):
                with spinning(beside):
                    for work in WORKS:
                        for way, server in list(servers.items())[:: 1 - 2 * (number % 2)]:
                            taken = asked(server, work)
                            if number:  # the first round warms up
                                times.setdefault((way, work, beside), []).append(taken)
        for server in servers.values():
            assert server.stdin is not None
            server.stdin.close()
    return times


def asked(server: subprocess.Popen[str], work: str) -> float:
    """Seconds that the process took for it."""
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write(f"{work}\n")
    server.stdin.flush()
    return float(server.stdout.readline())


def serve() -> None:
    """Do what each line of standard input asks for, and answer with the seconds it took."""
    works: dict[str, Callable[[], None]] = {}
    for model in (
        RWKV4(RWKV4Config(VOCAB, LAYERS, WIDTH)),
        Transformer(TransformerConfig(VOCAB, LAYERS, WIDTH, HEADS)),
    ):
        name = "rwkv4" if isinstance(model, RWKV4) else "transformer"
        works[f"{name} train"] = training(model)
        works[f"{name} decode"] = decoding(model)
    for line in sys.stdin:
        began = time.perf_counter()
        works[line.strip()]()
        print(time.perf_counter() - began, flush=True)


def training(model: RWKV4 | Transformer) -> Callable[[], None]:
    """One step on 512 tokens: forward, backward, AdamW."""
    optimizer = build_optimizer(model, OptimConf())
    tokens = torch.randint(0, VOCAB, (1, LENGTH), generator=torch.Generator().manual_seed(0))

    def step() -> None:
        model.train()
        optimizer.zero_grad()
        loss, _ = model.loss(tokens, tokens)
        loss.backward()
        optimizer.step()

    return step


def decoding(model: RWKV4 | Transformer) -> Callable[[], None]:
    """100 tokens, one by one, from an empty state."""

    @torch.no_grad()
    def decode() -> None:
        model.eval()
        token = torch.zeros(1, 1, dtype=torch.long)
        state = model.init_state(1, DECODED)
        for _ in range(DECODED):
            logits, state = model.next_logits(token, state)
            token = logits.argmax(-1, keepdim=True).view(1, 1)

    return decode
