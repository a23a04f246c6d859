"""A server with several keys, from its first request to its end."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import openai
import pytest

from data.readers import chat_templates
from data.readers.template_sandbox import TemplateProcess
from serving.accounts import Accounts
from serving.answers import Price
from serving.app import Limits
from serving.keys import Budget, Keys
from serving.open_server import HttpServer, http_server, listening, opened
from tests.data.readers.test_template_sandbox import CHOOSY
from tests.serving import opened as tiny

BUDGETS = {"ann": Budget(tokens=40), "cat": Budget(cost=0.0)}


class Served(NamedTuple):
    url: str
    server: HttpServer
    accounts: Path
    thread: threading.Thread

    def client(self, key: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, timeout=120)

    def usage(self, key: str) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(
            f"{self.url}/v1/usage", headers={"Authorization": f"Bearer {key}"}
        ).json()
        return found


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(chat_templates, "TemplateProcess", partial(TemplateProcess, seconds=1))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHOOSY}))
    place = listening("127.0.0.1", 0)
    url = f"http://127.0.0.1:{place.getsockname()[1]}"
    path, ready, servers = tmp_path / "accounts.json", threading.Event(), []

    async def body() -> None:
        opener = {"rwkv4": partial(tiny.opened, "rwkv4", tmp_path)}
        async with opened(opener, 1, "auto", tmp_path / "states") as models:
            keys = Keys({"ann": "k-ann", "bob": "k-bob", "cat": "k-cat"}, BUDGETS)
            accounts = Accounts(path, Price(0.25, "EUR"), BUDGETS)
            servers.append(http_server(models, Limits(), keys, (), accounts, drain=1e9))
            ready.set()
            await servers[0].serve(sockets=[place])

    thread = threading.Thread(target=lambda: asyncio.run(body()))
    thread.start()
    assert ready.wait(300)
    yield Served(url, servers[0], path, thread)
    servers[0].should_exit = True
    thread.join(60)


def complete(client: openai.OpenAI, **words: Any) -> Any:
    words = {"model": "rwkv4", "prompt": "alpha", "max_tokens": 10, "temperature": 0, **words}
    return client.completions.create(**words)


def test_what_answers_cost_is_said_and_added_up(served: Served) -> None:
    bob = served.client("k-bob")
    said = complete(bob)
    whole = said.model_extra["crossover"]
    parts = [*complete(bob, stream=True)]
    streamed = parts[-1].model_extra["crossover"]
    assert not any("cost" in part.model_extra["crossover"] for part in parts[:-1])
    for costs in (whole, streamed):
        assert costs["worker_seconds"] > 0 and costs["processor_seconds"] > 0
        assert costs["currency"] == "EUR"
        assert costs["cost"] == pytest.approx(0.25 * costs["worker_seconds"], abs=1e-6)
    used = served.usage("k-bob")
    drawn = 2 * said.usage.completion_tokens
    assert (used["requests"], used["prompt_tokens"], used["completion_tokens"]) == (2, 10, drawn)
    assert used["cost"] == pytest.approx(whole["cost"] + streamed["cost"])
    assert served.usage("k-ann")["requests"] == 0
    told = httpx.get(f"{served.url}/metrics").text
    assert 'crossover_cost_total{model="rwkv4"}' in told
    assert 'crossover_worker_seconds_total{model="rwkv4"}' in told
    assert 'crossover_tokens_read_total{model="rwkv4"} 10.0' in told
    assert 'crossover_requests_total{model="rwkv4",status="200"} 2.0' in told
    assert "bob" not in told and "k-bob" not in told


def test_a_budget_refuses_politely(served: Served) -> None:
    ann = served.client("k-ann")
    with pytest.raises(openai.RateLimitError, match="has 40 of 40 tokens left") as refused:
        complete(ann, max_tokens=36)
    assert refused.value.code == refused.value.type == "insufficient_quota"
    assert refused.value.response.headers["x-should-retry"] == "false"
    for _ in range(2):
        complete(ann)
    assert served.usage("k-ann")["left"] == {"tokens": 10}
    complete(ann, max_tokens=5)
    with pytest.raises(openai.RateLimitError, match="40 tokens, is used up"):
        complete(ann, max_tokens=1)
    with pytest.raises(openai.RateLimitError, match="0 EUR, is used up"):
        complete(served.client("k-cat"))
    with pytest.raises(openai.AuthenticationError):
        complete(served.client("k-dan"))
    complete(served.client("k-bob"))
    told = httpx.get(f"{served.url}/metrics").text  # the official client did not try again
    assert 'crossover_requests_total{model="rwkv4",status="429"} 1.0' in told
    assert 'crossover_requests_total{model="none",status="429"} 2.0' in told


def test_what_was_accepted_is_answered_and_written_before_the_end(served: Served) -> None:
    bob = served.client("k-bob")
    whole = complete(bob, max_tokens=1500)
    expected = whole.choices[0].text
    parts = complete(bob, max_tokens=1500, stream=True)
    text = next(iter(parts)).choices[0].text
    assert httpx.get(f"{served.url}/ready").status_code == 200
    served.server.handle_exit(signal.SIGTERM, None)
    ready = httpx.get(f"{served.url}/ready")
    assert ready.status_code == 503 and ready.json()["draining"] is True
    assert httpx.get(f"{served.url}/health").status_code == 200
    last = complete(bob)  # of somebody who has not heard of it yet
    served.server._closing = 0.0
    assert text + "".join(part.choices[0].text for part in parts) == expected
    bob.close()
    served.thread.join(120)
    assert not served.thread.is_alive()
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{served.url}/health")
    written = json.loads(served.accounts.read_text())["accounts"]["bob"]
    drawn = 2 * whole.usage.completion_tokens + last.usage.completion_tokens
    assert (written["requests"], written["completion_tokens"]) == (3, drawn)
    assert Accounts(served.accounts).described("bob")["requests"] == 3


def test_a_template_that_goes_wild_for_a_message_is_one_error(served: Served) -> None:
    bob = served.client("k-bob")

    def chat(text: str) -> Any:
        messages: Any = [{"role": "user", "content": text}]
        return bob.chat.completions.create(
            model="rwkv4", messages=messages, max_tokens=3, temperature=0
        )

    said = chat("hi")
    with pytest.raises(openai.BadRequestError, match="takes more than 1 s, or 1 GiB, for these"):
        chat("loop")
    with pytest.raises(openai.BadRequestError, match="fails: not so"):
        chat("fail")
    assert chat("hi").choices == said.choices
