"""The official runtime (PyPI `rwkv`) as an oracle, in a process of its own.

It chooses its version when it is imported and compiles itself, so each question costs seconds: ask
everything about one file at once.

    python -m tests.oracle QUESTION.pt ANSWER.pt
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]


def official_logits(
    pth: Path, version: str, tokens: list[int], splits: list[list[int]], greedy: int = 0
) -> tuple[list[Tensor], list[int]]:
    """What the official runtime computes from a file.

    For each of `splits` (lengths of the pieces that `tokens` are read in), logits `[T, V]`, fp32;
    and `greedy` tokens that continue `tokens`.
    """
    question = {"pth": str(pth), "tokens": tokens, "splits": splits, "greedy": greedy}
    switches = {"RWKV_JIT_ON": "0", "RWKV_CUDA_ON": "0", "OMP_NUM_THREADS": "2"}
    switches |= {"RWKV_V7_ON": "1" if version == "rwkv7" else "0"}
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder, "question.pt"), Path(folder, "answer.pt")
        torch.save(question, asked)
        done = subprocess.run(
            [sys.executable, "-m", "tests.oracle", str(asked), str(answered)],
            cwd=ROOT, env={**os.environ, **switches}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        answer = torch.load(answered)
    return answer["logits"], answer["greedy"]


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    from rwkv.model import RWKV  # reads the switches

    model: Any = RWKV(question["pth"].removesuffix(".pth"), "cpu fp32")
    logits = []
    for split in question["splits"]:
        state, start, rows = None, 0, []
        for length in split:
            piece = question["tokens"][start : start + length]
            out, state = model.forward(piece, state, full_output=True)
            rows.append(out.view(length, -1).clone())
            start += length
        logits.append(torch.cat(rows))
    last, state = model.forward(question["tokens"], None)
    greedy = []
    for _ in range(question["greedy"]):
        greedy.append(int(last.argmax()))
        last, state = model.forward(greedy[-1:], state)
    return {"logits": logits, "greedy": greedy}


if __name__ == "__main__":
    torch.save(_answer(torch.load(sys.argv[1])), sys.argv[2])
