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
from core.errors import UserError, shown
from serving.accounts import Accounts
from serving.answers import Price
from serving.app import Limits
from serving.failover import Patience
from serving.keys import Keys, read_key, read_keys
from serving.open_server import HttpServer, http_server, listening, opened, threads_for
from serving.requests import Loaded
from serving.routes import model_names, routes_of
from serving.served_model import ServedModel


def main(conf: ServeConf) -> None:
    """Open the models, say where they are, and answer until Ctrl-C."""
    keys = _keys(conf)
    accounts = _accounts(conf, keys)
    place = listening(conf.host, conf.port)
    with place:
        asyncio.run(_serve(conf, place, keys, accounts))


async def _serve(conf: ServeConf, place: socket.socket, keys: Keys, accounts: Accounts) -> None:
    names = model_names(conf.run)
    shared = {field.name: getattr(conf, field.name) for field in fields(OpeningConf)}
    openers = {
        name: partial(_open, WeightsConf(**{**shared, "run": run}))
        for name, run in zip(names, conf.run, strict=True)
    }
    threads, states = threads_for(len(names)), Path(conf.states_dir)
    patience = Patience(
        conf.first_token_seconds, conf.next_token_seconds, waiting=conf.most_waiting_each
    )
    limits = Limits(conf.most_body_bytes, waiting=conf.most_waiting, patience=patience)
    async with opened(openers, threads, conf.chat, states) as models:
        server = http_server(
            models, limits, keys, routes_of(conf.routes), accounts, conf.drain_seconds
        )
        await _answer(server, models, place)


async def _answer(server: HttpServer, models: dict[str, ServedModel], place: socket.socket) -> None:
    """Until a signal ends it; says where once it listens."""
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


def _keys(conf: ServeConf) -> Keys:
    if conf.keys_file is not None:
        return read_keys(Path(conf.keys_file))
    return Keys() if conf.key_file is None else read_key(Path(conf.key_file))


def _accounts(conf: ServeConf, keys: Keys) -> Accounts:
    """Those of several keys are kept in a file, and those of one, or none, in memory."""
    price = None
    if conf.price_per_hour is not None and conf.currency is not None:
        # The workers share the machine in equal parts.
        price = Price(conf.price_per_hour / 3600 / len(conf.run), conf.currency)
    for name, budget in keys.budgets.items():
        if budget.cost is not None and price is None:
            raise UserError(
                f"keys_file={conf.keys_file}: {shown(name)} has a budget of cost, and nothing has "
                "a price: add price_per_hour= and currency="
            )
    path = None if conf.keys_file is None else Path(conf.accounts_file)
    return Accounts(path, price, keys.budgets)


def _open(conf: WeightsConf) -> Loaded:
    """Runs in a worker, which alone needs what opens weights."""
    from training.checkpoints.open_model import open_model

    found = open_model(conf)
    return Loaded(found.model, found.tokenizer_path)
