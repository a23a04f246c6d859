"""Serve models of random weights from a thread of this process, each in a worker."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import yaml

from conf.schema import FOLDER
from data.tokenizers import byte_tokenizer
from models.registry import build
from scripts.cli.model_spec import model_spec
from serving.app import Limits
from serving.open_server import http_server, listening, opened
from serving.requests import Loaded
from serving.routes import Route
from serving.served_model import ServedModel


@dataclass(frozen=True)
class LocalServer:
    """One that listens."""

    url: str
    """Where the API begins, with its version."""
    models: dict[str, ServedModel]


@contextmanager
def local_server(
    names: Sequence[str], size: str, limits: Limits, routes: Sequence[Route] = (), threads: int = 1
) -> Iterator[LocalServer]:
    """Serve the models `names` at a size of `conf/model/`, with a tokenizer of bytes."""
    place = listening("127.0.0.1", 0)
    url = f"http://127.0.0.1:{place.getsockname()[1]}/v1"
    ready, found, servers = threading.Event(), dict[str, ServedModel](), []
    with tempfile.TemporaryDirectory() as folder:
        byte_tokenizer().save(Path(folder) / "tokenizer.json")

        async def body() -> None:
            openers = {name: partial(_open, name, size, folder) for name in names}
            async with opened(openers, threads, "auto", Path(folder)) as models:
                found.update(models)
                servers.append(http_server(models, limits, routes=routes))
                ready.set()
                await servers[0].serve(sockets=[place])

        thread = threading.Thread(target=lambda: asyncio.run(body()), daemon=True)
        thread.start()
        if not ready.wait(600):
            raise SystemExit("the models could not be opened")
        try:
            yield LocalServer(url, found)
        finally:
            servers[0].should_exit = True
            thread.join(60)


def _open(name: str, size: str, folder: str) -> Loaded:
    """Runs in a worker."""
    group = yaml.safe_load((FOLDER / "model" / f"{name}.yaml").read_text(encoding="utf-8"))
    torch.manual_seed(0)
    return Loaded(build(model_spec({**group, "size": size}, 257)), Path(folder) / "tokenizer.json")
