"""A conversation that goes on from its state is one that is read anew at every turn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from core.errors import UserError
from data.readers.chat_templates import Rwkv, Span, Turn
from data.tokenizers import byte_tokenizer
from models.decoding.generate import generate
from models.decoding.settings import Sampling
from serving.chat_template import ChatTemplate, find_template
from serving.conversation import Conversation, unread
from tests.registered_models import shaken

TOKENIZER = byte_tokenizer()
TEMPLATE = ChatTemplate("rwkv", Rwkv(), TOKENIZER)
GREEDY = Sampling(0)
MOST = 12


class Lettered:
    """A model that writes letters, or what it is made to write."""

    def __init__(self, name: str) -> None:
        self.model: Any = shaken(name, vocab=257).eval()
        self.forced: Iterator[int] = iter(())
        letters = torch.full((257,), -1e9)
        letters[ord("a") : ord("z") + 1] = 0
        self._letters = letters

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def _chosen(self, logits: Tensor) -> Tensor:
        token = next(self.forced, None)
        if token is None:
            return logits + self._letters
        return torch.nn.functional.one_hot(torch.tensor(token), 257).float().expand_as(logits)

    def next_logits(self, tokens: Tensor, state: Any) -> Any:
        logits, state = self.model.next_logits(tokens, state)
        return self._chosen(logits), state

    def __call__(self, tokens: Tensor, state: Any) -> Any:
        logits, state = self.model(tokens, state)
        return self._chosen(logits), state


def anew(model: Any, *turns: str) -> str:
    """The answer of a model that reads the whole conversation."""
    roles = ("user", "assistant")
    said = [Turn(roles[number % 2], text) for number, text in enumerate(turns)]
    tokens = TEMPLATE.tokens(TEMPLATE.question(said))
    return TOKENIZER.decode(generate(model, torch.tensor(tokens), MOST, GREEDY))


@pytest.mark.parametrize("name", ["rwkv7", "transformer"])
def test_each_turn_reads_only_what_is_new(name: str) -> None:
    model = Lettered(name)
    talk = Conversation(model, TEMPLATE, GREEDY, MOST)
    first = "".join(talk.ask("How are you?"))
    assert first == anew(model, "How are you?") and len(first) == MOST
    assert talk.tally is not None and talk.tally.read == len("User: How are you?\n\nAssistant:")
    # The template puts a space before an answer, which this model did not write.
    second = "".join(talk.ask("Why?"))
    assert second == anew(model, "How are you?", first, "Why?")
    before = talk.tally.position

    model.forced = iter(TOKENIZER.encode(" no\n\nUser:"))
    assert "".join(talk.ask("So?")) == " no"
    model.forced = iter(())
    assert "".join(talk.ask("And?")) == anew(
        model, "How are you?", first, "Why?", second, "So?", "no", "And?"
    )
    # The colon after the next `User` was not read before the answer ended.
    assert talk.tally.read == len(": And?\n\nAssistant:") and talk.tally.position > before


def test_an_answer_that_is_left_early_stays() -> None:
    model = Lettered("rwkv4")
    talk = Conversation(model, TEMPLATE, GREEDY, MOST)
    pieces = talk.ask("Tell me")
    start = next(pieces) + next(pieces)
    pieces.close()
    assert "".join(talk.ask("more")) == anew(model, "Tell me", start, "more")
    talk.begin()
    assert "".join(talk.ask("Tell me")) == anew(model, "Tell me")


def test_a_fault_while_reading_or_writing_leaves_nothing_half_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Lettered("rwkv7")
    talk = Conversation(model, TEMPLATE, GREEDY, MOST)
    first = "".join(talk.ask("one"))

    def stops(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Lettered, "next_logits", stops)
        list(talk.ask("lost"))
    second = "".join(talk.ask("two"))
    assert second == anew(model, "one", first, "two")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Lettered, "__call__", stops)
        list(talk.ask("three"))  # its first token has come
    got = "".join(talk.ask("four"))
    third = anew(model, "one", first, "two", second, "three")[:1]
    assert got == anew(model, "one", first, "two", second, "three", third, "four")


def test_what_cannot_be_read_is_said_and_left_out() -> None:
    model = Lettered("gpt")  # reads at most so many tokens
    talk = Conversation(model, TEMPLATE, GREEDY, MOST)
    with pytest.raises(UserError, match=r"reads at most [\d,]+ tokens"):
        list(talk.ask("x" * 5000))
    assert "".join(talk.ask("x")) == anew(model, "x")


def test_what_is_unread() -> None:
    spans = [Span("<a>", False, True), Span("text", False), Span("<b>", False, True)]
    assert unread(spans, "") == spans
    assert unread(spans, "<a>te") == [Span("xt", False), spans[2]]
    assert unread(spans, "<a>text<b>") == []
    assert unread(spans, "<a>tx") is None
    assert unread(spans, "<a") is None  # half of a token


def test_the_template_of_a_tokenizer_without_one(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path / "tokenizer.json")
    found = find_template("auto", tmp_path / "tokenizer.json", TOKENIZER, guarded=True)
    assert found.name == "rwkv" and found.stops == ["\n\nUser:"]
    with pytest.raises(UserError, match="template"):
        find_template("tokenizer", tmp_path / "tokenizer.json", TOKENIZER, guarded=True)


def test_a_model_of_source_and_target_has_no_conversation() -> None:
    with pytest.raises(UserError, match=r"one target to one source.*use scripts/generate.py"):
        Conversation(shaken("encdec", vocab=257), TEMPLATE, GREEDY, MOST)
