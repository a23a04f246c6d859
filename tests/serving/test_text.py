"""Text in pieces, and where it stops."""

from __future__ import annotations

import pytest

from data.tokenizers import byte_tokenizer
from serving.text import AnswerText

TOKENIZER = byte_tokenizer()


def pieces(text: str, *stops: str) -> tuple[list[str], bool]:
    answer = AnswerText(TOKENIZER, TOKENIZER.encode("Q: "), stops)
    found = [answer.push(token) for token in TOKENIZER.encode(text)]
    return [*found, answer.flush()], answer.stopped


@pytest.mark.parametrize(
    ("text", "stops", "expected"),
    [
        ("alpha beta", (), "alpha beta"),
        ("alpha beta", ("beta",), "alpha "),
        ("alpha bet", ("beta",), "alpha bet"),  # never came
        ("aab", ("ab",), "a"),
        ("ababac", ("abac",), "ab"),
        ("one\n\ntwo", ("two", "\n\n"), "one"),
        ("größer", ("ß",), "grö"),
        ("x", ("",), "x"),
    ],
)
def test_an_answer_ends_where_a_stop_string_begins(
    text: str, stops: tuple[str, ...], expected: str
) -> None:
    found, stopped = pieces(text, *stops)
    assert "".join(found) == expected
    assert stopped == (text != expected)


def test_nothing_is_shown_that_is_taken_back() -> None:
    found, _ = pieces("the sto stop it", "stop")
    shown = ""
    for piece in found:
        shown += piece
        assert "the sto stop it".startswith(shown) and "stop" not in shown
    assert shown == "the sto "
    assert found[:5] == ["t", "h", "e", " ", ""]  # the s may begin it
