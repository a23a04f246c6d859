"""A worker as the server sees it: always there.

The worker is a process, which may be killed, run out of memory or crash. Then another one is
started, and every request that was not answered goes on there from the tokens it already has. No
token is lost, repeated or different (see `serving.engine`).
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import queue
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import Any

from core.errors import UserError
from core.processes import process_context
from core.units import counted
from serving.requests import (
    Answer,
    AtWork,
    Cancel,
    Drawn,
    Event,
    Failed,
    Finished,
    Interrupted,
    Late,
    ModelInfo,
    Opener,
    Read,
    Refused,
    Request,
    Told,
)  # fmt: skip

logger = logging.getLogger(__name__)
MOST_DEATHS = 5
"""Workers in a row that may die computing for a request without one more token, read or drawn."""
MOST_STARTS = 3
"""Attempts to open a model again, after which its requests are refused until the next one asks."""
START_LIMIT = 600.0  # seconds until a model must be open
STALLED = 120.0  # seconds without a word while there is something to answer
PRELOADED = ("core.openmp", "torch", "serving.worker", "models.registry")


@dataclass
class Live:
    """A request that is not answered yet."""

    request: Request
    events: asyncio.Queue[Told] = field(default_factory=asyncio.Queue)
    answered: list[int] = field(default_factory=list)
    read: int = 0
    """Tokens of its prompt, at most so far."""
    deaths: int = 0


class Supervisor:
    """One model, and the process that answers with it. For one event loop."""

    def __init__(self, name: str, opener: Opener, threads: int, stalled: float = STALLED) -> None:
        """`stalled` is how long, in seconds, a worker may owe a word."""
        self.name = name
        self.info: ModelInfo | None = None
        self.restarts = 0
        self._opener, self._threads = opener, threads
        self._live: dict[int, Live] = {}
        self._numbers = itertools.count(1)
        self._closing = False
        self._process: Any = None
        self._pipe: Connection | None = None
        self._outbox: queue.SimpleQueue[Request | Cancel | None] = queue.SimpleQueue()
        self._at_work: frozenset[int] = frozenset()  # requests that the worker computes for
        self._ready: asyncio.Future[ModelInfo] | None = None
        self._starts = 0  # that failed, in a row
        self._stalled = stalled
        self._began = 0.0  # the instant at which the worker was started
        self._owed: float | None = None  # since when it has had something to say
        self._watch: asyncio.Task[None] | None = None

    @property
    def is_ready(self) -> bool:
        """Whether a worker holds the model now."""
        return self._ready is not None and self._ready.done() and not self._ready.exception()

    @property
    def waiting(self) -> int:
        """Requests that are not answered yet."""
        return len(self._live)

    @property
    def pid(self) -> int:
        """Process id of the worker."""
        return int(self._process.pid)

    async def start(self) -> ModelInfo:
        """Open the model. Raises `UserError` if it cannot be."""
        self._begin()
        assert self._ready is not None
        self.info = await asyncio.wait_for(asyncio.shield(self._ready), START_LIMIT)
        self._watch = asyncio.create_task(self._watch_worker())
        return self.info

    async def ask(
        self, request: Request, until: Callable[[], float | None] | None = None
    ) -> AsyncIterator[Told]:
        """The events of a request, the last of which is `Finished` or `Failed`.

        Its `id` is replaced. Leaving the iterator early cancels the request. `until` says up to
        which instant of the loop's clock to wait for the next event; `Late` comes in its place.
        """
        request = replace(request, id=next(self._numbers))
        live = self._live[request.id] = Live(request)
        if self._starts >= MOST_STARTS:  # it was given up
            self._starts = 0
            self._begin()
        self._send(request)
        try:
            while True:
                event: Told = Late(request.id)
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(until() if until else None):
                        event = await live.events.get()
                yield event
                if isinstance(event, Finished | Failed):
                    return
        finally:
            if self._live.pop(request.id, None) is not None:
                self._send(Cancel(request.id))

    async def close(self) -> None:
        """End the worker."""
        self._closing = True
        if self._watch is not None:
            self._watch.cancel()
        self._outbox.put(None)
        if self._process is not None:
            self._process.kill()  # it holds nothing that is not held here
            await asyncio.to_thread(self._process.join)
        if self._pipe is not None:
            self._pipe.close()

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        self._ready = loop.create_future()
        context = process_context(PRELOADED)
        ours, theirs = context.Pipe()
        self._process = context.Process(
            target=_work, args=(theirs, self._opener, self._threads), daemon=True
        )
        self._process.start()
        theirs.close()
        self._pipe, self._outbox = ours, queue.SimpleQueue()
        self._began, self._owed, self._at_work = loop.time(), None, frozenset()
        threading.Thread(target=self._listen, args=(ours, loop), daemon=True).start()
        threading.Thread(target=_post, args=(ours, self._outbox), daemon=True).start()

    def _listen(self, pipe: Connection, loop: asyncio.AbstractEventLoop) -> None:
        """Runs in a thread: hand on what the worker says, until it can say no more."""
        try:
            while True:
                loop.call_soon_threadsafe(self._receive, pipe, pipe.recv())
        except (EOFError, OSError, RuntimeError):  # the last: the loop has ended
            pass
        try:
            loop.call_soon_threadsafe(self._died, pipe)
        except RuntimeError:
            return

    def _send(self, message: Request | Cancel) -> None:
        """Nothing is sent while no worker is ready; `_receive` sends all that is live then."""
        if self.is_ready:
            self._outbox.put(message)
            if self._owed is None:
                self._owed = asyncio.get_running_loop().time()

    async def _watch_worker(self) -> None:
        """Kill a worker that says nothing though it has something to answer, or to open."""
        loop = asyncio.get_running_loop()
        while not self._closing:
            await asyncio.sleep(min(1.0, self._stalled / 4))
            since, most = self._owed, self._stalled
            if self._ready is not None and not self._ready.done():
                since, most = self._began, START_LIMIT
            if since is not None and loop.time() - since > most:
                logger.warning("the worker of %s says nothing: it is ended", self.name)
                self._owed, self._began = None, loop.time()
                self._process.kill()

    def _receive(self, pipe: Connection, answer: Answer) -> None:
        assert self._ready is not None
        if pipe is not self._pipe:  # of a worker before this one
            return
        self._owed = None
        if isinstance(answer, Refused):
            self._give_up(answer.message)
        elif isinstance(answer, ModelInfo):
            self._ready.set_result(answer)
            self._starts = 0
            for live in [*self._live.values()]:
                self._send(replace(live.request, answered=tuple(live.answered)))
        elif isinstance(answer, AtWork):
            self._at_work = answer.ids
        else:
            for event in answer:
                self._deliver(event)
        if self._live and self.is_ready:
            self._owed = asyncio.get_running_loop().time()

    def _deliver(self, event: Event) -> None:
        live = self._live.get(event.id)
        if live is None:  # it was cancelled
            return
        if isinstance(event, Drawn):
            live.answered.append(event.token)
            live.deaths = 0
        if isinstance(event, Read) and event.tokens > live.read:
            live.read, live.deaths = event.tokens, 0
        if isinstance(event, Finished | Failed):
            del self._live[event.id]
        live.events.put_nowait(event)

    def _died(self, pipe: Connection) -> None:
        if self._closing or pipe is not self._pipe or self._starts >= MOST_STARTS:
            return
        self._process.join()
        self._outbox.put(None)
        pipe.close()
        status, was_ready = self._process.exitcode, self.is_ready
        if not was_ready:
            self._starts += 1
            if self.info is None or self._starts >= MOST_STARTS:
                self._give_up(f"the worker of {self.name} ended while it opened the model")
                return
        self.restarts += 1
        logger.warning(
            "the worker of %s ended (exit status %s); another one takes over %s",
            self.name, status, counted(len(self._live), "request"),
        )  # fmt: skip
        blamed = self._at_work.intersection(self._live) or self._live.keys()
        for number, live in [*self._live.items()]:
            live.deaths += was_ready and number in blamed
            if live.deaths >= MOST_DEATHS:
                message = f"{MOST_DEATHS} workers ended while they answered this request"
                self._deliver(Failed(number, message, 500, "dead"))
            else:
                live.events.put_nowait(Interrupted(number))
        self._begin()

    def _give_up(self, message: str) -> None:
        """No model can be opened: whoever waits is told."""
        self._starts = MOST_STARTS
        assert self._ready is not None
        if not self._ready.done():
            self._ready.set_exception(UserError(message))
            self._ready.exception()  # only `start` asks for it
        for number in [*self._live]:
            self._deliver(Failed(number, message, 503, "dead"))


def _work(pipe: Connection, opener: Opener, threads: int) -> None:
    """Runs in the worker, which alone imports torch."""
    from serving.worker import work

    work(pipe, opener, threads)


def _post(pipe: Connection, outbox: queue.SimpleQueue[Request | Cancel | None]) -> None:
    """Runs in a thread: a long prompt may have to wait until the worker takes it."""
    try:
        while (message := outbox.get()) is not None:
            pipe.send(message)
    except OSError:  # the worker has ended; `Supervisor._died` follows
        return
