"""From models to a server that listens."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType

import uvicorn

from core.errors import UserError
from serving.accounts import Accounts
from serving.app import Limits, Server
from serving.keys import Keys
from serving.requests import Opener
from serving.routes import Route
from serving.served_model import ServedModel
from serving.supervisor import Supervisor

logger = logging.getLogger(__name__)
IDLE = 30  # seconds that a connection may be silent between requests


@asynccontextmanager
async def opened(
    openers: Mapping[str, Opener], threads: int, chat: str, states: Path
) -> AsyncIterator[dict[str, ServedModel]]:
    """Every model in its own worker, while the body runs. Raises `UserError` if one cannot be."""
    supervisors = [Supervisor(name, opener, threads) for name, opener in openers.items()]
    try:
        await asyncio.gather(*(supervisor.start() for supervisor in supervisors))
        yield {one.name: ServedModel(one, chat, states) for one in supervisors}
    finally:
        await asyncio.gather(*(supervisor.close() for supervisor in supervisors))


def listening(host: str, port: int) -> socket.socket:
    """A socket at an address; port 0 takes any that is free. Raises `UserError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
    except (OSError, OverflowError, UnicodeError) as error:
        found.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"host={host} port={port}: cannot listen there ({reason})") from None
    return found


class HttpServer(uvicorn.Server):
    """Answers until a signal, and then finishes what has been accepted.

    SIGINT closes the address at once. After SIGTERM it stays open for some seconds in which
    `/ready` says no, so that whoever distributes requests sends no more of them; those that come
    are answered.
    """

    def __init__(self, config: uvicorn.Config, server: Server, drain: float) -> None:
        """`drain` in seconds."""
        super().__init__(config)
        self._server, self._drain = server, drain
        self._closing: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal has come."""
        self._server.draining = True
        if sig == signal.SIGTERM and self._drain and self._closing is None:
            self._captured_signals.append(sig)
            self._closing = time.monotonic() + self._drain
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Several times a second: whether the address is to be closed."""
        if self._closing is not None and time.monotonic() >= self._closing:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the address, wait for the answers, and write what they cost."""
        self._server.draining = True
        await super().shutdown(sockets)
        await self._server.accounts.written()


def http_server(
    models: Mapping[str, ServedModel],
    limits: Limits,
    keys: Keys | None = None,
    routes: Sequence[Route] = (),
    accounts: Accounts | None = None,
    drain: float = 0.0,
) -> HttpServer:
    """What answers until SIGINT or SIGTERM; see `Server` and `HttpServer`."""
    server = Server(models, limits, keys, routes, accounts)
    config = uvicorn.Config(
        server.app(), log_level="warning", access_log=False, timeout_keep_alive=IDLE,
        timeout_graceful_shutdown=int(limits.patience.answer), server_header=False, lifespan="off",
    )  # fmt: skip
    return HttpServer(config, server, drain)


def threads_for(models: int) -> int:
    """Threads of each worker: they share the cores."""
    return max(1, len(os.sched_getaffinity(0)) // models)
