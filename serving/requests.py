"""What is asked of a model, and what it answers: the messages between a server and its workers.

Nothing here imports torch, which only a worker needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from models.decoding.settings import Sampling


@dataclass(frozen=True)
class Request:
    """Continue a prompt by at most `most` tokens."""

    id: int
    prompt: tuple[int, ...]
    """At least one token, unless it continues a state."""
    most: int
    sampling: Sampling = field(default_factory=Sampling)
    ends: frozenset[int] = frozenset()
    """Tokens that end the answer; they are no part of it."""
    logprobs: int = 0
    """Alternatives to report at each place, beside the token itself; 0: no probabilities."""
    answered: tuple[int, ...] = ()
    """The beginning of the answer, where another worker gave it: it is read, not drawn again."""
    begin: Path | None = None
    """File of a state from which the prompt is read."""
    save: Path | None = None
    """File to which the state after the answer goes."""


@dataclass(frozen=True)
class Spent:
    """What an event cost: the part of the worker's time that its request had."""

    seconds: float = 0.0
    """Seconds of the worker; sequences that advance together share them."""
    processor: float = 0.0
    """Seconds of processors, of all threads."""
    joules: float | None = None
    """What the device counted; None where it has no counter."""

    def __add__(self, other: Spent) -> Spent:
        known = [one.joules for one in (self, other) if one.joules is not None]
        return Spent(
            self.seconds + other.seconds,
            self.processor + other.processor,
            sum(known) if known else None,
        )


@dataclass(frozen=True)
class Read:
    """How much of the prompt has been read."""

    id: int
    tokens: int
    of: int
    cached: int
    """Tokens of it that were not read again."""
    seconds: float
    """Spent on reading, by this request alone."""
    spent: Spent = Spent()


@dataclass(frozen=True)
class Drawn:
    """One more token of the answer."""

    id: int
    token: int
    position: int
    """Tokens before it, the prompt's and the state's included."""
    seconds: float
    """Since the token before, or since the prompt had been read."""
    state_bytes: int
    logprob: float | None = None
    """Its log probability under the model, in nats."""
    likeliest: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens there, with their log probabilities."""
    spent: Spent = Spent()


@dataclass(frozen=True)
class Finished:
    """The answer is whole."""

    id: int
    reason: str
    """`stop`: a token of `ends` was drawn; `length`: it is as long as asked."""
    read: int
    """Tokens that it began from, the prompt's and the state's."""
    saved_bytes: int = 0
    """Size of the file of its state."""
    spent: Spent = Spent()


@dataclass(frozen=True)
class Failed:
    """There is no answer, or no more of it."""

    id: int
    message: str
    status: int = 400
    """HTTP status: 4xx if the request is to blame, 5xx if the server is."""
    cause: str = "failed"
    """`out_of_memory`, `dead` where no worker can hold the model, or else `failed`."""
    spent: Spent = Spent()


@dataclass(frozen=True)
class Late:
    """Nothing has come of the answer within the time that it had."""

    id: int


@dataclass(frozen=True)
class Interrupted:
    """The worker has ended; the answer goes on once there is another one."""

    id: int


Event = Read | Drawn | Finished | Failed
"""What a worker says."""
Told = Event | Late | Interrupted
"""What is heard of a request."""


@dataclass(frozen=True)
class ModelInfo:
    """What a server has to know about the model of a worker."""

    title: str
    parameters: int
    recurrent: bool
    most_tokens: int | None
    """Longest context it can read; None: any."""
    tokenizer: Path
    backends: dict[str, str]
    digest: str
    """Identity of its weights, to which states belong."""


class Cancel(NamedTuple):
    """Forget a request."""

    id: int


class Refused(NamedTuple):
    """The model cannot be opened."""

    message: str


class Loaded(NamedTuple):
    """What a worker answers with: a model, and the file of its tokenizer."""

    model: Any
    tokenizer: Any
    """Path of its file."""


class AtWork(NamedTuple):
    """The requests that a worker computes for from now on: all others wait for their turn."""

    ids: frozenset[int]


Opener = Callable[[], Loaded]
Message = Request | Cancel
Answer = ModelInfo | Refused | AtWork | list[Event]
