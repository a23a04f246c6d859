"""A route whose first model fails, again and again: `python benchmarks/failover.py`.

A server on this machine has a Transformer and an RWKV-7 of one size, with random weights, and a
route over both. While the first reads a prompt or answers, its worker is killed (SIGKILL), stopped
(SIGSTOP) or denied more memory (prlimit), from outside and at a random instant. Counted is what the
official client then gets: an answer of the second model, with the tokens that it gives alone, and
after how long.
"""

from __future__ import annotations

from scripts.cli.launch import script

if __name__ == "__main__":
    script("benchmarks.failover:main")

import os
import random
import resource
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import openai
import psutil

from benchmarks.harness import Row, Samples, parse, parser, publish, table
from benchmarks.local_server import local_server
from serving.app import Limits
from serving.failover import Patience
from serving.routes import Route
from serving.supervisor import Supervisor

FIRST, SECOND = "transformer", "rwkv7"
FAULTS = {"killed": "dead", "stalled": "deadline", "out of memory": "out_of_memory"}
"""What befalls the worker, and how the route calls it."""
TOKENS = 32  # of an answer
PROMPT, LONG = 600, 8192  # tokens; the long one's caches do not fit into what is left
ROOM = 8 << 20  # bytes that a worker without memory may still take
COLUMNS = (
    "its worker is", "trials", "answered by the other", "with its tokens", "within the time",
    "seconds, median", "longest", "reasons",
)  # fmt: skip


@dataclass
class Tally:
    """What came of the trials with one fault."""

    seconds: list[float] = field(default_factory=list)
    answered: int = 0
    right: int = 0
    within: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    missed: int = 0
    """Faults that came after the answer; these are no trials."""


@dataclass
class Server:
    """One that listens, with both models and the route `best`."""

    client: openai.OpenAI
    first: Supervisor

    def ask(self, model: str, prompt: str, tokens: int = TOKENS) -> Any:
        return self.client.completions.create(
            model=model, prompt=prompt, max_tokens=tokens, temperature=0
        )

    def fail(self, fault: str) -> None:
        """Have something befall the worker of the first model."""
        pid = self.first.pid
        if fault == "killed":
            os.kill(pid, signal.SIGKILL)
        elif fault == "stalled":
            os.kill(pid, signal.SIGSTOP)
        else:
            hard = resource.prlimit(pid, resource.RLIMIT_DATA)[1]
            resource.prlimit(pid, resource.RLIMIT_DATA, (_data(pid) + ROOM, hard))

    def recover(self) -> None:
        """Let the worker go on, and wait until it answers, which closes its breaker."""
        while not self.first.is_ready:  # another worker is being started
            time.sleep(0.01)
        with suppress(ProcessLookupError):  # its end has not been noticed yet
            pid = self.first.pid
            hard = resource.prlimit(pid, resource.RLIMIT_DATA)[1]
            resource.prlimit(pid, resource.RLIMIT_DATA, (hard, hard))
            os.kill(pid, signal.SIGCONT)
        assert self.ask(FIRST, "x", 1).model == FIRST


def main() -> None:
    """Provoke every fault and print the table."""
    made = parser(__doc__, rounds=50)
    made.add_argument("--size", default="5m", help="of both models")
    made.add_argument("--deadline", type=float, default=2.0, help="seconds to the next token")
    made.add_argument("--within", type=float, default=15.0, help="seconds for the whole answer")
    arguments = parse(made)

    def rows() -> Iterator[Row]:
        with started(arguments.size, arguments.deadline) as server:
            for fault in FAULTS:
                tally = Tally()
                while len(tally.seconds) < arguments.rounds:
                    trial(server, fault, tally, arguments.within)
                yield _row(fault, tally)

    title = "Failover of a route"
    publish(title, table(COLUMNS, rows()), packages=("openai", "uvicorn"), arguments=arguments)


def trial(server: Server, fault: str, tally: Tally, within: float) -> None:
    """Ask the route, let the fault happen meanwhile, and count what comes of it."""
    is_before = fault == "out of memory"  # of memory that the request would take
    length = LONG if is_before else PROMPT
    prompt = "".join(random.choices("etaoin shrdlu", k=length))  # that nobody has read before
    if is_before:
        server.fail(fault)
    with ThreadPoolExecutor(1) as threads:
        began = time.perf_counter()
        asked = threads.submit(server.ask, "best", prompt)
        while not server.first.waiting and not asked.done():
            time.sleep(0.001)
        if not is_before:
            time.sleep(random.uniform(0, 0.3))
            server.fail(fault)
        said = asked.result()
    seconds = time.perf_counter() - began
    server.recover()
    passed = said.model_extra["crossover"]["route"]["passed"]
    if not passed:
        tally.missed += 1
        return
    tally.seconds.append(seconds)
    tally.answered += said.model == SECOND
    tally.within += seconds <= within
    tally.reasons[passed[0]["reason"]] += 1
    alone = server.ask(SECOND, prompt)
    tally.right += said.choices[0].text == alone.choices[0].text


@contextmanager
def started(size: str, deadline: float) -> Iterator[Server]:
    """A server with both models."""
    limits = Limits(patience=Patience(deadline, deadline))
    with local_server((FIRST, SECOND), size, limits, [Route("best", (FIRST, SECOND))]) as local:
        client = openai.OpenAI(base_url=local.url, api_key="none", max_retries=0, timeout=600)
        try:
            yield Server(client, local.models[FIRST].supervisor)
        finally:
            client.close()


def _data(pid: int) -> int:
    """Bytes that count against RLIMIT_DATA."""
    return int(psutil.Process(pid).memory_info().data)


def _row(fault: str, tally: Tally) -> Row:
    trials, seconds = len(tally.seconds), Samples(tuple(tally.seconds))
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(tally.reasons.items()))
    counts = (trials, tally.answered, tally.right, tally.within)
    return Row(
        fault,
        (*map(str, counts), f"{seconds.median:.2f}", f"{max(seconds.values):.2f}", reasons),
    )
