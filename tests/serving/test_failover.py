"""A route answers although its first model does not."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import httpx
import openai
import pytest

from data.tokenizers import byte_tokenizer
from serving.accounts import Accounts
from serving.answers import Answering, Piece, Refusal
from serving.app import Limits
from serving.breaker import Breaker
from serving.failover import Failover, Patience
from serving.open_server import http_server, listening, opened
from serving.openai_schema import Completion
from serving.requests import Drawn, Failed, Finished, Interrupted, Late, Read, Request, Spent, Told
from serving.retry_budget import RetryBudget
from serving.routes import Route
from serving.served_model import ServedModel
from tests.serving import opened as tiny
from tests.serving.faulty import FAULTS, faulty, order

TOKENIZER = byte_tokenizer()
LATE, ENDED = Late(0), Interrupted(0)
FULL = Failed(0, "the memory of this device is used up", 503, "out_of_memory")
BAD = Failed(0, "no state is saved as 'x'", 400)


def read(cost: float = 0.0) -> Read:
    return Read(0, 5, 5, 0, 0.1, Spent(cost))


def told(text: str) -> list[Told]:
    """What a worker says that answers with a text."""
    tokens = TOKENIZER.encode(text)
    return [read(), *(Drawn(0, token, 5, 0.1, 8) for token in tokens), Finished(0, "stop", 5)]


class Scripted:
    """A model that says what it is told to, and then nothing more."""

    def __init__(self, name: str, events: list[Told], ready: bool = True, waiting: int = 0) -> None:
        self._events, self.breaker, self.asked, self.left = events, Breaker(rest=1e9), 0, 0
        self.until: list[bool] = []  # whether the next token has less time than the whole answer
        self.supervisor: Any = SimpleNamespace(
            name=name, is_ready=ready, waiting=waiting, ask=self.ask
        )

    async def ask(self, request: Request, until: Callable[[], float]) -> AsyncIterator[Told]:
        self.asked += 1
        try:
            for event in self._events:
                self.until.append(until() < asyncio.get_running_loop().time() + 500)
                yield event
        finally:
            self.left += 1

    async def answering(self, asked: Completion) -> Answering:
        request = Request(0, (1, 2, 3, 4, 5), 9)
        return Answering(asked, self.supervisor.name, self.supervisor, TOKENIZER, request, [])


class Outcome(NamedTuple):
    text: str
    tried: Failover
    accounts: Accounts


def answered(
    *models: Scripted, stream: bool = False, retries: RetryBudget | None = None
) -> Outcome:
    """What a route over these models answers. Raises `Refusal`."""

    async def body() -> Outcome:
        accounts = Accounts()
        tried = Failover(
            Route("best", tuple(model.supervisor.name for model in models)), models,
            Completion(prompt="x", stream=stream), Patience(waiting=10),
            retries or RetryBudget(), accounts.bill("ann"),
        )  # fmt: skip
        pieces: list[Piece] = []
        try:
            async for piece in tried.pieces():
                pieces.append(piece)
        finally:
            tried.settle()
            assert all(model.left == model.asked for model in models)
        assert pieces[-1].reason == "stop"
        return Outcome("".join(piece.text for piece in pieces), tried, accounts)

    return asyncio.run(body())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([LATE], "deadline"),
        ([read(), LATE], "deadline"),
        ([ENDED], "dead"),
        ([FULL], "out_of_memory"),
        ([Failed(0, "it broke", 500)], "failed"),
        ([Failed(0, "it cannot be opened", 503, "dead")], "dead"),
    ],
)
def test_before_the_first_token_the_next_model_answers(
    events: list[Told], reason: str, stream: bool
) -> None:
    first, second = Scripted("a", events), Scripted("b", told("from b"))
    text, tried, _ = answered(first, second, stream=stream)
    assert text == "from b"
    assert tried.passed == [("a", reason)] and tried.model == "b"
    routed = tried.attempts[-1][1].routed
    assert routed is not None and routed.content() == {
        "name": "best", "model": "b", "passed": [{"model": "a", "reason": reason}],
    }  # fmt: skip
    assert first.breaker.state == "closed"  # after one failure


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (Scripted("a", told("from a"), ready=False), "dead"),
        (Scripted("a", told("from a"), waiting=10), "overloaded"),
    ],
)
def test_who_cannot_answer_is_not_asked_at_no_cost(first: Scripted, reason: str) -> None:
    retries = RetryBudget(per_second=0, most=0)
    text, tried, _ = answered(first, Scripted("b", told("from b")), retries=retries)
    assert text == "from b" and tried.passed == [("a", reason)] and not first.asked


def test_who_fails_again_and_again_is_left_alone() -> None:
    first = Scripted("a", [FULL])
    reasons = [answered(first, Scripted("b", told("from b"))).tried.passed[0][1] for _ in range(5)]
    assert reasons == ["out_of_memory"] * 3 + ["resting"] * 2 and first.asked == 3
    assert first.breaker.state == "open"
    first._events = told("from a")
    assert (
        answered(first).text == "from a"
    )  # asked by its name it answers, which closes the breaker
    assert answered(first, Scripted("b", [])).text == "from a"


def test_a_stream_that_has_begun_stays_with_its_model() -> None:
    events = told("from a")
    first = Scripted("a", [*events[:3], ENDED, LATE, *events[3:]])
    assert answered(first, Scripted("b", told("from b")), stream=True).text == "from a"
    assert first.until == [True] * 2 + [False] * len(events)
    full = Scripted("a", [*events[:3], FULL])
    with pytest.raises(Refusal, match="memory of this device"):
        answered(full, Scripted("b", told("from b")), stream=True)


def test_an_answer_that_is_sent_whole_is_begun_again() -> None:
    first = Scripted("a", [*told("from a")[:4], LATE])
    text, tried, accounts = answered(first, Scripted("b", told("from b")))
    assert text == "from b" and tried.passed == [("a", "deadline")]
    assert all(first.until)
    used = accounts.described("ann")
    assert used["completion_tokens"] == 6 and used["prompt_tokens"] == 5  # those of b alone


def test_the_last_model_is_waited_for() -> None:
    events = told("from b")
    last = Scripted("b", [LATE, ENDED, *events[:2], LATE, *events[2:]])
    assert answered(Scripted("a", [ENDED]), last).text == "from b"
    assert not any(last.until)
    assert answered(Scripted("a", [LATE, *told("from a")])).text == "from a"


def test_without_retries_a_request_stays_where_it_is() -> None:
    retries = RetryBudget(share=0, per_second=0, most=1)
    slow = Scripted("a", [LATE, *told("from a")])
    assert answered(slow, Scripted("b", told("from b")), retries=retries).text == "from b"
    assert answered(slow, Scripted("b", told("from b")), retries=retries).text == "from a"
    with pytest.raises(Refusal, match="memory of this device"):
        answered(Scripted("a", [FULL]), Scripted("b", told("from b")), retries=retries)


def test_three_models_in_their_order() -> None:
    models = Scripted("a", [FULL]), Scripted("b", [LATE]), Scripted("c", told("from c"))
    outcome = answered(*models)
    assert outcome.text == "from c"
    assert outcome.tried.passed == [("a", "out_of_memory"), ("b", "deadline")]


def test_who_is_to_blame_is_told() -> None:
    with pytest.raises(Refusal) as refused:
        answered(Scripted("a", [BAD]), Scripted("b", told("from b")))
    assert refused.value.status == 400
    with pytest.raises(
        Refusal, match=r"a is not there \(dead\), and b cannot: no state"
    ) as refused:
        answered(Scripted("a", [ENDED]), Scripted("b", [BAD]))
    assert refused.value.status == 503
    with pytest.raises(Refusal, match="too many requests") as refused:
        answered(Scripted("a", [ENDED]), Scripted("b", [], waiting=10))
    assert refused.value.status == 503


def test_what_every_attempt_cost_is_charged() -> None:
    first = Scripted("a", [read(2.0), LATE])
    events = [read(3.0), Drawn(0, 65, 5, 0.1, 8, spent=Spent(4.0)), Finished(0, "stop", 5)]
    accounts = answered(first, Scripted("b", events)).accounts
    assert accounts.described("ann")["worker_seconds"] == 9.0
    with pytest.raises(Refusal):
        answered(Scripted("a", [BAD]))


# ---- the real server ----------------------------------------------------------------------------


class Served(NamedTuple):
    """A server with the route `best`: a model that can be made to fail, and another."""

    patient: openai.OpenAI
    hasty: openai.OpenAI
    """The same models, with little time to the first token."""
    primary: ServedModel
    folder: Path
    urls: list[str]

    def ask(
        self, client: openai.OpenAI, model: str = "best", prompt: str = "alpha", **words: Any
    ) -> Any:
        return client.completions.create(
            model=model, prompt=prompt, temperature=0, **{"max_tokens": 8, **words}
        )

    def recover(self) -> None:
        """Wait until the first model answers again, which closes its breaker."""
        os.kill(self.primary.supervisor.pid, signal.SIGCONT)
        assert self.ask(self.patient, "first").model == "first"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    places = [listening("127.0.0.1", 0) for _ in range(2)]
    urls = [f"http://127.0.0.1:{place.getsockname()[1]}" for place in places]
    ready, found, servers = threading.Event(), {}, []

    async def body() -> None:
        openers = {
            "first": partial(faulty, folder), "second": partial(tiny.opened, "rwkv7", folder),
        }  # fmt: skip
        async with opened(openers, 1, "auto", folder / "states") as models:
            found.update(models)
            for seconds in (300.0, 1.0):
                limits = Limits(patience=Patience(seconds, seconds))
                routes = [Route("best", ("first", "second"))]
                servers.append(http_server(found, limits, routes=routes))
            ready.set()
            await asyncio.gather(*(
                server.serve(sockets=[place])
                for server, place in zip(servers, places, strict=True)
            ))  # fmt: skip

    thread = threading.Thread(target=lambda: asyncio.run(body()))
    thread.start()
    assert ready.wait(300)
    clients = [
        openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0, timeout=300) for url in urls
    ]
    yield Served(*clients, found["first"], folder, urls)
    for server in servers:
        server.should_exit = True
    thread.join(60)


def test_undisturbed_the_first_model_answers(served: Served) -> None:
    said = served.ask(served.patient)
    assert said.model == "first"
    assert said.model_extra["crossover"]["route"] == {
        "name": "best", "model": "first", "passed": [],
    }  # fmt: skip
    listed = {model.id: model.model_extra["crossover"] for model in served.patient.models.list()}
    assert listed["best"] == {"route": ["first", "second"]} and set(listed) == {
        "first", "second", "best",
    }  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_first_model_that_fails_is_not_noticed(served: Served, fault: str, stream: bool) -> None:
    client = served.hasty if fault == "stalled" else served.patient
    for number in range(3):
        prompt = f"{fault} {stream} {number}"  # that it has not read before
        expected = served.ask(served.patient, "second", prompt).choices[0].text
        order(served.folder, fault)
        raw = client.completions.with_raw_response.create(
            model="best", prompt=prompt, temperature=0, max_tokens=8, stream=stream
        )
        parsed: Any = raw.parse()
        parts = [*parsed] if stream else [parsed]
        assert "".join(part.choices[0].text for part in parts) == expected
        passed = [{"model": "first", "reason": FAULTS[fault]}]
        routes = [part.model_extra["crossover"].get("route") for part in parts]
        assert routes[0] == {"name": "best", "model": "second", "passed": passed}
        assert not any(routes[1:])
        assert {part.model for part in parts} == {"second"}
        assert raw.headers["X-Crossover-Model"] == "second"
        assert raw.headers["X-Crossover-Passed"] == f"first={FAULTS[fault]}"
        served.recover()
    told = httpx.get(f"{str(client.base_url).removesuffix('/v1/')}/metrics").text
    assert f'passed_total{{model="first",reason="{FAULTS[fault]}",route="best"}}' in told


def test_a_stream_goes_on_where_its_worker_was_killed(served: Served) -> None:
    expected = served.ask(served.patient, "first", max_tokens=400).choices[0].text
    restarts = served.primary.supervisor.restarts
    order(served.folder, "killed", after=50)
    parts = [*served.ask(served.patient, stream=True, max_tokens=400)]
    assert "".join(part.choices[0].text for part in parts) == expected
    assert served.primary.supervisor.restarts == restarts + 1
    assert parts[0].model_extra["crossover"]["route"]["passed"] == []


def test_a_route_is_ready_while_one_of_its_models_is(served: Served) -> None:
    ready = httpx.get(f"{served.urls[0]}/ready")
    assert ready.status_code == 200 and ready.json()["routes"] == {"best": True}
    served.primary.supervisor._ready, before = None, served.primary.supervisor._ready
    try:
        ready = httpx.get(f"{served.urls[0]}/ready")
        assert ready.status_code == 200 and ready.json()["models"]["first"] is False
        assert served.ask(served.patient).model == "second"
    finally:
        served.primary.supervisor._ready = before


def test_states_are_of_a_model_and_not_of_a_route(served: Served) -> None:
    with pytest.raises(openai.BadRequestError, match="name it, not a route"):
        served.ask(served.patient, extra_body={"save_state": "book"})
    with pytest.raises(openai.NotFoundError, match="there are: first, second, best"):
        served.ask(served.patient, "worst")
