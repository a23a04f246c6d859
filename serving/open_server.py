"""From models to a server that listens."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn

from core.errors import UserError
from serving.app import Limits, Server
from serving.requests import Opener
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


def http_server(
    models: Mapping[str, ServedModel], limits: Limits, key: str | None
) -> uvicorn.Server:
    """What answers until SIGINT or SIGTERM, and then finishes what has been accepted."""
    config = uvicorn.Config(
        Server(models, limits, key).app(), log_level="warning", access_log=False,
        timeout_keep_alive=IDLE, timeout_graceful_shutdown=int(limits.answer_seconds),
        server_header=False, lifespan="off",
    )  # fmt: skip
    return uvicorn.Server(config)


def threads_for(models: int) -> int:
    """Threads of each worker: they share the cores."""
    return max(1, len(os.sched_getaffinity(0)) // models)
