"""A model under its name: its worker, its tokenizer, how conversations are written for it."""

from __future__ import annotations

import asyncio
import hashlib
import re
from pathlib import Path
from typing import Any

from core.errors import UserError
from data import foreign
from data.readers.chat_templates import Turn
from data.readers.shapes import BadRecord
from models.decoding.settings import Sampling
from serving.answers import Answering, Refusal, encoded
from serving.breaker import Breaker
from serving.chat_template import find_template
from serving.openai_schema import Chat, Completion
from serving.requests import Request
from serving.supervisor import Supervisor

MOST_ANSWER = 4096
"""Tokens of an answer to a conversation that does not say how long it may be."""


class ServedModel:
    """What the routes need of one model."""

    def __init__(self, supervisor: Supervisor, chat: str, states: Path) -> None:
        """`supervisor` has started; `states` is the folder of the files of its states.

        Raises `UserError` if there is no such chat template.
        """
        assert supervisor.info is not None
        self.supervisor, self._info = supervisor, supervisor.info
        self.breaker = Breaker()
        self._tokenizer = foreign.load(self._info.tokenizer, ())
        self._states = folder_of(states, supervisor.name)
        self._chat = find_template(chat, self._info.tokenizer, self._tokenizer, guarded=True)

    def described(self) -> dict[str, Any]:
        """What `/v1/models` says of it."""
        return {
            "title": self._info.title,
            "parameters": self._info.parameters,
            "recurrent": self._info.recurrent,
            "most_tokens": self._info.most_tokens,
            "backends": self._info.backends,
            "chat": self._chat.name,
        }

    async def answering(self, asked: Completion | Chat) -> Answering:
        """A request of the API as one for the worker. Raises `Refusal`."""
        stops, ends = asked.stops(), set()
        if self._tokenizer.end_of_text is not None:
            ends.add(self._tokenizer.end_of_text)
        if isinstance(asked, Completion):
            prompt = await self._read_prompt(asked)
            most, logprobs = asked.max_tokens, asked.logprobs
        else:
            prompt = await self._read_messages(asked)
            most = asked.max_completion_tokens or asked.max_tokens or self._room(len(prompt))
            logprobs = max(asked.top_logprobs, 1) if asked.logprobs else 0
            ends |= self._chat.end_tokens
            stops += self._chat.stops
        sampling = Sampling(
            asked.temperature, asked.top_k, asked.top_p, asked.presence_penalty,
            asked.frequency_penalty, asked.seed,
        )  # fmt: skip
        request = Request(
            0, tuple(prompt), most, sampling, frozenset(ends), logprobs,
            begin=self._state_path(getattr(asked, "state", None)),
            save=self._state_path(getattr(asked, "save_state", None)),
        )  # fmt: skip
        name = self.supervisor.name
        return Answering(asked, name, self.supervisor, self._tokenizer, request, stops)

    async def tokens(self, text: str, most: int) -> list[int]:
        """The first `most` tokens of a text. Raises `Refusal`."""
        return (await encoded(self._tokenizer, [text]))[:most]

    async def _read_prompt(self, asked: Completion) -> list[int]:
        if isinstance(asked.prompt, list):
            tokens = [int(token) for token in asked.prompt]
            if any(not 0 <= token < self._tokenizer.vocab_size for token in tokens):
                raise Refusal(400, f"prompt: token ids end at {self._tokenizer.vocab_size - 1:,}")
        else:
            tokens = await encoded(self._tokenizer, [asked.prompt])
        if not tokens and asked.state is None:
            return [self._tokenizer.end_of_text or 0]  # an empty text: whatever begins one
        return tokens

    async def _read_messages(self, asked: Chat) -> list[int]:
        try:
            turns = [
                Turn("system" if message.role == "developer" else message.role, message.text())
                for message in asked.messages
            ]
            spans = await asyncio.to_thread(self._chat.question, turns)
        except (BadRecord, UserError, ValueError) as error:
            raise Refusal(400, str(error), "messages") from None
        try:
            return await asyncio.to_thread(self._chat.tokens, spans)
        except UserError as error:
            raise Refusal(400, str(error)) from None

    def _room(self, prompt: int) -> int:
        most = self._info.most_tokens
        return MOST_ANSWER if most is None else max(1, min(MOST_ANSWER, most - prompt + 1))

    def _state_path(self, name: str | None) -> Path | None:
        return None if name is None else self._states / f"{name}.safetensors"


def folder_of(states: Path, model: str) -> Path:
    """The folder of a model's states, directly in `states`.

    It is called as the model; one whose name is a path has the end of it and a digest of it all.
    """
    if re.fullmatch(r"[^./][^/]{0,254}", model):
        return states / model
    digest = hashlib.sha256(model.encode(errors="surrogateescape")).hexdigest()[:8]
    return states / f"{Path(model).name[:50].lstrip('.')}-{digest}"
