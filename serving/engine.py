"""Answering many requests with one model: continuous batching.

Each round reads one chunk of one prompt and advances every answer by one token. A sequence joins
when its prompt has been read and leaves when its answer ends; the others do not wait for it.
Prompts take turns, a chunk each. Those of answers begun on a worker that ended come first, one
after the other: were they all read at once, none would go on if this worker ended early too.

An answer does not depend on its company. Prompts are read in chunks that begin at fixed places, a
row of a batch is computed as it would be alone, and the random numbers of a token depend on the
request's seed and the token's place only (`models.decoding.sampling.generator_at`). So an answer
that is begun on one worker is finished by another with the same tokens: those given are read one at
a time, as they were when they were drawn.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from core.energy import find
from core.errors import UserError
from core.out_of_memory import is_out_of_memory
from models.contract import State, combine_states, map_state, state_bytes
from models.decoding.generate import RESERVED, check_finite, check_length, check_separator
from models.decoding.program import MOST_ROWS
from models.decoding.sampling import choose, generator_at
from serving.meter import Meter
from serving.prefix_cache import PrefixCache
from serving.requests import Drawn, Event, Failed, Finished, Read, Request
from serving.state_files import digest_of, read_state, write_state

CHUNK = 256  # tokens of a prompt that are read at a time
REPLAYED = 16  # tokens of an answer begun elsewhere that are read at a time
CACHE = 256 << 20  # bytes of states of prompts


class Sequence:
    """A request on its way."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.read = 0  # tokens of the prompt
        self.keys: dict[int, bytes] = {}  # of its prompt's beginnings; none if it has a state
        self.cached = 0
        self.before = 0  # tokens of the state that it begins from
        self.state: State | None = None  # None while it is in a batch
        self.logits: Tensor | None = None  # [V], of the next token
        self.answer: list[int] = []
        self.counts: Counter[int] = Counter()
        self.reading = 0.0  # seconds
        self.since = 0.0  # the instant of the token before
        self.ended = ""  # the reason

    @property
    def position(self) -> int:
        """Tokens that its state has seen or is about to see."""
        return self.before + len(self.request.prompt) + len(self.answer)


class Batch:
    """Sequences that advance together, and their states joined along the first dimension."""

    def __init__(self, model: Any, most: int) -> None:
        self._model, self._most = model, most
        self.members: list[Sequence] = []
        self._state: State = {}

    @property
    def has_room(self) -> bool:
        return len(self.members) < self._most

    def join(self, sequence: Sequence) -> None:
        """Take a sequence and its state in."""
        assert sequence.state is not None
        self._state = (
            combine_states([self._state, sequence.state], torch.cat)
            if self.members
            else sequence.state
        )
        self.members.append(sequence)
        sequence.state = None

    def leave(self, sequence: Sequence, keep: bool = False) -> None:
        """Let a sequence go; with `keep` it takes its state along."""
        place = self.members.index(sequence)
        if keep:
            alone = len(self.members) == 1
            sequence.state = (
                self._state
                if alone
                else map_state(self._state, lambda leaf: leaf[place : place + 1].clone())
            )
        self.members.remove(sequence)
        if self.members:
            stays = [row for row in range(len(self.members) + 1) if row != place]
            self._state = map_state(self._state, lambda leaf: leaf[stays])
        else:
            self._state = {}

    def advance(self) -> None:
        """Every member reads the last token of its answer."""
        device = next(self._model.parameters()).device
        last = torch.tensor([[member.answer[-1]] for member in self.members], device=device)
        logits, self._state = self._model(last, self._state)
        for member, row in zip(self.members, logits[:, -1], strict=True):
            member.logits = row

    def sizes(self) -> dict[int, int]:
        """Bytes of the state of each of its sequences, by request."""
        size = state_bytes(self._state) // max(len(self.members), 1)
        return {member.request.id: size for member in self.members}


class BatchOfCaches(Batch):
    """Sequences that advance together, each with a state of its own: caches of a length each."""

    def join(self, sequence: Sequence) -> None:
        self.members.append(sequence)

    def leave(self, sequence: Sequence, keep: bool = False) -> None:
        self.members.remove(sequence)
        if not keep:
            sequence.state = None

    def advance(self) -> None:
        last = torch.tensor([[member.answer[-1]] for member in self.members])
        states = [member.state or {} for member in self.members]
        logits, states = self._model.step_apart(last, states)
        for member, row, state in zip(self.members, logits[:, -1], states, strict=True):
            member.logits, member.state = row, state

    def sizes(self) -> dict[int, int]:
        return {member.request.id: state_bytes(member.state or {}) for member in self.members}


