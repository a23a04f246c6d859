"""Conversations and answered prompts as documents of which only the answers are learned.

A conversation is the `messages` of OpenAI's format, the `conversations` of ShareGPT's, an
`instruction` with its `output` as Alpaca has them, or the two fields that `data.prompt` and
`data.answer` name. A chat template (`data.readers.chat_templates`) says how it is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from conf.schema import DataConf
from core.errors import UserError, shown
from data.documents import Document
from data.readers.chat_templates import ANSWERS, Span, Turn, template_of
from data.readers.shapes import CONVERSATIONS, BadRecord, Record, TextShape, fields_of, utf8

ROLES = {
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "bot", "model", "bing", "bard"), ANSWERS),
    "developer": "system",
}
"""Words that data sets have for who speaks."""


class ConversationShape:
    """A conversation, written by a chat template; what the assistant says is learned."""

    def __init__(self, conf: DataConf) -> None:
        """Raises `UserError` for a template that cannot be had."""
        if conf.template and not conf.answer:
            raise UserError(
                "data.chat writes conversations: data.template is for texts, and for the prompts "
                "of data.answer"
            )
        self._template = template_of(conf)
        self._pair = PairShape(conf) if conf.prompt or conf.answer else None
        self.fields = None if self._pair is None else self._pair.fields

    def document(self, record: Record) -> Document:
        """Raises `BadRecord` for what is no conversation, or has no answer."""
        turns = turns_of(record.value) if self._pair is None else self._pair.turns(record.value)
        answers = [turn for turn in turns if turn.role == ANSWERS and turn.text.strip()]
        if not any(turn.learned for turn in answers):
            weights = " that has a weight" if answers else ""
            raise BadRecord(f"a conversation without an answer{weights}")
        return document_of(self._template.spans(turns), record.place)


class PairShape:
    """A prompt, which is read, and its answer, which is learned."""

    def __init__(self, conf: DataConf) -> None:
        """Raises `UserError` if one of the two is not named."""
        if not conf.answer or not (conf.prompt or conf.template):
            raise UserError(
                "data.prompt and data.answer name the two fields of a pair: give both "
                "(data.template may write the prompt, instead of data.prompt)"
            )
        if conf.prompt and conf.template:
            raise UserError("data.prompt and data.template both name the prompt: leave one out")
        prompt = replace(conf, field=conf.prompt) if conf.prompt else conf
        self._prompt = TextShape(prompt)
        self._answer = TextShape(replace(conf, field=conf.answer, template=""))
        self.fields: Sequence[str] = [*self._prompt.fields, *self._answer.fields]

    def document(self, record: Record) -> Document:
        """Both, one after the other. Raises `BadRecord` if one is missing, or nothing is said."""
        prompt, answer = self.turns(record.value)
        return document_of([Span(prompt.text, False), Span(answer.text, True)], record.place)

    def turns(self, value: dict[str, Any]) -> list[Turn]:
        """The pair as a conversation. Raises `BadRecord`."""
        answer = self._answer.text(value)
        if not answer:
            raise BadRecord(f"the answer in {self._answer.fields[0]!r} is empty")
        return [Turn("user", self._prompt.text(value)), Turn(ANSWERS, answer)]


def turns_of(value: dict[str, Any]) -> list[Turn]:
    """The turns of a record in one of the formats. Raises `BadRecord` for any other."""
    for name in CONVERSATIONS:
        if name in value:
            messages = value[name]
            if not isinstance(messages, list) or not messages:
                raise BadRecord(f"the field {name!r} is no list of messages")
            return [_turn(number, message) for number, message in enumerate(messages, start=1)]
    if "instruction" in value and "output" in value:
        system, *asked = (
            _said(f"the field {key!r}", value.get(key) or "")
            for key in ("system", "instruction", "input")
        )
        answer = _said("the field 'output'", value["output"])
        turns = [Turn("user", "\n".join(filter(None, asked))), Turn(ANSWERS, answer)]
        return [Turn("system", system), *turns] if system else turns
    raise BadRecord(
        f"has none of {', '.join(CONVERSATIONS)}, and no instruction with an output; the fields "
        f"it has: {fields_of(value)} (data.prompt and data.answer name others)"
    )


def _turn(number: int, message: Any) -> Turn:
    if not isinstance(message, dict):
        raise BadRecord(f"message {number} is no object")
    role = message.get("role", message.get("from"))
    if not isinstance(role, str) or not role:
        raise BadRecord(f"message {number} does not say whose it is ('role' or 'from')")
    text = message.get("content", message.get("value"))
    if isinstance(text, list):  # of parts, as for models that read pictures too
        kinds = [part.get("type") if isinstance(part, dict) else None for part in text]
        if any(kind != "text" for kind in kinds):
            other = next(kind for kind in kinds if kind != "text")
            raise BadRecord(f"message {number} has a part that is no text ({shown(other)})")
        text = "".join(_said(f"message {number}", part.get("text")) for part in text)
    weight = message.get("weight")
    if weight not in (None, 0, 1):
        raise BadRecord(
            f"message {number} has the weight {shown(weight)}, and only 0 and 1 are read"
        )
    role = ROLES.get(role.lower(), role.lower())
    return Turn(role, _said(f"message {number}", text), weight != 0)


def _said(what: str, text: Any) -> str:
    if not isinstance(text, str):
        raise BadRecord(f"{what} is no text ({'null' if text is None else type(text).__name__})")
    return text


def document_of(spans: Iterable[Span], place: str) -> Document:
    """The document that the spans are, one after the other."""
    parts: list[bytes] = []
    unlearned: list[tuple[int, int]] = []
    special: list[tuple[int, int]] = []
    end = 0
    for span in spans:
        parts.append(utf8(span.text))
        first, end = end, end + len(parts[-1])
        if first == end:
            continue
        if not span.learned and unlearned and unlearned[-1][1] == first:
            unlearned[-1] = (unlearned[-1][0], end)
        elif not span.learned:
            unlearned.append((first, end))
        if span.special:
            special.append((first, end))
    content = b"".join(parts)
    return Document("", lambda: (content,), place, None, tuple(unlearned), tuple(special))
