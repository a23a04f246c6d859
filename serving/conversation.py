"""A conversation with a model, which reads each turn once: the next one goes on from its state."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.errors import UserError
from data.readers.chat_templates import ANSWERS, Span, Turn
from data.readers.shapes import BadRecord
from models.contract import State, separator_of, state_bytes
from models.decoding.captured import Decoder
from models.decoding.generate import RESERVED, check_finite, check_length
from models.decoding.sampling import choose
from models.decoding.settings import Sampling
from serving.chat_template import ChatTemplate
from serving.text import AnswerText

CHUNK = 256
"""Tokens of a prompt that are read at a time."""


@dataclass(frozen=True)
class Tally:
    """What the last answer has taken."""

    read: int
    """Tokens read before its first token."""
    read_seconds: float
    written: int
    """Tokens of the answer."""
    write_seconds: float
    position: int
    """Tokens read and written since the conversation began."""
    state_bytes: int


class Conversation:
    """Turns of a user and of a model, one at a time."""

    def __init__(
        self,
        model: Any,
        template: ChatTemplate,
        sampling: Sampling,
        most: int,
        system: str = "",
    ) -> None:
        """`most` tokens to an answer; `system` comes before the first turn. `sampling.seed` decides
        the random numbers of the whole conversation.

        Raises `UserError` for a model that writes one target to one source.
        """
        if separator_of(model) is not None:
            raise UserError(
                f"{model.title} writes one target to one source, and a conversation has many "
                "turns: use scripts/generate.py"
            )
        self._model, self._template = model, template
        self._sampling, self._most = sampling, most
        self._system = system
        self._device = next(model.parameters()).device
        self.tally: Tally | None = None
        self.begin()

    def begin(self) -> None:
        """Forget every turn."""
        self._turns = [Turn("system", self._system)] if self._system else []
        self._generator = torch.Generator(self._device).manual_seed(self._sampling.seed)
        self._forget()

    def _forget(self) -> None:
        """Let go of the state; the turns stay, and are read again."""
        self._text = ""  # of what the state has read
        self._position = 0
        self._state: State | None = None

    def ask(self, text: str) -> Generator[str]:
        """Yield the answer piece by piece; whoever leaves early keeps what has come.

        Raises `UserError` for a turn that cannot be written or read, which is then left out.
        """
        turns = [*self._turns, Turn("user", text)]
        try:
            spans = self._template.question(turns)
            rest = unread(spans, self._text)
            if rest is None:  # the template wrote the earlier turns otherwise
                self._forget()
                rest = spans
            tokens = self._template.tokens(rest)
            check_length(self._model, self._position + len(tokens), 1)
        except (BadRecord, ValueError) as error:
            raise UserError(str(error)) from None
        began = time.perf_counter()
        logits = self._read(tokens)
        self._turns = turns
        self._text = "".join(span.text for span in spans)
        yield from self._write(logits, tokens, time.perf_counter() - began)

    @torch.no_grad()
    def _read(self, tokens: Sequence[int]) -> Tensor:
        """Logits `[V]` after all of `tokens`."""
        state = self._state
        if state is None:
            state = self._model.init_state(1, capacity=len(tokens) + min(self._most, RESERVED))
        try:
            for start in range(0, len(tokens), CHUNK):
                part = torch.tensor([tokens[start : start + CHUNK]], device=self._device)
                logits, state = self._model.next_logits(part, state)
        except BaseException:  # the state, which is advanced in place, is somewhere in between
            self._forget()
            raise
        self._state = state
        self._position += len(tokens)
        return logits[0]

    @torch.no_grad()
    def _write(self, logits: Tensor, read: Sequence[int], read_seconds: float) -> Iterator[str]:
        answer = AnswerText(self._template.tokenizer, read, self._template.stops)
        decoder: Decoder | None = None
        ends, counts = self._template.end_tokens, Counter[int]()
        written: list[int] = []  # read by the state
        said, began = "", time.perf_counter()
        is_whole = False
        try:
            for number in range(self._most):
                check_finite(logits)
                token = int(choose(logits, self._sampling, self._generator, counts))
                if token in ends:
                    break
                counts[token] += 1
                piece = answer.push(token)
                said += piece
                yield piece
                if answer.stopped or number + 1 == self._most:
                    break
                check_length(self._model, self._position + 1, 1)
                decoder = decoder or Decoder(self._model, self._state or {}, self._most)
                self._state = None
                logits = decoder(torch.tensor([[token]], device=self._device))[0, -1]
                written.append(token)
                self._position += 1
            piece = answer.flush()
            said += piece
            is_whole = True
            yield piece
        except GeneratorExit:  # left between two tokens
            is_whole = True
            raise
        finally:
            if decoder is not None:
                self._state = decoder.state
            text = self._template.tokenizer.decode([*read, *written])
            self._text += text[len(self._template.tokenizer.decode(read)) :]
            self._turns.append(Turn(ANSWERS, said))
            self.tally = Tally(
                len(read), read_seconds, sum(counts.values()), time.perf_counter() - began,
                self._position, state_bytes(self._state or {}),
            )  # fmt: skip
            if not is_whole:
                self._forget()


def unread(spans: Sequence[Span], read: str) -> list[Span] | None:
    """What comes after `read` in a conversation; None if it does not begin so."""
    if not "".join(span.text for span in spans).startswith(read):
        return None
    rest, left = [], len(read)
    for span in spans:
        if left >= len(span.text):
            left -= len(span.text)
            continue
        if left and span.special:
            return None
        rest.append(span._replace(text=span.text[left:]))
        left = 0
    return rest
