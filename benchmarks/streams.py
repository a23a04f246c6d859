"""Many streams at once while workers are killed: `python benchmarks/streams.py`.

A server on this machine has one model of random weights. Clients ask it for greedy answers as
streams, one after another without a pause, and its worker is killed (SIGKILL) at intervals. Every
stream must end, with the tokens that a client alone was given before.
"""

from __future__ import annotations

from scripts.cli.launch import script

if __name__ == "__main__":
    script("benchmarks.streams:main")

import asyncio
import os
import random
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import openai

from benchmarks.harness import Row, parse, parser, publish, table
from benchmarks.local_server import LocalServer, local_server
from serving.app import Limits
from serving.supervisor import Supervisor

COLUMNS = (
    "model", "streams at once", "minutes", "workers killed", "answers", "lost", "with other tokens",
    "left in the server", "tokens/s", "to the first token, median", "99 %",
)  # fmt: skip
PROMPTS = 40
LENGTHS = (1, 400)  # tokens of a prompt
TOKENS = (1, 64)  # of an answer


@dataclass(frozen=True)
class Question:
    """What is asked, and the text that a client alone was answered."""

    prompt: str
    tokens: int
    text: str


@dataclass
class Tally:
    """What came of all streams."""

    answers: int = 0
    lost: int = 0
    wrong: int = 0
    tokens: int = 0
    killed: int = 0
    left: int = 0
    """Requests that the server still waits for when every client has its answer."""
    first: list[float] = field(default_factory=list)
    """Seconds to the first token."""
    seconds: float = 0.0


def main() -> None:
    """Run the trial and print its row."""
    made = parser(__doc__, rounds=1)
    made.add_argument("--model", default="rwkv7")
    made.add_argument("--size", default="1m")
    made.add_argument("--streams", type=int, default=64, help="clients at once")
    made.add_argument("--minutes", type=float, default=10.0)
    made.add_argument("--every", type=float, default=20.0, help="seconds between two kills")
    arguments = parse(made)
    limits = Limits(waiting=2 * arguments.streams)
    with local_server([arguments.model], arguments.size, limits) as server:
        tally = asyncio.run(
            trial(server, arguments.streams, 60 * arguments.minutes, arguments.every)
        )
    row = Row(
        f"{arguments.model} {arguments.size}",
        (
            str(arguments.streams), f"{arguments.minutes:g}", str(tally.killed),
            f"{tally.answers:,}", str(tally.lost), str(tally.wrong), str(tally.left),
            f"{tally.tokens / tally.seconds:.0f}", f"{_of(tally.first, 0.5):.2f} s",
            f"{_of(tally.first, 0.99):.2f} s",
        ),
    )  # fmt: skip
    title = "Streams while workers are killed"
    publish(title, table(COLUMNS, [row]), packages=("openai", "uvicorn"), arguments=arguments)


async def trial(server: LocalServer, streams: int, seconds: float, every: float) -> Tally:
    """Let `streams` clients ask for so many seconds, the worker killed `every` so many."""
    (model,) = server.models
    supervisor = server.models[model].supervisor
    client = openai.AsyncOpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=600)
    tally = Tally()
    async with client:
        questions = [await _question(client, model) for _ in range(PROMPTS)]
        began = time.perf_counter()
        ends = began + seconds
        killer = asyncio.create_task(_kill(supervisor, every, tally))
        try:
            clients = (_ask(client, model, questions, ends, tally) for _ in range(streams))
            await asyncio.gather(*clients)
        finally:
            killer.cancel()
            with suppress(asyncio.CancelledError):
                await killer
        tally.seconds = time.perf_counter() - began
    tally.left = supervisor.waiting
    return tally


async def _question(client: openai.AsyncOpenAI, model: str) -> Question:
    prompt = "".join(random.choices("etaoin shrdlu", k=random.randint(*LENGTHS)))
    tokens = random.randint(*TOKENS)
    said = await client.completions.create(
        model=model, prompt=prompt, max_tokens=tokens, temperature=0
    )
    return Question(prompt, tokens, said.choices[0].text)


async def _ask(
    client: openai.AsyncOpenAI,
    model: str,
    questions: Sequence[Question],
    ends: float,
    tally: Tally,
) -> None:
    while time.perf_counter() < ends:
        question = random.choice(questions)
        began, text, reason = time.perf_counter(), "", None
        is_first = True
        try:
            stream = await client.completions.create(
                model=model, prompt=question.prompt, max_tokens=question.tokens, temperature=0,
                stream=True,
            )  # fmt: skip
            async for part in stream:
                for choice in part.choices:
                    if is_first:
                        tally.first.append(time.perf_counter() - began)
                        is_first = False
                    text += choice.text
                    reason = choice.finish_reason or reason
        except openai.OpenAIError:
            tally.lost += 1
            continue
        tally.answers += 1
        tally.lost += reason is None
        tally.wrong += reason is not None and text != question.text
        tally.tokens += question.tokens


async def _kill(supervisor: Supervisor, every: float, tally: Tally) -> None:
    while True:
        await asyncio.sleep(every)
        with suppress(ProcessLookupError):
            os.kill(supervisor.pid, signal.SIGKILL)
            tally.killed += 1


def _of(values: Sequence[float], share: float) -> float:
    """The value below which so large a share of them lies."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
