"""Conversations and answered prompts: what is read, what is learned, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conf.schema import DataConf
from core.errors import UserError
from data import corpora
from data.documents import Document
from data.readers.chat_templates import Turn
from data.readers.conversations import ConversationShape, PairShape, turns_of
from data.readers.records import shape_of
from data.readers.shapes import BadRecord, Record

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello,\n\n\nyou?\r\n"},
    {"role": "assistant", "content": "Hi.\n\nHow are you?"},
    {"role": "user", "content": "Fine."},
    {"role": "assistant", "content": "Good."},
]
SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt"}
SHAREGPT = [{"from": SPEAKERS[m["role"]], "value": m["content"]} for m in MESSAGES]


def conf(**settings: Any) -> DataConf:
    return DataConf(**{"corpus": "jsonl", "chat": "rwkv", **settings})


def learned(document: Document) -> list[str]:
    """What is learned, stretch by stretch."""
    content = b"".join(document.parts())
    edges = [0, *(edge for span in document.unlearned for edge in span), len(content)]
    stretches = zip(edges[::2], edges[1::2], strict=True)
    return [content[first:end].decode() for first, end in stretches if first < end]


def shaped(value: dict[str, Any], **settings: Any) -> Document:
    return shape_of(conf(**settings)).document(Record("here:1", value))


@pytest.mark.parametrize("value", [{"messages": MESSAGES}, {"conversations": SHAREGPT}])
def test_rwkvs_words(value: dict[str, Any]) -> None:
    document = shaped(value)
    assert b"".join(document.parts()).decode() == (
        "System: Be brief.\n\nUser: Hello,\nyou?\n\nAssistant: Hi.\n\nHow are you?\n\n"
        "User: Fine.\n\nAssistant: Good.\n\n"
    )
    assert learned(document) == [" Hi.\n\nHow are you?\n\n", " Good.\n\n"]
    assert (document.name, document.place, document.special) == ("", "here:1", ())


def test_chatml_learns_the_end_of_a_turn() -> None:
    document = shaped({"messages": MESSAGES[1:]}, chat="chatml")
    content = b"".join(document.parts())
    assert content.decode().endswith(
        "<|im_start|>user\nFine.<|im_end|>\n<|im_start|>assistant\nGood.<|im_end|>\n"
    )
    assert learned(document) == ["Hi.\n\nHow are you?<|im_end|>", "Good.<|im_end|>"]
    names = {content[first:end].decode() for first, end in document.special}
    assert names == {"<|im_start|>", "<|im_end|>"} and len(document.special) == 8


def test_alpaca() -> None:
    value = {"instruction": "Add.", "input": "1 2", "output": "3", "text": "unused"}
    assert [*turns_of(value)] == [Turn("user", "Add.\n1 2"), Turn("assistant", "3")]
    assert turns_of({"instruction": "Sing.", "input": "", "output": "La"})[0].text == "Sing."
    assert turns_of({**value, "system": "Be"})[0] == Turn("system", "Be")


def test_a_pair_is_its_two_fields_and_nothing_else() -> None:
    value = {"question": "2+2=", "response": "4 ü"}
    document = shaped(value, chat="", prompt="question", answer="response")
    assert b"".join(document.parts()).decode() == "2+2=4 ü" and learned(document) == ["4 ü"]
    written = shaped(value, chat="", template=r"Q: {question}\nA: ", answer="response")
    assert b"".join(written.parts()).decode() == "Q: 2+2=\nA: 4 ü"
    chat = shaped(value, prompt="question", answer="response")
    assert b"".join(chat.parts()).decode() == "User: 2+2=\n\nAssistant: 4 ü\n\n"
    assert PairShape(conf(prompt="question", answer="response")).fields == ["question", "response"]


def test_parts_of_a_message_are_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert turns_of({"messages": [{"role": "User", "content": parts}]})[0] == Turn("user", "ab")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({"messages": MESSAGES[:2]}, "without an answer"),
        ({"messages": [*MESSAGES[:2], {"role": "assistant", "content": " "}]}, "without an answer"),
        ({"messages": []}, "no list of messages"),
        ({"messages": "hello"}, "no list of messages"),
        ({"messages": ["hello"]}, "message 1 is no object"),
        ({"messages": [{"content": "a"}]}, "message 1 does not say whose it is"),
        ({"messages": [*MESSAGES, {"role": "assistant", "content": None}]}, "message 6 is no text"),
        ({"messages": [{"role": "tool", "content": "1"}, MESSAGES[2]]}, "no word for tool"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "message 1 has a part that is no text",
        ),
        ({"text": "a", "id": 3}, r"the fields it has: text, id \(data.prompt"),
        ({"instruction": "a", "output": 3}, "'output' is no text"),
    ],
)
def test_what_is_no_conversation_says_why(value: dict[str, Any], why: str) -> None:
    with pytest.raises(BadRecord, match=why):
        ConversationShape(conf()).document(Record("here:1", value))


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({"q": "1"}, "has no field 'a'"),
        ({"q": "1", "a": ""}, "the answer in 'a' is empty"),
        ({"q": None, "a": "2"}, "'q' is no text"),
    ],
)
def test_what_is_no_pair_says_why(value: dict[str, Any], why: str) -> None:
    with pytest.raises(BadRecord, match=why):
        shaped(value, chat="", prompt="q", answer="a")


@pytest.mark.parametrize("settings", [{"prompt": "q"}, {"answer": "a"}])
def test_half_a_pair_is_refused(settings: dict[str, str]) -> None:
    with pytest.raises(UserError, match="give both"):
        shape_of(conf(chat="", **settings))


def test_a_bad_line_is_named_or_left_out(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "talks.jsonl"
    good, bad = {"messages": MESSAGES}, {"messages": MESSAGES[:2]}
    path.write_text("".join(json.dumps(value) + "\n" for value in (good, bad, good)))
    with pytest.raises(UserError, match=rf"^{path}:2: a conversation without an answer"):
        list(corpora.documents(conf(paths=[str(path)])))
    assert len(list(corpora.documents(conf(paths=[str(path)], on_bad="skip")))) == 2
    assert f"left out 1 of 3 records; the first: {path}:2" in capfd.readouterr().err


@pytest.mark.parametrize("field", ["messages", "conversations"])
def test_the_way_to_read_conversations_is_told_where_a_text_is_looked_for(field: str) -> None:
    with pytest.raises(BadRecord) as caught:
        shape_of(DataConf()).document(Record("a:1", {field: []}))
    assert "data.chat=rwkv, or another template, reads conversations" in str(caught.value)


@pytest.mark.parametrize("chat", ["rwkv", "chatml"])
def test_an_answer_of_weight_0_is_only_read(chat: str) -> None:
    first, second = ({"role": "assistant", "content": text} for text in ("No.", "Yes."))
    messages = [MESSAGES[1], {**first, "weight": 0}, MESSAGES[3], {**second, "weight": 1}]
    (said,) = learned(shaped({"messages": messages}, chat=chat))
    assert said.strip().startswith("Yes.")
    for weight, message in ((0, "without an answer that has a weight"), (0.5, "the weight 0.5")):
        with pytest.raises(BadRecord, match=message):
            shaped({"messages": [MESSAGES[1], {**first, "weight": weight}]}, chat=chat)


def test_a_template_that_would_not_be_used_is_refused() -> None:
    for words in ({"prompt": "a", "answer": "b"}, {}):
        with pytest.raises(UserError, match=r"data\.template"):
            shape_of(conf(template="{a}", **words))
    shape_of(conf(template="{a}", answer="b"))
