"""One request over the models of a route: the first that can answers, before anything is sent.

A model is left for the next while nothing of its answer has reached the client: until the first
token of a stream, and until the end of an answer that is sent whole. After that the model goes on,
on another worker if need be (`serving.supervisor`). The last model of a route is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from serving.accounts import Bill
from serving.answers import Answering, Piece, Price, Refusal, Routed
from serving.openai_schema import Chat, Completion
from serving.requests import Spent
from serving.retry_budget import RetryBudget
from serving.routes import Route
from serving.served_model import ServedModel


@dataclass(frozen=True)
class Patience:
    """How long, in seconds, and how much a route takes from a model; `answer` is for any."""

    first_token: float = 30.0
    next_token: float = 10.0
    answer: float = 600.0
    """Until an answer is whole."""
    waiting: int = 128
    """Requests of one model at a time."""


class _Left(Exception):
    """The model cannot answer, for a reason that `Routed` names."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Failover:
    """A request on its way to the model that answers it."""

    def __init__(
        self,
        route: Route,
        models: Sequence[ServedModel],
        asked: Completion | Chat,
        patience: Patience,
        retries: RetryBudget,
        bill: Bill,
        price: Price | None = None,
    ) -> None:
        """`models` are those of the route; one alone is asked as if there were no route."""
        self._route, self._models, self._asked = route, models, asked
        self._patience, self._retries, self._bill, self._price = patience, retries, bill, price
        self._clock: Callable[[], float] = asyncio.get_running_loop().time
        self._end = self._clock() + patience.answer
        self._next: float | None = None
        self._leaving = False
        self.model = models[0].supervisor.name
        """The model that was asked last."""
        self.attempts: list[tuple[str, Answering]] = []
        """Models that were asked, and what they said."""
        self.passed: list[tuple[str, str]] = []
        """Models that could not answer, and why."""

    async def pieces(self) -> AsyncIterator[Piece]:
        """The answer; the last piece has a reason. Raises `Refusal`."""
        for model in self._models:
            is_last = model is self._models[-1]
            if not is_last and (reason := self._unfit(model)) is not None:
                self.passed.append((model.supervisor.name, reason))
                continue
            self.model = model.supervisor.name
            if model.supervisor.waiting >= self._patience.waiting:
                raise Refusal(503, "too many requests are waiting: try again later")
            try:
                async with aclosing(self._attempt(model, is_last)) as pieces:  # type: ignore[type-var]
                    async for piece in pieces:
                        yield piece
                return
            except _Left as left:
                self.passed.append((model.supervisor.name, left.reason))
            except Refusal as refusal:
                if refusal.status != 400 or not self.passed:
                    raise
                # Of a request that the first model might have taken: it is right to send it again.
                first, reason = self.passed[0]
                raise Refusal(
                    503, f"{first} is not there ({reason}), and {self.model} cannot: {refusal}"
                ) from None

    def settle(self) -> None:
        """Charge what all attempts have cost, and the tokens of the one that answers."""
        if self.attempts:
            _, last = self.attempts[-1]
            spent = sum((one.spent for _, one in self.attempts), Spent())
            self._bill.settle(last.read, last.tokens, spent)

    def _unfit(self, model: ServedModel) -> str | None:
        """Why a model need not be asked."""
        if not model.supervisor.is_ready:
            return "dead"
        if model.supervisor.waiting >= self._patience.waiting:
            return "overloaded"
        return None if model.breaker.admits() else "resting"

    async def _attempt(self, model: ServedModel, is_last: bool) -> AsyncIterator[Piece]:
        """The answer of one model. Raises `_Left` if the next one is to answer."""
        answering = await model.answering(self._asked)
        self._bill.expect(answering.prompt_tokens + answering.most)
        name = model.supervisor.name
        self.attempts.append((name, answering))
        answering.price = self._price
        if len(self._models) > 1:
            answering.routed = Routed(self._route.name, name, tuple(self.passed))
        self._leaving = not is_last
        self._next = self._clock() + self._patience.first_token if self._leaving else None
        held: list[Piece] = []
        try:
            async with aclosing(answering.pieces(self._until)) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    if piece.trouble is not None:
                        self._trouble(model, piece.trouble)
                        continue
                    if piece.drawn is not None or piece.reason is not None:
                        model.breaker.succeeded()
                        if self._next is not None:
                            self._next = self._clock() + self._patience.next_token
                        if self._asked.stream or piece.reason is not None:
                            self._leaving, self._next = False, None  # something is sent now
                    held.append(piece)
                    if not self._leaving:
                        for one in held:
                            yield one
                        held.clear()
        except Refusal as refusal:
            if refusal.status >= 500 and refusal.status != 504:
                model.breaker.failed()
                self._leave(refusal.code or "failed")
            raise

    def _until(self) -> float:
        """The instant of the loop's clock up to which the next piece is waited for."""
        return self._end if self._next is None else min(self._end, self._next)

    def _trouble(self, model: ServedModel, reason: str) -> None:
        """Leave the model, or wait for it."""
        if reason == "deadline" and self._clock() >= self._end:
            raise Refusal(504, "the answer took too long")
        model.breaker.failed()
        self._leave(reason)

    def _leave(self, reason: str) -> None:
        """Raise `_Left` if that may be; or else the model is waited for from now on."""
        if self._leaving and self._retries.take():
            raise _Left(reason)
        self._leaving, self._next = False, None
