"""Conversations as tokens: the template of a tokenizer, or that of RWKV World."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from core.errors import UserError
from data.readers.chat_templates import Span, Template, Turn, named
from data.text import TextTokenizer


@dataclass(frozen=True)
class ChatTemplate:
    """A template with the tokenizer that reads what it writes."""

    name: str
    template: Template
    tokenizer: TextTokenizer

    def question(self, turns: Sequence[Turn]) -> list[Span]:
        """A conversation up to where the model's words begin, neighbours of one kind joined: a text
        is tokenised as a whole.

        Raises `BadRecord`, `UserError` or `ValueError` for one that cannot be written.
        """
        joined: list[Span] = []
        for special, parts in groupby(self.template.question(turns), key=lambda span: span.special):
            texts = [span.text for span in parts]
            if not special:
                joined.append(Span("".join(texts), False))
                continue
            known = self.tokenizer.special_tokens  # others are read as the texts they are
            joined += [Span(text, False, text in known) for text in texts]
        return joined

    def tokens(self, spans: Iterable[Span]) -> list[int]:
        """Raises `UserError` naming what cannot be represented."""
        tokens: list[int] = []
        for span in spans:
            if span.special:
                tokens.append(self.tokenizer.special_tokens[span.text])
            else:
                tokens += self.tokenizer.encode_many([span.text])[0]
        return tokens

    @property
    def end_tokens(self) -> set[int]:
        """Tokens that end an answer: those of the template, and the end of a text."""
        known = self.tokenizer.special_tokens
        ends = {known[end] for end in self.template.ends if end in known}
        end_of_text = self.tokenizer.end_of_text
        return ends if end_of_text is None else ends | {end_of_text}

    @property
    def stops(self) -> list[str]:
        """Texts that end an answer."""
        return [end for end in self.template.ends if end not in self.tokenizer.special_tokens]


def find_template(chat: str, path: Path, tokenizer: TextTokenizer, guarded: bool) -> ChatTemplate:
    """The template `chat`, which is `auto` or one of those of `data.chat`; `path` is the
    tokenizer's.

    `auto` is the tokenizer's own, else ChatML where the tokenizer has its marks, else that of RWKV
    World. `guarded` has a tokenizer's template run with limits, in another process. Raises
    `UserError` if there is none.
    """
    if chat == "auto":
        try:
            return ChatTemplate("tokenizer", named("tokenizer", path, guarded), tokenizer)
        except UserError:
            chat = "chatml" if "<|im_start|>" in tokenizer.special_tokens else "rwkv"
    return ChatTemplate(chat, named(chat, path, guarded), tokenizer)
