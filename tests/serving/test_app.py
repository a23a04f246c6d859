"""The server as its clients see it: the official client, and whoever sends something else."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import openai
import pytest

from data.tokenizers import byte_tokenizer
from serving.app import Limits
from serving.keys import ONLY, Keys
from serving.open_server import http_server, listening, opened
from serving.served_model import ServedModel, folder_of
from tests.serving import opened as tiny

KEY = "a-key"
TOKENIZER = byte_tokenizer()


class Served(NamedTuple):
    """A server that is running."""

    url: str
    client: openai.OpenAI
    models: dict[str, ServedModel]
    states: Path

    def post(self, route: str, body: Any, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return httpx.post(
            f"{self.url}/v1/{route}", content=content, timeout=120,
            headers={"Authorization": f"Bearer {KEY}", **headers},
        )  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    place = listening("127.0.0.1", 0)
    url = f"http://127.0.0.1:{place.getsockname()[1]}"
    ready, found = threading.Event(), {}
    servers = []

    async def body() -> None:
        openers = {name: partial(tiny.opened, name, folder) for name in ("rwkv7", "gpt")}
        async with opened(openers, 1, "auto", folder / "states") as models:
            found.update(models)
            limits = Limits(body_bytes=1 << 20, body_seconds=2, waiting=40)
            servers.append(http_server(found, limits, Keys({ONLY: KEY})))
            ready.set()
            await servers[0].serve(sockets=[place])

    thread = threading.Thread(target=lambda: asyncio.run(body()))
    thread.start()
    assert ready.wait(300)
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=120)
    for _ in range(100):
        try:
            httpx.get(f"{url}/health")
            break
        except httpx.TransportError:
            pass
    yield Served(url, client, found, folder / "states")
    servers[0].should_exit = True
    thread.join(60)


def complete(served: Served, model: str = "rwkv7", prompt: Any = "alpha", **words: Any) -> Any:
    words = {"max_tokens": 12, "temperature": 0, **words}
    return served.client.completions.create(model=model, prompt=prompt, **words)


def test_the_models_are_listed(served: Served) -> None:
    found = {model.id: model for model in served.client.models.list()}
    assert set(found) == {"rwkv7", "gpt"}
    about = found["rwkv7"].model_extra["crossover"]
    assert about["recurrent"] and about["title"] == "RWKV-7" and about["most_tokens"] is None


@pytest.mark.parametrize("model", ["rwkv7", "gpt"])
def test_a_stream_says_what_the_whole_says(served: Served, model: str) -> None:
    whole = complete(served, model, temperature=0.7, seed=3, max_tokens=20)
    assert whole.usage.prompt_tokens == 5
    parts = [*complete(served, model, temperature=0.7, seed=3, max_tokens=20, stream=True,
                       stream_options={"include_usage": True})]  # fmt: skip
    assert "".join(part.choices[0].text for part in parts[:-1]) == whole.choices[0].text
    assert parts[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert parts[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert complete(served, model, temperature=0.7, seed=4).choices != whole.choices


def test_the_tokens_are_counted_and_timed(served: Served) -> None:
    said = served.post(
        "completions", {"prompt": "x" * 700, "max_tokens": 3, "temperature": 0}
    ).json()
    costs = said["crossover"]
    assert costs["read"] == costs["of"] == 700 and costs["read_seconds"] > 0
    assert len(costs["token_seconds"]) == said["usage"]["completion_tokens"] == 3
    assert costs["position"] == 702 and costs["state_bytes"] > 0
    again = served.post("completions", {"prompt": "x" * 699 + "y", "max_tokens": 3}).json()
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == 512


def test_a_text_becomes_tokens_that_a_prompt_can_have(served: Served) -> None:
    said = served.post("tokens", {"model": "gpt", "text": "alpha", "most": 3}).json()
    assert said["data"] == TOKENIZER.encode("alpha")[:3] and said["model"] == "gpt"
    whole = served.post("tokens", {"text": "alpha"}).json()["data"]
    by_ids = complete(served, prompt=whole).choices[0].text
    assert by_ids == complete(served).choices[0].text
    for body, status in (({"text": 1}, 400), ({"text": "x", "model": "none"}, 404), (b"{", 400)):
        assert served.post("tokens", body).status_code == status
    assert served.post("tokens", {"text": "x"}, Authorization="Bearer no").status_code == 401


def test_every_piece_says_what_it_has_cost_so_far_where_that_is_asked(served: Served) -> None:
    def seconds(**options: bool) -> list[float]:
        parts = complete(served, stream=True, stream_options=options, max_tokens=4)
        costs = [part.model_extra["crossover"] for part in parts if part.choices]
        return [one["worker_seconds"] for one in costs if "worker_seconds" in one]

    so_far = seconds(include_costs=True)
    assert len(so_far) >= 5 and so_far == sorted(so_far)
    assert len(seconds(include_usage=True)) == 1


def test_stop_strings_echo_and_likelihoods(served: Served) -> None:
    text = complete(served, max_tokens=30).choices[0].text
    stop = text[4:7]
    choice = complete(served, max_tokens=30, stop=[stop], echo=True).choices[0]
    assert choice.finish_reason == "stop"
    assert choice.text == "alpha" + text[: text.index(stop)]
    likely = complete(served, logprobs=2, max_tokens=4).choices[0].logprobs
    assert len(likely.token_logprobs) == 4 and max(likely.token_logprobs) < 0
    assert all(len(top) == 2 for top in likely.top_logprobs)


@pytest.mark.parametrize("model", ["rwkv7", "gpt"])
def test_a_conversation_is_its_template(served: Served, model: str) -> None:
    said = served.client.chat.completions.create(
        model=model, temperature=0, max_tokens=8,
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
    )  # fmt: skip
    written = "System: Be brief.\n\nUser: Hi\n\nAssistant:"
    assert said.choices[0].message.content == complete(
        served, model, written, max_tokens=8, stop=["\n\nUser:"]
    ).choices[0].text  # fmt: skip
    parts = served.client.chat.completions.create(
        model=model, temperature=0, max_tokens=8, stream=True,
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
    )  # fmt: skip
    pieces = [part.choices[0].delta.content or "" for part in parts]
    assert "".join(pieces) == said.choices[0].message.content


@pytest.mark.parametrize("model", ["rwkv7", "gpt"])
def test_a_state_is_a_text_that_was_read(served: Served, model: str) -> None:
    whole = complete(served, model, "a long book").choices[0].text
    complete(served, model, "a long", max_tokens=0, extra_body={"save_state": "book"})
    assert (served.states / model / "book.safetensors").is_file()
    for _ in range(2):
        rest = complete(served, model, " book", extra_body={"state": "book"})
        assert rest.choices[0].text == whole
    with pytest.raises(openai.BadRequestError, match="no state is saved as 'none'"):
        complete(served, model, extra_body={"state": "none"})


def test_all_at_once_answer_as_one_alone(served: Served) -> None:
    prompts = [f"{'ab' * n} {n}" for n in range(16)]

    async def together() -> list[str]:
        client = openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key=KEY, timeout=200)
        said = await asyncio.gather(*(
            client.completions.create(model="rwkv7", prompt=prompt, max_tokens=20, temperature=0)
            for prompt in prompts
        ))  # fmt: skip
        return [one.choices[0].text for one in said]

    expected = [
        complete(served, prompt=prompt, max_tokens=20).choices[0].text for prompt in prompts
    ]
    assert asyncio.run(together()) == expected


def test_a_killed_worker_is_not_noticed(served: Served) -> None:
    expected = complete(served, max_tokens=1500, temperature=1, seed=1).choices[0].text
    parts = complete(served, max_tokens=1500, temperature=1, seed=1, stream=True)
    text = ""
    for number, part in enumerate(parts):
        text += part.choices[0].text
        if number == 20:
            os.kill(served.models["rwkv7"].supervisor.pid, signal.SIGKILL)
    assert text == expected
    assert served.models["rwkv7"].supervisor.restarts == 1
    told = httpx.get(f"{served.url}/metrics").text
    assert 'crossover_workers_restarted{model="rwkv7"} 1.0' in told
    assert 'crossover_tokens_drawn_total{model="rwkv7"}' in told


BAD: dict[str, tuple[Any, int, str]] = {
    "not JSON": (b"{", 400, "a request is JSON"),
    "not UTF-8": (b'{"prompt": "\xff"}', 400, "JSON in UTF-8"),
    "a list": ([1], 400, "an object of JSON"),
    "deep": (b"[" * 100_000, 400, "JSON"),
    "not a number": (b'{"prompt": "a", "temperature": NaN}', 400, "temperature"),
    "huge": ({"prompt": "a" * (1 << 20)}, 413, "1,048,576 bytes"),
    "another model": ({"model": "gpt-9", "prompt": "a"}, 404, "there are: rwkv7, gpt"),
    "unknown field": ({"prompt": "a", "tools": []}, 400, "tools"),
    "an endless answer": ({"prompt": "a", "max_tokens": 2**63}, 400, "max_tokens"),
    "a name of a book": ({"model": "x" * 100_000}, 404, f"no model '{'x' * 60}'; there are"),
    "two answers": ({"prompt": "a", "n": 2}, 400, "n"),
    "two prompts": ({"prompt": ["a", "b"]}, 400, "one prompt at a time"),
    "cold": ({"prompt": "a", "temperature": -1}, 400, "temperature"),
    "a path": ({"prompt": "a", "save_state": "../../x"}, 400, "save_state"),
    "a longer path": ({"prompt": "a", "state": "a/b"}, 400, "state"),
    "a NUL": ({"prompt": "a", "state": "a\x00"}, 400, "state"),
    "another id": ({"prompt": [1, 999_999]}, 400, "token ids end at 256"),
    "too long": ({"model": "gpt", "prompt": "a", "max_tokens": 10**6}, 400, "reads at most"),
    "state and stop": ({"prompt": "a", "stop": "b", "save_state": "x"}, 400, "without stop"),
    "a lone surrogate": (b'{"prompt": "\\ud800"}', 400, ""),
}


@pytest.mark.parametrize("case", [*BAD])
def test_what_cannot_be_answered_is_one_clear_error(served: Served, case: str) -> None:
    body, status, message = BAD[case]
    answer = served.post("completions", body)
    assert answer.status_code == status, answer.text
    assert message in answer.json()["error"]["message"]
    assert "Traceback" not in answer.text and len(answer.text) < 1000
    assert complete(served, max_tokens=1).choices[0].finish_reason == "length"


def test_random_requests_end_in_an_answer_or_one_error(served: Served) -> None:
    draw = random.Random(0)
    values: list[Any] = [None, True, -1, 0, 1, 2**70, 1e300, "", "a", "\x00", "é" * 9, [], [[]], {}]
    fields = ["prompt", "max_tokens", "temperature", "top_p", "stop", "seed", "logprobs", "stream",
              "model", "echo", "state", "save_state", "n", "stream_options", "top_k"]  # fmt: skip
    for _ in range(120):
        body = {"max_tokens": 2} | {
            name: draw.choice(values) for name in draw.sample(fields, draw.randrange(1, 5))
        }
        answer = served.post("completions", body)
        assert answer.status_code in (200, 400, 404), (body, answer.text)
        if answer.status_code != 200:
            assert set(answer.json()) == {"error"}
    assert sorted(path.name for path in served.states.parent.iterdir()) == [
        "states", "tokenizer.json",
    ]  # fmt: skip


def test_who_is_slow_or_a_stranger_is_told(served: Served) -> None:
    assert httpx.get(f"{served.url}/v1/models").status_code == 401
    assert served.post("completions", {"prompt": "a"}, Authorization="Bearer b").status_code == 401
    assert (
        httpx.get(f"{served.url}/nothing").json()["error"]["message"]
        == "GET /nothing: no such route"
    )
    assert httpx.get(f"{served.url}/ready").json() == {"models": {"rwkv7": True, "gpt": True}}

    async def slowly() -> int:
        reader, writer = await asyncio.open_connection(*served.url[7:].split(":"))
        writer.write(
            f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
            "Content-Length: 100\r\n\r\n{".encode()
        )
        line = await asyncio.wait_for(reader.readline(), 60)
        writer.close()
        return int(line.split()[1])

    assert asyncio.run(slowly()) == 408


def test_who_leaves_frees_the_worker(served: Served) -> None:
    with served.client.completions.create(
        model="rwkv7", prompt="a", max_tokens=100_000, stream=True
    ) as parts:
        next(iter(parts))
    for _ in range(200):
        if not served.models["rwkv7"].supervisor.waiting:
            break
        httpx.get(f"{served.url}/health")
    else:
        pytest.fail("the request is still being answered")


def test_the_page_is_there(served: Served) -> None:
    page = httpx.get(served.url)
    assert page.status_code == 200 and "text/html" in page.headers["content-type"]
    assert "http://" not in page.text.replace("http://www.w3.org", "")  # nothing from elsewhere


def test_states_lie_in_their_folder_whatever_the_model_is_called() -> None:
    names = ["first", "group@3", "/runs/first", "../runs/first", "group/first", "..", ".", "",
             "/", ".hidden", "x" * 4000, f"a/{'x' * 4000}"]  # fmt: skip
    states = Path("states")
    folders = [folder_of(states, name) for name in names]
    assert folders[:2] == [states / "first", states / "group@3"]
    assert len(set(folders)) == len(names)
    for folder in folders:
        assert folder.parent == states and len(folder.name) < 256 and folder.name[0] != "."
