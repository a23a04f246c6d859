"""Continuing every prompt of a file, many at a time, and going on where a killed process stopped.

Answers are added to a file beside the one to write, in the order in which they end; once all are
there, they are written in that of the prompts, and the file is renamed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from core.errors import UserError
from core.files import appending, atomic, sha256
from core.parsing import LONGEST_LINE, parse_json, read_lines, regular
from data.text import TextTokenizer
from models.decoding.program import MOST_ROWS
from models.decoding.settings import Sampling
from serving.engine import Engine
from serving.requests import Drawn, Failed, Finished, Request
from serving.text import AnswerText

AT_ONCE = 2 * MOST_ROWS
"""Prompts that are being read or answered at a time."""
MOST_ROW = 64 * LONGEST_LINE  # bytes of an answer with its prompt
FIELD = "answer"
"""What is added to each record: `text`, `tokens` and `reason`, or `error`."""


@dataclass(frozen=True)
class Job:
    """What is done with which file."""

    prompts: Path
    """JSON lines, each with a text `prompt`; its other fields are passed on."""
    out: Path
    tokens: int
    """New ones at most."""
    sampling: Sampling
    """Its seed is that of the first line; the next line has the next."""

    @property
    def aside(self) -> Path:
        """Where the answers are until all are there."""
        return self.out.with_name(f"{self.out.name}.part")


@dataclass
class Going:
    """An answer on its way."""

    line: int
    record: dict[str, Any]
    text: AnswerText
    so_far: str = ""
    tokens: int = 0


def answer_file(
    job: Job,
    engine: Engine,
    tokenizer: TextTokenizer,
    told: Callable[[int, int], None] = lambda done, of: None,
) -> int:
    """Write the answers and return how many prompts had none; `told` hears of each that is done.

    Raises `UserError` if the prompts cannot be read, the file is there already, or what is aside
    belongs to another job.
    """
    if os.path.lexists(job.out):
        raise UserError(f"out={job.out}: is there already; name another file, or delete it")
    total = sum(1 for _ in _prompts(job.prompts))
    identity = _identity(job, engine, tokenizer)
    job.out.parent.mkdir(parents=True, exist_ok=True)
    with appending(job.aside) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{job.aside}: another process is writing it") from None
        done = _done(job.aside, identity)
        if not done:
            file.truncate(0)
            _add(file, {"job": identity})
        _answer(job, engine, tokenizer, file, done, lambda: told(len(done), total))
        file.flush()
        os.fsync(file.fileno())
    failed = 0
    with regular(job.aside) as source, atomic(job.out) as target:
        for line in sorted(done):
            source.seek(done[line])
            row = json.loads(source.readline())
            failed += "error" in row["row"][FIELD]
            target.write(_line(row["row"]))
    job.aside.unlink()
    return failed


def _answer(
    job: Job,
    engine: Engine,
    tokenizer: TextTokenizer,
    file: BinaryIO,
    done: dict[int, int],
    told: Callable[[], None],
) -> None:
    """Answer what is not done yet. A row is in the file when it is in `done`, with its place."""
    ends = frozenset() if tokenizer.end_of_text is None else frozenset({tokenizer.end_of_text})
    going: dict[int, Going] = {}

    def finish(one: Going, answer: dict[str, Any]) -> None:
        place = _add(file, {"line": one.line, "row": {**one.record, FIELD: answer}})
        done[one.line] = place
        told()

    def hear(events: list[Any]) -> None:
        for event in events:
            one = going[event.id]
            if isinstance(event, Drawn):
                one.tokens += 1
                one.so_far += one.text.push(event.token)
            elif isinstance(event, Finished):
                text = one.so_far + one.text.flush()
                finish(going.pop(event.id), {
                    "text": text, "tokens": one.tokens, "reason": event.reason,
                })  # fmt: skip
            elif isinstance(event, Failed):
                if event.status >= 500:  # another prompt would fare no better
                    raise UserError(f"{job.prompts}, line {one.line}: {event.message}")
                finish(going.pop(event.id), {"error": event.message})

    for line, record in _prompts(job.prompts):
        if line in done:
            continue
        try:
            prompt = tokenizer.encode(record["prompt"])
        except UserError as error:
            finish(Going(line, record, AnswerText(tokenizer, [])), {"error": str(error)})
            continue
        prompt = prompt or [tokenizer.end_of_text or 0]
        going[line] = Going(line, record, AnswerText(tokenizer, prompt))
        sampling = replace(job.sampling, seed=(job.sampling.seed + line - 1) % 2**32)
        hear(engine.add(Request(line, tuple(prompt), job.tokens, sampling, ends)))
        while engine.sequences >= AT_ONCE:
            hear(engine.step())
    while engine.sequences:
        hear(engine.step())


def _prompts(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Records with their lines, from 1. Raises `UserError`."""
    for line in read_lines(path):
        if line.value is None:
            raise UserError(f"{path}, line {line.number}: {line.problem}")
        if not isinstance(line.value.get("prompt"), str):
            raise UserError(f'{path}, line {line.number}: has no text "prompt"')
        yield line.number, line.value


def _identity(job: Job, engine: Engine, tokenizer: TextTokenizer) -> str:
    """A digest of all that decides the answers."""
    what = [sha256(job.prompts), engine.digest, tokenizer.fingerprint, job.tokens]
    return hashlib.sha256(json.dumps([*what, asdict(job.sampling)]).encode()).hexdigest()


def _done(aside: Path, identity: str) -> dict[int, int]:
    """Lines that are answered, and the places of their rows. A half-written row is cut off."""
    done: dict[int, int] = {}
    place = 0
    try:
        with regular(aside) as file:
            while (content := file.readline(MOST_ROW)).endswith(b"\n"):
                value = parse_json(content.decode())
                if not place and value["job"] != identity:
                    raise UserError(
                        f"{aside}: belongs to other prompts, weights or settings; delete it, or "
                        "name another out="
                    )
                if place:
                    done[int(value["line"])] = place
                place += len(content)
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{aside}: is damaged; delete it") from None
    os.truncate(aside, place)
    return done


def _add(file: BinaryIO, row: dict[str, Any]) -> int:
    """Add a row to a file and return its place."""
    place = file.seek(0, os.SEEK_END)
    file.write(_line(row))
    file.flush()
    return place


def _line(row: dict[str, Any]) -> bytes:
    """A line of JSON; letters are escaped only where UTF-8 has none for one of them."""
    try:
        return json.dumps(row, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(row).encode() + b"\n"
