"""One answer, as the OpenAI API writes it: whole, or in parts as they come."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from core.errors import UserError
from data.text import TextTokenizer
from serving.openai_schema import Chat, Completion
from serving.requests import Drawn, Failed, Interrupted, Late, Read, Request, Spent
from serving.supervisor import Supervisor
from serving.text import AnswerText


class Refusal(Exception):
    """Why there is no answer, and the status of HTTP that says whose fault it is."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None
    ) -> None:
        """`code` is the API's word for an error that programs tell apart."""
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def content(self) -> dict[str, Any]:
        """The body of the response."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        if self.status == 429:
            kind = self.code or kind
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}


@dataclass(frozen=True)
class Piece:
    """What one event adds to an answer; often a token, whose text may still be empty."""

    text: str = ""
    drawn: Drawn | None = None
    read: Read | None = None
    reason: str | None = None
    trouble: str | None = None
    """`deadline` or `dead`: nothing came in time, or the worker ended and is being replaced."""


@dataclass(frozen=True)
class Routed:
    """How a request came to the model that answers it."""

    route: str
    model: str
    passed: tuple[tuple[str, str], ...] = ()
    """Models before it that could not answer, and why: `dead`, `deadline`, `failed`,
    `out_of_memory`, `overloaded` or `resting`."""

    def content(self) -> dict[str, Any]:
        """What answers say of it."""
        passed = [{"model": model, "reason": reason} for model, reason in self.passed]
        return {"name": self.route, "model": self.model, "passed": passed}


@dataclass(frozen=True)
class Price:
    """What a second of a worker costs."""

    per_second: float
    currency: str

    def of(self, spent: Spent) -> float:
        """The cost of what was spent, in the currency."""
        return spent.seconds * self.per_second


class Answering:
    """A request of the API on its way."""

    def __init__(
        self,
        asked: Completion | Chat,
        name: str,
        supervisor: Supervisor,
        tokenizer: TextTokenizer,
        request: Request,
        stops: Sequence[str],
    ) -> None:
        self._asked, self._name, self._request = asked, name, request
        self._supervisor, self._tokenizer = supervisor, tokenizer
        self._text = AnswerText(tokenizer, request.prompt, stops)
        self._is_chat = isinstance(asked, Chat)
        self._id = f"{'chatcmpl' if self._is_chat else 'cmpl'}-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self.prompt_tokens, self.most = len(request.prompt), request.most
        self.read = self.cached = self.tokens = 0
        self.spent = Spent()
        self.routed: Routed | None = None
        self.price: Price | None = None
        self._said_route = False

    async def pieces(self, until: Callable[[], float | None] | None = None) -> AsyncIterator[Piece]:
        """The answer; the last piece has a reason. Raises `Refusal`.

        `until` is that of `Supervisor.ask`.
        """
        events = self._supervisor.ask(self._request, until)
        async with aclosing(events):  # type: ignore[type-var]
            async for event in events:
                if isinstance(event, Late | Interrupted):
                    yield Piece(trouble="deadline" if isinstance(event, Late) else "dead")
                    continue
                self.spent += event.spent
                if isinstance(event, Failed):
                    code = event.cause if event.status >= 500 else None
                    raise Refusal(event.status, event.message, code=code)
                if isinstance(event, Read):
                    self.read, self.cached = max(self.read, event.tokens), event.cached
                    yield Piece(read=event)
                elif isinstance(event, Drawn):
                    self.tokens += 1
                    text = self._text.push(event.token)
                    yield Piece(text, event)
                    if self._text.stopped:
                        yield Piece(reason="stop")
                        return
                else:
                    text = self._text.flush()
                    yield Piece(text, reason="stop" if self._text.stopped else event.reason)

    def whole(self, pieces: Iterable[Piece]) -> dict[str, Any]:
        """All of an answer at once."""
        pieces = [*pieces]
        text = "".join(piece.text for piece in pieces)
        choice: dict[str, Any] = {"index": 0, "finish_reason": pieces[-1].reason}
        drawn = [piece.drawn for piece in pieces if piece.drawn]
        if isinstance(self._asked, Chat):
            choice["message"] = {"role": "assistant", "content": text, "refusal": None}
        else:
            echo = self._asked.echo and self._tokenizer.decode(self._request.prompt)
            choice["text"] = (echo or "") + text
        choice["logprobs"] = self._logprobs(drawn)
        said = {**self._head(""), "choices": [choice], "usage": self._usage()}
        return {**said, "crossover": {**_costs(pieces), **self._totals(), **self._route()}}

    def beginning(self) -> list[dict[str, Any]]:
        """What a stream says before the answer."""
        if self._is_chat:
            delta = {"role": "assistant", "content": ""}
            return [{**self._head(".chunk"), "choices": [_choice(delta=delta)]}]
        if isinstance(self._asked, Completion) and self._asked.echo:
            text = self._tokenizer.decode(self._request.prompt)
            return [{**self._head(""), "choices": [_choice(text=text)]}]
        return []

    def part(self, piece: Piece) -> dict[str, Any]:
        """One piece of a stream. The last has the sums, and the first says which model answers."""
        what: dict[str, Any] = (
            {"delta": {"content": piece.text} if piece.text else {}}
            if self._is_chat
            else {"text": piece.text}
        )
        choice = _choice(piece.reason, **what)
        choice["logprobs"] = self._logprobs([piece.drawn] if piece.drawn else [])
        costs = _costs([piece])
        options = self._asked.stream_options
        if piece.reason is not None or (options is not None and options.include_costs):
            costs |= self._totals()
        if not self._said_route:
            costs |= self._route()
            self._said_route = True
        return {**self._head(".chunk"), "choices": [choice], "crossover": costs}

    def usage_part(self) -> dict[str, Any]:
        """The last piece of a stream that says what was used."""
        return {**self._head(".chunk"), "choices": [], "usage": self._usage()}

    def _head(self, chunk: str) -> dict[str, Any]:
        kind = f"chat.completion{chunk}" if self._is_chat else "text_completion"
        return {"id": self._id, "object": kind, "created": self._created, "model": self._name}

    def _totals(self) -> dict[str, Any]:
        """What all of the answer has cost; joules and money only where they are known."""
        spent = self.spent
        totals = {
            "worker_seconds": round(spent.seconds, 6),
            "processor_seconds": round(spent.processor, 6),
        }
        if spent.joules is not None:
            totals["joules"] = round(spent.joules, 6)
        if self.price is None:
            return totals
        return {**totals, "cost": self.price.of(spent), "currency": self.price.currency}

    def _route(self) -> dict[str, Any]:
        return {} if self.routed is None else {"route": self.routed.content()}

    def _usage(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.tokens,
            "total_tokens": self.prompt_tokens + self.tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }

    def _logprobs(self, drawn: Sequence[Drawn]) -> dict[str, Any] | None:
        drawn = [one for one in drawn if one.logprob is not None]
        if not self._request.logprobs:
            return None
        if self._is_chat:
            asked = self._asked.top_logprobs  # type: ignore[union-attr]
            return {
                "content": [
                    {
                        **self._likelihood(one.token, one.logprob),
                        "top_logprobs": [self._likelihood(*pair) for pair in one.likeliest[:asked]],
                    }
                    for one in drawn
                ],
                "refusal": None,
            }
        return {
            "tokens": [self._tokenizer.decode([one.token]) for one in drawn],
            "token_logprobs": [one.logprob for one in drawn],
            "top_logprobs": [
                {self._tokenizer.decode([token]): value for token, value in one.likeliest}
                for one in drawn
            ],
            "text_offset": [],
        }

    def _likelihood(self, token: int, value: float | None) -> dict[str, Any]:
        text = self._tokenizer.decode([token])
        return {"token": text, "logprob": value, "bytes": [*text.encode()]}


def _choice(reason: str | None = None, **what: Any) -> dict[str, Any]:
    return {"index": 0, "finish_reason": reason, "logprobs": None, **what}


def _costs(pieces: Sequence[Piece]) -> dict[str, Any]:
    """What was measured: seconds of reading and of the tokens, and the state's bytes."""
    costs: dict[str, Any] = {}
    for piece in pieces:
        if piece.read is not None:
            read = piece.read
            costs |= {"read": read.tokens, "of": read.of, "cached": read.cached}
            costs |= {"read_seconds": round(read.seconds, 6)}
        if piece.drawn is not None:
            drawn = piece.drawn
            costs |= {"position": drawn.position, "state_bytes": drawn.state_bytes}
            costs.setdefault("token_seconds", []).append(round(drawn.seconds, 6))
    return costs


async def encoded(tokenizer: TextTokenizer, texts: Sequence[str]) -> list[int]:
    """The tokens of texts one after another. Raises `Refusal`."""
    try:
        parts = await asyncio.to_thread(tokenizer.encode_many, texts)
    except UserError as error:
        raise Refusal(400, str(error)) from None
    return [token for part in parts for token in part]
