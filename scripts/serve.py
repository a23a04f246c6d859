"""Answer prompts over HTTP, live in a page and through the OpenAI API: `serve.py run=[A,B]`."""

from __future__ import annotations

from scripts.cli.launch import launch

if __name__ == "__main__":  # before the imports that take long: a wrong word is answered at once
    launch("serve", "scripts.serve:main")

import asyncio
import socket
from dataclasses import fields
from functools import partial
from pathlib import Path

from conf.schema import OpeningConf, ServeConf, WeightsConf
from serving.app import Limits, read_key
from serving.open_server import http_server, listening, opened, threads_for
from serving.requests import Loaded
from serving.served_model import ServedModel


def main(conf: ServeConf) -> None:
    """Open the models, say where they are, and answer until Ctrl-C."""
    key = read_key(Path(conf.key_file) if conf.key_file else None)
    place = listening(conf.host, conf.port)
    with place:
        asyncio.run(_serve(conf, place, key))


async def _serve(conf: ServeConf, place: socket.socket, key: str | None) -> None:
    names = [Path(run).name.removesuffix(".safetensors").removesuffix(".pth") for run in conf.run]
    if len({*names}) < len(names):
        names = conf.run
    shared = {field.name: getattr(conf, field.name) for field in fields(OpeningConf)}
    openers = {
        name: partial(_open, WeightsConf(**{**shared, "run": run}))
        for name, run in zip(names, conf.run, strict=True)
    }
    threads, states = threads_for(len(names)), Path(conf.states_dir)
    async with opened(openers, threads, conf.chat, states) as models:
        await _answer(conf, models, place, key)


async def _answer(
    conf: ServeConf, models: dict[str, ServedModel], place: socket.socket, key: str | None
) -> None:
    """Until a signal ends it; says where once it listens."""
    limits = Limits(waiting=conf.most_waiting, body_bytes=conf.most_body_bytes)
    server = http_server(models, limits, key)
    serving = asyncio.create_task(server.serve(sockets=[place]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    host, port = place.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    for name, model in models.items():
        about = model.described()
        print(f"{name}: {about['title']}, {about['parameters']:,} parameters")
    print(f"open {address}/ in a browser; the OpenAI API is at {address}/v1", flush=True)
    await serving


def _open(conf: WeightsConf) -> Loaded:
    """Runs in a worker, which alone needs what opens weights."""
    from training.checkpoints.open_model import open_model

    found = open_model(conf)
    return Loaded(found.model, found.tokenizer_path)
