"""The official runtime (PyPI `rwkv`) as an oracle, in a process of its own.

It chooses between RWKV-7 and the older versions when it is imported, and starting it costs seconds:
ask everything at once.

    python -m tests.oracle QUESTIONS.pt ANSWERS.pt
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Question:
    """What does the official runtime compute from a file?"""

    pth: str
    version: str
    """`rwkv4` to `rwkv7`."""
    tokens: list[int]
    splits: list[list[int]]
    """Lengths of the pieces that the tokens are read in, for each way to read them."""
    greedy: int = 0
    """Tokens to generate after them."""
    states: str = ""
    """A file of tuned states to begin with, as RWKV Runner loads it; empty: the file's own, or
    none."""


@dataclass(frozen=True)
class Answer:
    logits: list[Tensor]
    """`[T, V]`, fp32, for each split."""
    greedy: list[int]


def ask(questions: list[Question]) -> list[Answer]:
    """An answer to each question."""
    answers: dict[int, Answer] = {}
    for newest in (False, True):
        group = {i: q for i, q in enumerate(questions) if (q.version == "rwkv7") is newest}
        if group:
            found = _in_a_process(list(group.values()), newest)
            answers |= dict(zip(group, found, strict=True))
    return [answers[i] for i in range(len(questions))]


def _in_a_process(questions: list[Question], newest: bool) -> list[Answer]:
    switches = {"RWKV_JIT_ON": "0", "RWKV_CUDA_ON": "0", "RWKV_V7_ON": "1" if newest else "0"}
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder, "questions.pt"), Path(folder, "answers.pt")
        torch.save([asdict(question) for question in questions], asked)
        done = subprocess.run(
            [sys.executable, "-m", "tests.oracle", str(asked), str(answered)],
            cwd=ROOT,
            env={**os.environ, **switches, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return [Answer(**answer) for answer in torch.load(answered)]


def _answer(question: Question) -> Answer:
    from rwkv.model import RWKV  # reads the switches

    model: Any = RWKV(question.pth.removesuffix(".pth"), "cpu fp32")
    logits = []
    for split in question.splits:
        state, start, rows = _begin(model, question), 0, []
        for length in split:
            piece = question.tokens[start : start + length]
            out, state = model.forward(piece, state, full_output=True)
            rows.append(out.view(length, -1).clone())
            start += length
        logits.append(torch.cat(rows))
    last, state = model.forward(question.tokens, None)
    greedy: list[int] = []
    for _ in range(question.greedy):
        greedy.append(int(last.argmax()))
        last, state = model.forward(greedy[-1:], state)
    return Answer(logits, greedy)


def _begin(model: Any, question: Question) -> list[Tensor] | None:
    """The state of the runtime: a shift, a matrix and a shift for each layer."""
    if not question.states:
        return None
    tuned, state = torch.load(question.states), []
    for layer in range(len(tuned)):
        matrix = tuned[f"blocks.{layer}.att.time_state"].float()
        if question.version != "rwkv7":
            matrix = matrix.transpose(1, 2)
        shift = torch.zeros(model.args.n_embd)
        state += [shift, matrix.contiguous(), shift.clone()]
    return state


if __name__ == "__main__":
    answers = [asdict(_answer(Question(**question))) for question in torch.load(sys.argv[1])]
    torch.save(answers, sys.argv[2])
