"""All prompts of a file are answered as each alone, however often that is interrupted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.errors import UserError
from data.tokenizers import byte_tokenizer
from models.decoding.settings import Sampling
from serving.batch_file import Job, answer_file
from serving.engine import Engine
from tests.registered_models import shaken
from tests.serving.opened import VOCAB

TOKENIZER = byte_tokenizer()
PROMPTS = [{"prompt": "ab" * n, "id": n} for n in range(40)] + [{"prompt": "\u00fc", "id": "last"}]


def engine(name: str = "rwkv4") -> Engine:
    return Engine(shaken(name, vocab=VOCAB).eval())


@pytest.fixture
def job(tmp_path: Path) -> Job:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    return Job(path, tmp_path / "folder" / "out.jsonl", 8, Sampling(temperature=0.7, seed=3))


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_line_has_its_answer_in_its_place(job: Job) -> None:
    heard: list[tuple[int, int]] = []
    assert answer_file(job, engine(), TOKENIZER, lambda *said: heard.append(said)) == 0
    found = rows(job.out)
    assert [{**row, "answer": None} for row in found] == [
        {**row, "answer": None} for row in PROMPTS
    ]
    assert heard == [(number + 1, len(PROMPTS)) for number in range(len(PROMPTS))]
    assert {row["answer"]["tokens"] for row in found if row["answer"]["reason"] == "length"} == {8}
    assert [path.name for path in job.out.parent.iterdir()] == ["out.jsonl"]
    alone = job.prompts.with_name("alone.jsonl")
    alone.write_text(json.dumps(PROMPTS[7]) + "\n")
    seventh = Sampling(temperature=0.7, seed=3 + 7)
    answer_file(Job(alone, alone.with_name("x"), 8, seventh), engine(), TOKENIZER)
    assert rows(alone.with_name("x")) == [found[7]]


def test_a_killed_process_is_gone_on_from(job: Job) -> None:
    other = replace(job, out=job.out.with_name("whole.jsonl"))
    answer_file(other, engine(), TOKENIZER)

    def interrupt(done: int, of: int) -> None:
        if done in (1, 20):
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            answer_file(job, engine(), TOKENIZER, interrupt)
        assert not job.out.exists()
        with job.aside.open("ab") as file:
            file.write(b'{"line": 3, "row": {"pro')  # as it stops
    before = len(rows_of(job.aside))
    heard: list[int] = []
    answer_file(job, engine(), TOKENIZER, lambda done, of: heard.append(done))
    assert heard[0] == before + 1 > 20
    assert job.out.read_bytes() == other.out.read_bytes()
    assert not job.aside.exists()


def rows_of(aside: Path) -> list[bytes]:
    """Answers, without the first line and what follows the last newline."""
    return aside.read_bytes().split(b"\n")[1:-1]


def test_what_belongs_to_another_job_is_refused(job: Job) -> None:
    def interrupt(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer_file(job, engine(), TOKENIZER, interrupt)
    kept = job.aside.read_bytes()
    for other, model in ((replace(job, tokens=9), "rwkv4"), (job, "rwkv7"),
                         (replace(job, sampling=Sampling()), "rwkv4")):  # fmt: skip
        with pytest.raises(UserError, match="belongs to other prompts, weights or settings"):
            answer_file(other, engine(model), TOKENIZER)
    assert job.aside.read_bytes() == kept
    job.aside.write_bytes(kept + b"{}\n")
    with pytest.raises(UserError, match="is damaged; delete it"):
        answer_file(job, engine(), TOKENIZER)
    job.out.touch()
    with pytest.raises(UserError, match="is there already"):
        answer_file(job, engine(), TOKENIZER)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 1: not JSON"),
        ('{"prompt": "a"}\n{"text": "b"}\n', 'line 2: has no text "prompt"'),
        ('{"prompt": "a"}\n{"prompt": 7}\n', 'line 2: has no text "prompt"'),
        ("[1]\n", "line 1: a list, not an object"),
    ],
)
def test_prompts_that_are_none_are_one_message(job: Job, text: str, message: str) -> None:
    job.prompts.write_text(text)
    with pytest.raises(UserError, match=message):
        answer_file(job, engine(), TOKENIZER)
    assert not job.out.parent.exists()


def test_one_prompt_that_cannot_be_answered_stops_no_other(job: Job) -> None:
    job.prompts.write_text(
        '{"prompt": "a"}\n{"prompt": "' + "b" * 100_000 + '"}\n{"prompt": "c"}\n'
    )
    assert answer_file(job, engine("gpt"), TOKENIZER) == 1
    first, second, third = (row["answer"] for row in rows(job.out))
    assert first["reason"] and third["reason"] and "the model reads at most" in second["error"]