class Engine:
    """A model and the requests that it is answering. Not for several threads."""

    def __init__(
        self, model: Any, chunk: int = CHUNK, cache: int = CACHE, most_rows: int = MOST_ROWS
    ) -> None:
        """`chunk` in tokens, `cache` in bytes; `most_rows` sequences share one pass at most."""
        self._model, self._chunk = model, chunk
        apart = getattr(model, "can_step_apart", False)  # else a pass needs caches of one length
        self._kind = BatchOfCaches if apart and not model.recurrent else Batch
        self._most_rows = most_rows if apart or model.recurrent else 1
        self._reading: deque[Sequence] = deque()
        self._batches: list[Batch] = []
        self._cache = PrefixCache(cache, chunk)
        self._device = next(model.parameters()).device
        self._meter = Meter(find(self._device.type))
        self.digest = digest_of(model)

    @property
    def sequences(self) -> int:
        """Requests that are not answered yet."""
        return len(self._reading) + sum(len(batch.members) for batch in self._batches)

    @property
    def at_work(self) -> frozenset[int]:
        """The requests that the next round computes for."""
        return frozenset(
            sequence.request.id
            for sequences in ([*self._reading][:1], *(batch.members for batch in self._batches))
            for sequence in sequences
        )

    def add(self, request: Request) -> list[Event]:
        """Begin to answer a request. Returns `Failed` at once where that cannot be done."""
        sequence = Sequence(request)
        events: list[Event] = []
        self._try([sequence], partial(self._begin, sequence), events)
        if not events:
            first = sum(bool(other.request.answered) for other in self._reading)
            self._reading.insert(first if request.answered else len(self._reading), sequence)
        return events

    def cancel(self, number: int) -> None:
        """Forget a request; nothing if it has been answered."""
        for sequence in [one for one in self._reading if one.request.id == number]:
            self._reading.remove(sequence)
        for batch in self._batches:
            for sequence in [one for one in batch.members if one.request.id == number]:
                batch.leave(sequence)
        self._batches = [batch for batch in self._batches if batch.members]

    @torch.no_grad()
    def step(self) -> list[Event]:
        """One round; see above."""
        events: list[Event] = []
        if self._reading:
            sequence = self._reading.popleft()
            with self._meter.working([sequence.request.id]):
                self._try([sequence], partial(self._read, sequence), events)
        for batch in [*self._batches]:
            sizes = batch.sizes()
            with self._meter.working([member.request.id for member in batch.members]):
                for sequence in [*batch.members]:
                    self._try([sequence], partial(self._draw, batch, sequence, sizes), events)
                if batch.members:
                    self._try(batch.members, batch.advance, events)
        self._batches = [batch for batch in self._batches if batch.members]
        return self._meter.stated(events)

    def _try(
        self,
        sequences: list[Sequence],
        work: Callable[[], list[Event] | None],
        events: list[Event],
    ) -> None:
        """Do something for sequences, which fail together if it does."""
        try:
            events += work() or []
        except (UserError, RuntimeError, OSError, MemoryError) as error:
            if isinstance(error, RuntimeError) and not is_out_of_memory(error):
                raise
            full = is_out_of_memory(error)
            text = "the memory of this device is used up" if full else str(error)
            status = 503 if full else 400 if isinstance(error, UserError) else 500
            cause = "out_of_memory" if full else "failed"
            for sequence in [*sequences]:
                self.cancel(sequence.request.id)
                events.append(Failed(sequence.request.id, text, status, cause))

    # ---- reading ------------------------------------------------------------------------------

    def _begin(self, sequence: Sequence) -> None:
        """Its first state: empty, from a file, or of a prompt with the same beginning."""
        request = sequence.request
        is_filed = request.begin is not None or request.save is not None
        if is_filed and not getattr(self._model, "can_file", True):
            raise UserError(
                f"states of {self._model.title} are kept in memory alone: a file of one could not "
                "be checked before it is used"
            )
        if request.begin is not None:
            state, logits, tokens = read_state(request.begin, self._model, self.digest)
            sequence.state, sequence.before = state, tokens
            sequence.logits = logits.to(self._device)
        elif not request.prompt:
            raise UserError("the prompt has no token: give a text, or a state to continue")
        check_length(self._model, sequence.before + len(request.prompt), max(request.most, 1))
        if request.begin is None:
            check_separator(self._model, request.prompt)
            sequence.keys = self._cache.keys(request.prompt)
            if (known := self._cache.find(sequence.keys)) is not None:
                sequence.read, sequence.state, sequence.logits = known
                sequence.cached = sequence.read
            else:
                capacity = len(request.prompt) + min(request.most, RESERVED)
                sequence.state = self._model.init_state(1, capacity=capacity)

    def _read(self, sequence: Sequence) -> list[Event]:
        """One chunk of its prompt, or of what was answered already; then it joins a batch."""
        request, start = sequence.request, time.perf_counter()
        part = request.prompt[sequence.read : sequence.read + self._chunk]
        if part:
            tokens = torch.tensor([part], device=self._device)
            logits, sequence.state = self._model.next_logits(tokens, sequence.state)
            sequence.logits, sequence.read = logits[0], sequence.read + len(part)
            assert sequence.state is not None
            if sequence.keys:
                self._cache.keep(sequence.keys[sequence.read], sequence.state, logits[0])
        else:
            for token in request.answered[len(sequence.answer) :][:REPLAYED]:
                sequence.answer.append(token)
                sequence.counts[token] += 1
                self._advance_alone(sequence)
        now = time.perf_counter()
        sequence.reading += now - start
        sequence.since = now
        if sequence.read < len(request.prompt) or len(sequence.answer) < len(request.answered):
            wait = self._reading.appendleft if request.answered else self._reading.append
            wait(sequence)
        else:
            batch = next((one for one in self._batches if one.has_room), None)
            if batch is None:
                batch = self._kind(self._model, self._most_rows)
                self._batches.append(batch)
            batch.join(sequence)
        of = len(request.prompt)
        return [Read(request.id, sequence.read, of, sequence.cached, sequence.reading)]

    def _advance_alone(self, sequence: Sequence) -> None:
        last = torch.tensor([sequence.answer[-1:]], device=self._device)
        logits, sequence.state = self._model(last, sequence.state)
        sequence.logits = logits[0, -1]

    # ---- answering ----------------------------------------------------------------------------

    def _draw(self, batch: Batch, sequence: Sequence, sizes: dict[int, int]) -> list[Event]:
        """The next token of an answer; the sequence leaves where it ends. `sizes` are the bytes of
        states, by request."""
        request, logits = sequence.request, sequence.logits
        assert logits is not None
        if len(sequence.answer) >= request.most:
            return self._finish(batch, sequence, "length")
        check_finite(logits)
        generator = generator_at(request.sampling.seed, len(sequence.answer))
        token = int(choose(logits.cpu(), request.sampling, generator, sequence.counts))
        if token in request.ends:
            return self._finish(batch, sequence, "stop")
        now = time.perf_counter()
        drawn = Drawn(
            request.id, token, sequence.position, now - sequence.since, sizes[request.id],
            *_probabilities(logits, token, request.logprobs),
        )  # fmt: skip
        sequence.since = now
        sequence.answer.append(token)
        sequence.counts[token] += 1
        if len(sequence.answer) < request.most:
            return [drawn]
        return [drawn, *self._finish(batch, sequence, "length")]

    def _finish(self, batch: Batch, sequence: Sequence, reason: str) -> list[Event]:
        request, saved = sequence.request, 0
        batch.leave(sequence, keep=request.save is not None)
        if request.save is not None:
            if sequence.answer and reason == "length":
                self._advance_alone(sequence)  # the last token has not been read
            assert sequence.state is not None and sequence.logits is not None
            saved = write_state(
                request.save, sequence.state, self._model.init_state(1), sequence.logits,
                sequence.position, self.digest,
            )  # fmt: skip
        read = sequence.before + len(request.prompt)
        return [Finished(request.id, reason, read, saved)]


def _probabilities(
    logits: Tensor, token: int, likeliest: int
) -> tuple[float | None, tuple[tuple[int, float], ...]]:
    """The log probability of a token, and those of the likeliest; of logits `[V]`."""
    if not likeliest:
        return None, ()
    logs = logits.float().log_softmax(-1)
    top = logs.topk(min(likeliest, logs.shape[-1]))
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return float(logs[token]), tuple(pairs)
