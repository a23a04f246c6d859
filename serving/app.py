"""The server: models behind the OpenAI API, on one address.

https://platform.openai.com/docs/api-reference. Beside its fields, an answer and each piece of a
stream have `crossover`: what the token cost and where it stands.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from core.errors import UserError, shown
from core.parsing import read_text
from serving.answers import Answering, Piece, Refusal
from serving.metrics import Metrics
from serving.openai_schema import Chat, Completion
from serving.served_model import ServedModel

logger = logging.getLogger(__name__)
MOST_KEY = 1 << 12  # bytes of a file with a key
PAGE = Path(__file__).parent / "assets" / "live.html"


@dataclass(frozen=True)
class Limits:
    """What one server takes."""

    body_bytes: int = 8 << 20
    body_seconds: float = 30.0
    """Until a request has arrived."""
    waiting: int = 256
    """Requests at a time, of all models."""
    answer_seconds: float = 600.0
    """Until an answer is whole."""


class Server:
    """The routes, over models that are open."""

    def __init__(
        self, models: Mapping[str, ServedModel], limits: Limits, key: str | None = None
    ) -> None:
        """The first model answers where none is named. With a `key`, requests must carry it."""
        self._models, self._limits, self._key = dict(models), limits, key
        self._started = int(time.time())
        self.metrics = Metrics()

    def app(self) -> Starlette:
        """The ASGI application."""

        routes = [
            Route("/", self._page),
            Route("/health", self._health),
            Route("/ready", self._ready),
            Route("/metrics", self._metrics),
            Route("/v1/models", self._list, methods=["GET"]),
            Route("/v1/completions", self._completions, methods=["POST"]),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
        ]
        handlers: Any = {404: _not_found, 405: _not_found, 500: _crashed}
        return Starlette(routes=routes, exception_handlers=handlers)

    # ---- what is there ------------------------------------------------------------------------

    async def _page(self, request: Request) -> Response:
        return FileResponse(PAGE, media_type="text/html")

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _ready(self, request: Request) -> Response:
        ready = {name: model.supervisor.is_ready for name, model in self._models.items()}
        return JSONResponse({"models": ready}, 200 if all(ready.values()) else 503)

    async def _metrics(self, request: Request) -> Response:
        models = [model.supervisor for model in self._models.values()]
        return Response(self.metrics.text(models), media_type="text/plain; version=0.0.4")

    async def _list(self, request: Request) -> Response:
        if (stranger := self._unknown(request)) is not None:
            return _error(stranger)
        found = [
            {"id": name, "object": "model", "created": self._started, "owned_by": "crossover",
             "crossover": model.described()}
            for name, model in self._models.items()
        ]  # fmt: skip
        return JSONResponse({"object": "list", "data": found})

    # ---- answers ------------------------------------------------------------------------------

    async def _completions(self, request: Request) -> Response:
        return await self._answer(request, Completion)

    async def _chat(self, request: Request) -> Response:
        return await self._answer(request, Chat)

    async def _answer(self, request: Request, kind: type[Completion] | type[Chat]) -> Response:
        name = "none"
        try:
            if (stranger := self._unknown(request)) is not None:
                raise stranger
            asked = _parsed(await self._body(request), kind)
            name = asked.model or next(iter(self._models))
            if (model := self._models.get(name)) is None:
                name = "none"
                known = ", ".join(self._models)
                raise Refusal(404, f"no model '{shown(asked.model)}'; there are: {known}", "model")
            if sum(one.supervisor.waiting for one in self._models.values()) >= self._limits.waiting:
                raise Refusal(503, "too many requests are waiting: try again later")
            answering = await model.answering(asked)
            pieces = self._counted(name, answering)
            first = await anext(pieces)  # what can be wrong is known before the first is sent
        except Refusal as refusal:
            self.metrics.requests.labels(name, refusal.status).inc()
            return _error(refusal)
        except ClientDisconnect:
            return Response(status_code=400)
        if asked.stream:
            events = _events(answering, first, pieces, asked.stream_options)
            return StreamingResponse(events, media_type="text/event-stream")
        everything = [first]
        try:
            async for piece in pieces:
                everything.append(piece)
        except Refusal as refusal:
            return _error(refusal)
        return JSONResponse(answering.whole(everything))

    async def _counted(self, name: str, answering: Answering) -> AsyncIterator[Piece]:
        """The pieces of an answer, within its time; the sums are kept."""
        start, status = time.perf_counter(), 499  # the client leaves
        try:
            async with asyncio.timeout(self._limits.answer_seconds):
                async for piece in answering.pieces():
                    yield piece
            status = 200
        except TimeoutError:
            status = 504
            raise Refusal(504, "the answer took too long") from None
        except Refusal as refusal:
            status = refusal.status
            raise
        finally:
            if status not in (400, 404):
                self.metrics.requests.labels(name, status).inc()
            self.metrics.seconds.labels(name).inc(time.perf_counter() - start)
            self.metrics.read.labels(name).inc(answering.prompt_tokens)
            self.metrics.cached.labels(name).inc(answering.cached)
            self.metrics.drawn.labels(name).inc(answering.tokens)

    def _unknown(self, request: Request) -> Refusal | None:
        """Whoever does not have the key."""
        if self._key is None:
            return None
        given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
        if hmac.compare_digest(given, self._key.encode()):
            return None
        return Refusal(401, "this server needs its key: Authorization: Bearer KEY")

    async def _body(self, request: Request) -> bytes:
        most = self._limits.body_bytes
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                async for part in request.stream():
                    body += part
                    if len(body) > most:
                        raise Refusal(413, f"a request may have {most:,} bytes")
        except TimeoutError:
            raise Refusal(408, "the request did not arrive in time") from None
        return bytes(body)


def _parsed(body: bytes, kind: type[Any]) -> Any:
    try:
        values = json.loads(body.decode())
        if not isinstance(values, dict):
            raise Refusal(400, "a request is an object of JSON")
        return kind.model_validate(values)
    except UnicodeDecodeError:
        raise Refusal(400, "a request is JSON in UTF-8") from None
    except RecursionError:
        raise Refusal(400, "a request is JSON that is not nested so deep") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = shown(".".join(str(part) for part in first["loc"][:3]), 80)
        text = first["msg"].removeprefix("Value error, ")
        raise Refusal(400, f"{place}: {text}" if place else text, place or None) from None
    except ValueError as error:
        raise Refusal(400, f"a request is JSON ({str(error)[:100]})") from None


async def _events(
    answering: Answering, first: Piece, rest: AsyncIterator[Piece], options: BaseModel | None
) -> AsyncIterator[str]:
    """Server-sent events. An error after the first is an event too; its status has been sent."""
    try:
        for said in answering.beginning():
            yield _event(said)
        yield _event(answering.part(first))
        async for piece in rest:
            yield _event(answering.part(piece))
        if getattr(options, "include_usage", False):
            yield _event(answering.usage_part())
        yield "data: [DONE]\n\n"
    except Refusal as refusal:
        yield _event(refusal.content())


def _event(content: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def _error(refusal: Refusal) -> Response:
    headers = {"Retry-After": "1"} if refusal.status == 503 else {}
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(refusal.content(), refusal.status, headers)


async def _not_found(request: Request, error: Any) -> Response:
    return _error(
        Refusal(error.status_code, f"{request.method} {shown(request.url.path)}: no such route")
    )


async def _crashed(request: Request, error: Exception) -> Response:
    logger.error("a request failed", exc_info=error)
    return _error(Refusal(500, "this request failed; the server's log says why"))


def read_key(path: Path | None) -> str | None:
    """The key in a file. Raises `UserError` if there is none."""
    if path is None:
        return None
    try:
        key = read_text(path, MOST_KEY).strip()
    except UserError as error:
        raise UserError(f"key_file={error}") from None
    if not key or not key.isascii() or not key.isprintable():
        raise UserError(f"key_file={path}: holds no key, a line of ASCII characters")
    return key
