"""Requests outlive the processes that answer them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from core.errors import UserError
from models.decoding.settings import Sampling
from serving import worker
from serving.engine import Engine
from serving.requests import (
    AtWork,
    Drawn,
    Failed,
    Finished,
    Interrupted,
    Late,
    Loaded,
    Request,
    Told,
)
from serving.supervisor import Supervisor
from tests.registered_models import shaken
from tests.serving.opened import opened

REQUESTS = [
    Request(0, tuple(range(10 + n)), 30 + n, Sampling(temperature=n % 3 / 2, seed=n))
    for n in range(6)
]


def using(
    opener: Callable[[], Loaded], test: Callable[[Supervisor], Awaitable[Any]], **options: Any
) -> Any:
    async def body() -> Any:
        supervisor = Supervisor("tiny", opener, threads=1, **options)
        try:
            await supervisor.start()
            return await test(supervisor)
        finally:
            await supervisor.close()

    return asyncio.run(asyncio.wait_for(body(), 300))


async def answer(supervisor: Supervisor, request: Request) -> list[int]:
    tokens = []
    async for event in supervisor.ask(request):
        assert not isinstance(event, Failed), event
        tokens += [event.token] if isinstance(event, Drawn) else []
    return tokens


def test_killed_workers_lose_no_request_and_change_no_token(tmp_path: Path) -> None:
    async def alone(supervisor: Supervisor) -> list[list[int]]:
        return [await answer(supervisor, request) for request in REQUESTS]

    async def killed(supervisor: Supervisor) -> tuple[list[list[int]], int]:
        async def kill() -> None:
            for _ in range(3):
                while not supervisor.is_ready or not supervisor.waiting:
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.02)
                os.kill(supervisor.pid, signal.SIGKILL)
                await asyncio.sleep(0.1)

        longer = [Request(0, (1, 2), 3000)]  # so that something is left to kill
        answers, _ = await asyncio.gather(
            asyncio.gather(*(answer(supervisor, one) for one in [*REQUESTS, *longer])), kill()
        )
        return answers[:-1], supervisor.restarts

    opener = partial(opened, "rwkv7", tmp_path)
    expected = using(opener, alone)
    answers, restarts = using(opener, killed)
    assert answers == expected and restarts >= 1


def test_a_worker_that_says_nothing_is_replaced(tmp_path: Path) -> None:
    async def stalled(supervisor: Supervisor) -> int:
        task = asyncio.create_task(answer(supervisor, Request(0, (1, 2), 2000)))
        await asyncio.sleep(0.05)
        os.kill(supervisor.pid, signal.SIGSTOP)
        assert len(await task) == 2000
        return supervisor.restarts

    assert using(partial(opened, "rwkv4", tmp_path), stalled, stalled=4.0) >= 1


def test_who_leaves_a_silent_worker_has_it_replaced_too(tmp_path: Path) -> None:
    """As a route does after its deadline: nobody waits for an answer, but a word is owed."""

    async def stalled(supervisor: Supervisor) -> int:
        os.kill(supervisor.pid, signal.SIGSTOP)
        now = asyncio.get_running_loop().time
        events = supervisor.ask(Request(0, (1, 2), 5), lambda: now() + 0.05)
        assert [await anext(events), await anext(events)] == [Late(1), Late(1)]
        await events.aclose()  # type: ignore[attr-defined]
        while not supervisor.restarts:
            await asyncio.sleep(0.05)
        assert len(await answer(supervisor, Request(0, (1, 2), 5, Sampling(0)))) == 5
        return supervisor.restarts

    assert using(partial(opened, "rwkv4", tmp_path), stalled, stalled=2.0) >= 1


def test_a_word_is_had_of_a_request_that_was_cancelled(tmp_path: Path) -> None:
    async def left(supervisor: Supervisor) -> int:
        for _ in range(3):
            events = supervisor.ask(Request(0, (1, 2), 10_000))
            await anext(events)
            await events.aclose()  # type: ignore[attr-defined]
            while supervisor._owed is not None:
                await asyncio.sleep(0.01)
        return supervisor.restarts

    assert using(partial(opened, "rwkv4", tmp_path), left) == 0


def test_who_waits_hears_that_a_worker_ended(tmp_path: Path) -> None:
    async def killed(supervisor: Supervisor) -> list[Told]:
        told = []
        async for event in supervisor.ask(Request(0, (1, 2), 500)):
            told.append(event)
            if len(told) == 20:
                os.kill(supervisor.pid, signal.SIGKILL)
        return told

    told = using(partial(opened, "rwkv4", tmp_path), killed)
    assert [event for event in told if isinstance(event, Interrupted)] == [Interrupted(1)]
    assert isinstance(told[-1], Finished)
    assert len([event for event in told if isinstance(event, Drawn)]) == 500


def dies(folder: Path) -> Loaded:
    """A model that ends its process when it reads the token 13."""
    loaded = opened("rwkv4", folder)

    def look(module: Any, arguments: tuple[Any, ...]) -> None:
        if (arguments[0] == 13).any():
            os._exit(9)

    loaded.model.emb.register_forward_pre_hook(look)
    return loaded


def test_a_request_that_ends_every_worker_is_given_up(tmp_path: Path) -> None:
    async def body(supervisor: Supervisor) -> tuple[list[Told], list[int]]:
        events = [event async for event in supervisor.ask(Request(0, (1, 13), 5))]
        return events, await answer(supervisor, Request(0, (1, 2), 5, Sampling(0)))

    events, tokens = using(partial(dies, tmp_path), body)
    assert isinstance(events[-1], Failed)
    assert events[-1].message == "5 workers ended while they answered this request"
    assert len(tokens) == 5


def test_those_that_wait_are_not_blamed_for_it(tmp_path: Path) -> None:
    """Prompts of 2 tokens behind the one that ends its worker are not given up with it."""

    async def last(supervisor: Supervisor, request: Request) -> Told:
        return [event async for event in supervisor.ask(request)][-1]

    async def body(supervisor: Supervisor) -> list[Told]:
        prompts = [(1, 13), (1, 2), (3, 4), (5, 6)]
        asked = [last(supervisor, Request(0, prompt, 5)) for prompt in prompts]
        return await asyncio.gather(*asked)

    poisoned, *others = using(partial(dies, tmp_path), body)
    assert isinstance(poisoned, Failed)
    assert [type(event) for event in others] == [Finished] * 3


class Pipe:
    """What a worker is asked at once, and what it says until nothing is left to answer."""

    def __init__(self, asked: list[Request]) -> None:
        self.asked, self.said = asked, list[Any]()

    def poll(self, timeout: float | None) -> bool:
        if timeout is None and not self.asked:
            raise EOFError
        return bool(self.asked)

    def recv(self) -> Request:
        return self.asked.pop(0)

    def send(self, said: Any) -> None:
        self.said.append(said)


def test_a_worker_says_for_whom_it_computes_before_it_does() -> None:
    """Also where several requests come before the first round, which is for one of them."""
    pipe = Pipe([Request(number, (1, 2), 3) for number in (1, 2, 3)])
    with pytest.raises(EOFError):
        worker._answer(pipe, Engine(shaken("rwkv4").eval()))
    at_work: frozenset[int] = frozenset()
    rounds = []
    for said in pipe.said:
        if isinstance(said, AtWork):
            at_work = said.ids
        elif said:
            assert {event.id for event in said} <= at_work
            rounds.append(set(at_work))
    assert rounds[:3] == [{1}, {1, 2}, {1, 2, 3}]


def refuses(folder: Path) -> Loaded:
    if (folder / "gone").exists():
        raise UserError("the weights are gone")
    return opened("rwkv4", folder)


def test_a_model_that_cannot_be_opened_is_one_message(tmp_path: Path) -> None:
    async def body(supervisor: Supervisor) -> list[list[Told]]:
        (tmp_path / "gone").touch()
        os.kill(supervisor.pid, signal.SIGKILL)
        first = [event async for event in supervisor.ask(Request(0, (1, 2), 5))]
        again = [event async for event in supervisor.ask(Request(0, (1, 2), 5))]
        (tmp_path / "gone").unlink()
        return [first, again, [event async for event in supervisor.ask(Request(0, (1, 2), 5))]]

    opener = partial(refuses, tmp_path)
    first, again, last = using(opener, body)
    assert first[-1].message == again[-1].message == "the weights are gone"
    assert isinstance(last[-1], Finished)
    (tmp_path / "gone").touch()
    with pytest.raises(UserError, match="the weights are gone"):
        using(opener, body)


def test_who_leaves_is_forgotten(tmp_path: Path) -> None:
    async def body(supervisor: Supervisor) -> list[int]:
        events = supervisor.ask(Request(0, (1, 2), 10_000))
        async for event in events:
            if isinstance(event, Drawn):
                break
        await events.aclose()  # type: ignore[attr-defined]
        assert supervisor.waiting == 0
        return await answer(supervisor, Request(0, (1, 2), 5, Sampling(0)))

    assert len(using(partial(opened, "rwkv4", tmp_path), body)) == 5
