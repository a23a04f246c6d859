"""The server: models behind the OpenAI API, on one address.

https://platform.openai.com/docs/api-reference. Beside its fields, an answer and each piece of a
stream have `crossover`: what the token cost, where it stands, and which model of a route answers.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route as Address

from core.errors import shown
from serving.accounts import Accounts
from serving.answers import Answering, Piece, Refusal
from serving.failover import Failover, Patience
from serving.keys import Keys
from serving.metrics import Metrics
from serving.openai_schema import Chat, Completion, Tokens
from serving.retry_budget import RetryBudget
from serving.routes import Route
from serving.served_model import ServedModel

logger = logging.getLogger(__name__)
ASSETS = Path(__file__).parent / "assets"
PAGE, PREDICTED = ASSETS / "live.html", ASSETS / "predicted.json"


@dataclass(frozen=True)
class Limits:
    """What one server takes."""

    body_bytes: int = 8 << 20
    body_seconds: float = 30.0
    """Until a request has arrived."""
    waiting: int = 256
    """Requests at a time, of all models."""
    patience: Patience = field(default_factory=Patience)


class Server:
    """The addresses of HTTP, over models that are open."""

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        limits: Limits,
        keys: Keys | None = None,
        routes: Sequence[Route] = (),
        accounts: Accounts | None = None,
    ) -> None:
        """The first model answers where none is named. With `keys`, requests must carry one."""
        self._models, self._limits = dict(models), limits
        self._keys, self.accounts = keys or Keys(), accounts or Accounts()
        self._routes = {route.name: route for route in routes}
        self._retries = RetryBudget()
        self._started = int(time.time())
        self.metrics = Metrics()
        self.draining = False
        """Whether it is about to end: it answers, and says that it is not ready."""

    def app(self) -> Starlette:
        """The ASGI application."""

        routes = [
            Address("/", self._page),
            Address("/predicted.json", self._predicted),
            Address("/health", self._health),
            Address("/ready", self._ready),
            Address("/metrics", self._metrics),
            Address("/v1/models", self._list, methods=["GET"]),
            Address("/v1/usage", self._usage, methods=["GET"]),
            Address("/v1/tokens", self._tokens, methods=["POST"]),
            Address("/v1/completions", self._completions, methods=["POST"]),
            Address("/v1/chat/completions", self._chat, methods=["POST"]),
        ]
        handlers: Any = {404: _not_found, 405: _not_found, 500: _crashed}
        return Starlette(routes=routes, exception_handlers=handlers)

    # ---- what is there ------------------------------------------------------------------------

    async def _page(self, request: Request) -> Response:
        return FileResponse(PAGE, media_type="text/html")

    async def _predicted(self, request: Request) -> Response:
        return FileResponse(PREDICTED, media_type="application/json")

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _ready(self, request: Request) -> Response:
        """A route is ready if one of its models is; models of no route must be ready themselves."""
        models = {name: model.supervisor.is_ready for name, model in self._models.items()}
        routes = {
            route.name: any(models[name] for name in route.models)
            for route in self._routes.values()
        }
        routed = {name for route in self._routes.values() for name in route.models}
        alone = [ready for name, ready in models.items() if name not in routed]
        ready = all([*routes.values(), *alone]) and not self.draining
        said: dict[str, Any] = {"models": models}
        said |= {"routes": routes} if routes else {}
        said |= {"draining": True} if self.draining else {}
        return JSONResponse(said, 200 if ready else 503)

    async def _metrics(self, request: Request) -> Response:
        text = self.metrics.text(self._models.values())
        return Response(text, media_type="text/plain; version=0.0.4")

    async def _list(self, request: Request) -> Response:
        try:
            self._name_of(request)
        except Refusal as stranger:
            return _error(stranger)
        about = {name: model.described() for name, model in self._models.items()}
        about |= {route.name: {"route": [*route.models]} for route in self._routes.values()}
        found = [
            {"id": name, "object": "model", "created": self._started, "owned_by": "crossover",
             "crossover": described}
            for name, described in about.items()
        ]  # fmt: skip
        return JSONResponse({"object": "list", "data": found})

    async def _usage(self, request: Request) -> Response:
        try:
            return JSONResponse(self.accounts.described(self._name_of(request)))
        except Refusal as stranger:
            return _error(stranger)

    async def _tokens(self, request: Request) -> Response:
        try:
            self._name_of(request)
            asked = _parsed(await self._body(request), Tokens)
            name = asked.model or next(iter(self._models))
            if name not in self._models:
                raise _no_model(name, self._models)
            found = await self._models[name].tokens(asked.text, asked.most)
        except Refusal as refusal:
            return _error(refusal)
        except ClientDisconnect:
            return Response(status_code=400)
        return JSONResponse({"object": "list", "model": name, "data": found})

    # ---- answers ------------------------------------------------------------------------------

    async def _completions(self, request: Request) -> Response:
        return await self._answer(request, Completion)

    async def _chat(self, request: Request) -> Response:
        return await self._answer(request, Chat)

    async def _answer(self, request: Request, kind: type[Completion] | type[Chat]) -> Response:
        name = "none"
        tried: Failover | None = None
        try:
            bill = self.accounts.bill(self._name_of(request))
            asked = _parsed(await self._body(request), kind)
            route = self._route(asked)
            name = route.models[0]
            if sum(one.supervisor.waiting for one in self._models.values()) >= self._limits.waiting:
                raise Refusal(503, "too many requests are waiting: try again later")
            self._retries.request()
            models = [self._models[one] for one in route.models]
            tried = Failover(
                route, models, asked, self._limits.patience, self._retries, bill,
                self.accounts.price,
            )  # fmt: skip
            pieces = self._counted(route, tried)
            first = await anext(pieces)  # what can be wrong is known before the first is sent
        except Refusal as refusal:
            if tried is None:
                self.metrics.requests.labels(name, refusal.status).inc()
            return _error(refusal)
        except ClientDisconnect:
            return Response(status_code=400)
        answering = tried.attempts[-1][1]
        headers = _route_headers(route, tried)
        if asked.stream:
            events = _events(answering, first, pieces, asked.stream_options)
            return StreamingResponse(events, headers=headers, media_type="text/event-stream")
        everything = [first]
        try:
            async for piece in pieces:
                everything.append(piece)
        except Refusal as refusal:
            return _error(refusal)
        return JSONResponse(answering.whole(everything), headers=headers)

    def _route(self, asked: Completion | Chat) -> Route:
        """The route that a request names; a model is one of itself."""
        name = asked.model or next(iter(self._models))
        if name in self._models:
            return Route(name, (name,))
        if (route := self._routes.get(name)) is None:
            raise _no_model(name, [*self._models, *self._routes])
        for key in ("state", "save_state"):
            if getattr(asked, key, None) is not None:
                raise Refusal(400, f"{key}: a state is of one model; name it, not a route", key)
        return route

    async def _counted(self, route: Route, tried: Failover) -> AsyncIterator[Piece]:
        """The pieces of an answer; the sums are kept."""
        start, status = time.perf_counter(), 499  # the client leaves
        try:
            async with aclosing(tried.pieces()) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    yield piece
            status = 200
        except Refusal as refusal:
            status = refusal.status
            raise
        finally:
            self.metrics.requests.labels(tried.model, status).inc()
            self.metrics.seconds.labels(tried.model).inc(time.perf_counter() - start)
            for model, answering in tried.attempts:
                self.metrics.add(model, answering, self.accounts.price)
            for model, reason in tried.passed:
                self.metrics.passed.labels(model, route.name, reason).inc()
            tried.settle()

    def _name_of(self, request: Request) -> str:
        """Whose key a request carries. Raises `Refusal` if it is nobody's."""
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if (name := self._keys.name_of(given)) is None:
            raise Refusal(401, "this server needs its key: Authorization: Bearer KEY")
        return name

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


def _no_model(name: str, known: Iterable[str]) -> Refusal:
    return Refusal(404, f"no model '{shown(name)}'; there are: {', '.join(known)}", "model")


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


def _route_headers(route: Route, tried: Failover) -> dict[str, str]:
    """Which model answers, and which could not; nothing where one was named."""
    if len(route.models) == 1:
        return {}
    headers = {"X-Crossover-Model": quote(tried.model)}
    if tried.passed:
        passed = (f"{quote(model)}={reason}" for model, reason in tried.passed)
        headers["X-Crossover-Passed"] = ", ".join(passed)
    return headers


def _error(refusal: Refusal) -> Response:
    headers = {"Retry-After": "1"} if refusal.status == 503 else {}
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if refusal.status == 429:  # which clients send again, as of a limit per minute
        headers["x-should-retry"] = "false"
    return JSONResponse(refusal.content(), refusal.status, headers)


async def _not_found(request: Request, error: Any) -> Response:
    return _error(
        Refusal(error.status_code, f"{request.method} {shown(request.url.path)}: no such route")
    )


async def _crashed(request: Request, error: Exception) -> Response:
    logger.error("a request failed", exc_info=error)
    return _error(Refusal(500, "this request failed; the server's log says why"))
